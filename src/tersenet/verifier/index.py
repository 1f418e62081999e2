"""What the index of a file has to be, and its sections of activations and of results."""

import re
from itertools import pairwise
from typing import Any

import numpy as np

from .checks import depth, listed, need, whole

MEMBERS = {
    "sections": list,
    "tensors": list,
    "files": dict,
    "aliases": dict,
    "batch_norm": str,
    "layout": dict,
    "provenance": dict,
}
ROOM = 184  # bytes of results
OUTSIDE = re.compile(r"[\\:\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def check_index(index: Any) -> None:
    """The members of an index, what they are and how deep they are nested."""
    need(set(index) <= set(MEMBERS) and {"sections", "tensors"} <= set(index), "members of the index")
    need(all(isinstance(value, MEMBERS[name]) for name, value in index.items()), "a member of another kind")
    need(all(depth(index.get(name, {})) <= 64 for name in ("aliases", "layout", "provenance")), "nested too deep")
    need(index.get("batch_norm", "pair") in ("pair", "fold"), "batch norm")


def sections_of(index: Any) -> list[tuple[int, str]]:
    """Size and kind of every section."""
    found = []
    for section in index["sections"]:
        if not isinstance(section, list):
            found.append((whole(section, 1), "data"))
            continue
        size, kind, critical = section
        need(isinstance(kind, str) and kind != "data" and isinstance(critical, bool), "a section of unknown form")
        need(critical == (kind == "activations"), f"a section {kind!r} that is or is not critical")
        need(kind != "results" or size == ROOM, "results of another size")
        found.append((whole(size, 1), kind))
    kinds = [kind for _, kind in found]
    need(kinds.count("activations") <= 1 and "results" not in kinds[:-1], "a section twice, or results not at the end")
    return found


def check_layout(layout: dict[str, Any], tensors: list[str], attachments: list[str]) -> None:
    """Names of files, and which tensors they hold."""
    shards, metadata = layout.get("shards", {}), layout.get("metadata", {})
    need(isinstance(shards, dict) and isinstance(metadata, dict), "a layout of unknown form")
    texts = [text for each in metadata.values() for text in (each.values() if isinstance(each, dict) else [None])]
    need(all(isinstance(text, str) for text in texts), "metadata that is no text")
    files = [*shards, *attachments]
    need(len(set(files)) == len(files), "a file named twice")
    for name in files:
        parts = name.split("/")
        sizes = [len(part.encode()) for part in parts]
        need(len(name.encode()) <= 1024 and len(parts) <= 32 and max(sizes) <= 255, f"the long name {name!r:.80}")
        need(all(set(part) - set(". ") for part in parts) and not OUTSIDE.search(name), f"the name {name!r:.80}")
        need(not any(other.startswith(name + "/") for other in files), f"{name!r:.80}, a file and a folder")
    need(all(re.search(r"\A[^/]*\.(safetensors|bin)\Z", shard) for shard in shards), "the name of a shard")
    held = [name for names in shards.values() for name in listed(names)]
    need(not shards or sorted(held) == sorted(tensors), "shards of other tensors")


def activations(value: Any) -> dict[str, tuple[str, float, list[int]]]:
    """Layer -> kind, scale and levels."""
    found = {}
    for path, (kind, scale, levels) in value.items():
        need(kind in ("integers", "points") and isinstance(scale, float), f"the input of {path!r:.80}")
        with np.errstate(over="ignore"):
            need(0 < np.float32(scale) < np.inf, f"the scale of the input of {path!r:.80}")
        need(len(levels) == 2 or (kind == "points" and len(levels) > 2), f"levels of the input of {path!r:.80}")
        numbers = [whole(level, -(2**31), 2**31 - 1) for level in levels]
        need(all(a < b for a, b in pairwise(numbers)), f"levels of the input of {path!r:.80}")
        found[path] = (kind, scale, numbers)
    return found


def results(value: Any) -> list[Any]:
    """What was measured; an empty list before."""
    members = listed(value)
    if not members:
        return []
    need(len(members) >= 9, "results of fewer than 9 members")
    of, split, metric, n, score, reference, drop, worst, data = members[:9]
    need(all(isinstance(text, str) for text in (of, split, metric, data)), "results without a name")
    whole(n, 1)
    numbers = [*listed(score), reference, *([] if drop is None else listed(drop))]
    need(len(numbers) in (4, 7), "intervals of results")
    if worst is not None:
        need(len(listed(worst)) == 2, "the worst class")
        whole(worst[0])
        numbers.append(worst[1])
    need(all(each is None or type(each) in (int, float) for each in numbers), "a result that is no number")
    return members
