"""What is around the weights in a pickled checkpoint: where the state dict lies, and what lies beside it.

`layout` of a compressed file says it in JSON: `key`, the way to the state dict, and `content`, all that is JSON
beside it. What JSON does not have is tagged: `{"!tuple": [...]}`, `{"!dict": [[key, value], ...]}` (keys that are no
text, or not in order), `{"!float": "inf"}`.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError

WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "params", "weights"),
    *("generator", "model_dict", "net_state_dict", "model_weights", "shadow"),
)
DEEP = 16  # levels of content that are kept
LONG = 1 << 20  # bytes of content that are kept
MANY = 1000  # state dicts in one checkpoint
Way = tuple[str, ...]


def find_state(content: Any, key: str | None) -> tuple[Way, list[Way]]:
    """The way to the state dict in `content`, and to other networks that lie beside it.

    `key` chooses one ("ema", "model.state_dict"). Without it: averaged weights (a key with the word "ema") go before
    raw ones, known keys before others, and what is left must be one.

    **Raises** `CheckpointError` if there is none, or if there are several and `key` does not say which.
    """
    found = _states(content, 0, {})
    way: Way = () if key is None else _walk(content, key, found)
    below = [(*way, *path) for path in _states(at(content, way), 0, {})] if way else found
    chosen = _choose(below, content, way)
    return chosen, [path for path in found if path != chosen]


def at(content: Any, path: Way) -> Any:
    """What lies at `path`."""
    for key in path:
        content = content[key]
    return content


def _walk(content: Any, key: str, found: list[Way]) -> Way:
    """The way that `key` names: keys with dots between them."""
    way: Way = ()
    rest = key
    while rest:
        names = [name for name in content if isinstance(name, str)] if isinstance(content, dict) else []
        step = max((name for name in names if rest == name or rest.startswith(name + ".")), key=len, default=None)
        if step is None:
            raise CheckpointError(f'there is no key="{key}" in it; it has {_listed(found) or "no networks"}')
        way, content, rest = (*way, step), content[step], rest[len(step) + 1 :]
    return way


def _states(content: Any, depth: int, seen: dict[tuple[int, int], list[Way]]) -> list[Way]:
    """Ways to everything that looks like a state dict, not deeper than a few levels; `seen` are those known."""
    if not isinstance(content, dict) or depth > 4 or ("state" in content and "param_groups" in content):
        return []
    if (id(content), depth) in seen:
        return seen[id(content), depth]
    inner: list[Way] = []
    for key, value in content.items():
        if isinstance(value, dict) and isinstance(key, str) and "optim" not in key.lower():
            inner += [(key, *path) for path in _states(value, depth + 1, seen)]
            if len(inner) > MANY:
                raise CheckpointError(f"it holds more than {MANY} networks: save model.state_dict() alone")
    direct = any(isinstance(value, Tensor) and value.is_floating_point() for value in content.values())
    if direct and not any(path[0] in WRAPPERS or is_average(path) for path in inner):
        inner = [()]
    seen[id(content), depth] = inner
    return inner


def is_average(path: Way) -> bool:
    """Whether the keys on the way name averaged weights.

    >>> is_average(("state_dict_ema",)), is_average(("schema", "model"))
    (True, False)
    """
    return any("ema" in re.split(r"[^a-z]+", key.lower()) for key in path)


def _choose(found: list[Way], content: Any, way: Way) -> Way:
    """The one of `found`, which all begin with `way`, that is read."""
    average = [path for path in found if is_average(path[len(way) :])]
    known = [path for path in found if path not in average and all(key in WRAPPERS for key in path[len(way) :])]
    for group in (average, known, found):
        if len(group) == 1:
            path = group[0]
            short = [raw for raw in known if path in average and len(at(content, path)) < len(at(content, raw))]
            if short:
                raise CheckpointError(
                    f"the averaged weights {named(path)} lack tensors that {named(short[0])} has: choose with "
                    f'key="{".".join(short[0])}" or key="{".".join(path)}"'
                )
            return path
        if group:
            raise CheckpointError(
                f'it holds {len(group)} networks ({_listed(group)}): choose with key="{".".join(group[0])}"'
            )
    inner = at(content, way)
    if isinstance(inner, dict) and any(isinstance(value, Tensor) for value in inner.values()):
        return way
    has = ", ".join(map(str, list(inner)[:8])) if isinstance(inner, dict) else type(inner).__name__
    raise CheckpointError(f"no state dict found in it (it has: {has or 'nothing'}); save model.state_dict()")


def _listed(paths: list[Way]) -> str:
    more = f" and {len(paths) - 8} more" if len(paths) > 8 else ""
    return ", ".join(named(path) for path in paths[:8]) + more


def named(path: Way) -> str:
    """The way as a person reads it: `"model.state_dict"`."""
    return f'"{".".join(path)}"' if path else "the top level"


def state_at(content: Any, path: Way) -> dict[str, Tensor]:
    """The tensors at `path`. **Raises** `CheckpointError` if networks are nested in it or names are no text."""
    state = at(content, path)
    nested = [str(name) for name, value in state.items() if _states(value, 1, {})]
    if nested or any(isinstance(v, Tensor) and not isinstance(name, str) for name, v in state.items()):
        raise CheckpointError(
            f"a state dict maps names to tensors, this has {', '.join(nested[:5]) or 'names that are no text'} as "
            f'well; save model.state_dict() alone, or choose with key="{nested[0] if nested else "..."}"'
        )
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def envelope(content: Any, path: Way) -> tuple[dict[str, Any], dict[Way, str]]:
    """The layout that `wrap` needs, and what of `content` cannot be kept, and why: `{("optimizer",): "tensors"}`.

    Nothing is needed for a plain state dict. An entry is kept whole or not at all.
    """
    dropped: dict[Way, str] = {}
    room = [LONG]

    def pruned(node: Mapping[Any, Any], rest: Way, way: Way) -> dict[Any, Any]:
        kept: dict[Any, Any] = {}
        for key, value in node.items():
            if rest and key == rest[0]:
                kept[key] = pruned(value, rest[1:], (*way, key))
            elif rest or not isinstance(value, Tensor):
                try:
                    encoded = _encode({key: value}, [room[0] // 4], DEEP)
                    size = len(json.dumps(encoded, ensure_ascii=False).encode())
                    if size > room[0]:
                        raise _NotKeptError("too long")
                    room[0] -= size
                    kept[key] = value
                except _NotKeptError as why:
                    dropped[(*way, str(key)[:60])] = str(why)
        return kept

    tree = pruned(content, path, ())
    if not path and not tree:
        return {}, dropped
    return {"key": list(path), "content": _encode(tree, [LONG], 2 * DEEP)}, dropped


def wrap(layout: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[Any, Any]:
    """`state` in the wrapping that `layout` tells. **Raises** `ValueError` if that is no wrapping of tersenet."""
    key = layout.get("key", [])
    try:
        tree = _decode(layout.get("content", {}), 3 * DEEP)
        if not (isinstance(key, list) and all(isinstance(step, str) for step in key) and isinstance(tree, dict)):
            raise TypeError("no keys")
        node = at(tree, tuple(key))
        if not isinstance(node, dict) or set(node) & set(state):
            raise TypeError("no place for the weights")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"a layout that does not tell where the weights go ({error}; safetensors can be written)"
        ) from error
    node.update(state)
    return tree


class _NotKeptError(Exception):
    """Why something cannot be kept."""


def _encode(value: Any, room: list[int], depth: int) -> Any:
    """`value` as JSON, of at most `room[0]` parts. **Raises** `_NotKeptError`."""
    room[0] -= 1
    if room[0] < 0 or depth < 0:
        raise _NotKeptError("too long" if depth >= 0 else "too deep")
    if isinstance(value, Tensor):
        raise _NotKeptError("tensors")
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"!float": repr(value)}
    if isinstance(value, str) and value == value.encode(errors="replace").decode():
        return value
    if type(value) is list:
        return [_encode(each, room, depth - 1) for each in value]
    if type(value) in (tuple, torch.Size):
        return {"!tuple": [_encode(each, room, depth - 1) for each in value]}
    if isinstance(value, dict):
        pairs = [(_encode(k, room, depth - 1), _encode(v, room, depth - 1)) for k, v in value.items()]
        keys = [key for key, _ in pairs]
        if all(isinstance(key, str) and not key.startswith("!") for key in keys) and keys == sorted(keys):
            return dict(pairs)
        return {"!dict": [list(pair) for pair in pairs]}
    raise _NotKeptError(type(value).__name__)


def _decode(value: Any, depth: int) -> Any:
    """What `_encode` was given. **Raises** `ValueError` or `TypeError` for anything else."""
    if depth < 0:
        raise ValueError("too deep")
    if isinstance(value, list):
        return [_decode(each, depth - 1) for each in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value)) if len(value) == 1 else ""
    if tag == "!tuple":
        return tuple(_decode(each, depth - 1) for each in value[tag])
    if tag == "!dict":
        return {_decode(key, depth - 1): _decode(each, depth - 1) for key, each in value[tag]}
    if tag == "!float":
        return float(value[tag])
    return {key: _decode(each, depth - 1) for key, each in value.items()}
