"""Names in a checkpoint and names in a network: prefixes that wrappers put there, and tensors left out.

A prefix is taken away where it is unambiguous: `_orig_mod.`, `_fsdp_wrapped_module.` and `_checkpoint_wrapped_module.`
anywhere (torch alone makes such names), `module.` (data parallel) in front of every name, and with the network's code
the one prefix without which its names are all there (Lightning's `model.`).

`layout` of a compressed file says in JSON how names were: `prefixes` maps the path of a module to what followed
it (`{"": "module.", "layer1": "_fsdp_wrapped_module."}`), `renamed` the names for which that does not hold.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import xxhash
from torch import Tensor, nn

from ..core.method import Facts, TensorSource
from ..core.model import TensorSpec, tied_names
from ..errors import CheckpointError
from .transformers_names import names_in

WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
LONGEST = 1000  # characters that prefixes may add to a name
Source = TypeVar("Source", bound=TensorSource)
BUFFERS = (
    *("position_ids", "relative_position_index", "inv_freq", "freqs_cis", "cos_cached", "sin_cached"),
    *("masked_bias", "causal_mask", "attn_mask"),
    *("total_ops", "total_params"),
)


@dataclass(frozen=True)
class RenamedSource:
    """Tensors of another source under other names (`originals`: new name -> name there), some left out."""

    source: TensorSource
    originals: Mapping[str, str]
    specs: Mapping[str, TensorSpec]
    aliases: Mapping[str, str]
    layout: Mapping[str, Any]

    @property
    def attachments(self) -> Mapping[str, bytes]:
        return self.source.attachments

    @property
    def facts(self) -> Facts:
        return self.source.facts

    def read(self, name: str) -> Tensor:
        """The tensor called `name` now."""
        original = self.originals[name]
        return self.source.read(self.source.aliases.get(original, original))

    def digest(self) -> str:
        """xxh3-128 of the source's hash and of the names."""
        names = "\n".join(f"{new}\0{old}" for new, old in self.originals.items())
        return xxhash.xxh3_128_hexdigest(f"{self.source.digest()}\n{names}".encode())


def renamed(
    source: Source,
    module: nn.Module | None,
    strip_prefix: str | None,
    ignore_keys: tuple[str, ...],
    common: tuple[str, ...],
) -> "tuple[Source | RenamedSource, str]":
    """`source` with the names that the network knows, and a line that says what was done ("": nothing).

    `common` prefixes are taken away where they stand in front of every name; `strip_prefix` is taken away instead of
    what is detected ("": nothing is). Tensors whose name in the source a glob of `ignore_keys` matches are left out,
    and with `module` the buffers that it does not have: those that it has as non-persistent buffers, those of integers,
    and those called as in `BUFFERS`. Parameters never are.

    **Raises** `CheckpointError` for a prefix or a glob that matches nothing, for a prefix that is ambiguous, and for
    two tensors that would have one name.

    Where `module` is a network of transformers and transformers would find all its tensors, names are as it finds them.
    """
    names = [*source.specs, *source.aliases]
    for glob in ignore_keys:
        if not any(fnmatchcase(name, glob) for name in names):
            raise CheckpointError(f"ignore_keys={glob!r} matches no tensor; the first are {_first(names)}")
    names = [name for name in names if not any(fnmatchcase(name, glob) for glob in ignore_keys)]
    renames = None if strip_prefix is not None else names_in(module, names)
    if renames is None or module is None or not covers(module, set(renames.values())):
        renames = None
        new, prefix = _stripped(names, module, strip_prefix, common)
        extra = [] if module is None else _extra_buffers(source, new, module)
    else:  # transformers knows what it had other names for
        new, prefix = {name: renames.get(name, name) for name in names}, ""
        extra = [name for name in names if name not in renames]
    kept = {to: name for name, to in new.items() if name not in set(extra)}
    if len(kept) + len(extra) < len(names):
        twice = next(to for to, count in Counter(new.values()).items() if count > 1)
        both = [name for name in names if new[name] == twice]
        raise CheckpointError(
            f'{" and ".join(both)} would both be called {twice}: give strip_prefix="" or ignore_keys="{both[1]}"'
        )
    said = [f"{prefix} is taken off names"] if prefix else []
    said += [f"left out, as the module has no such buffers: {_first(extra)}"] if extra and renames is None else []
    said += [f"left out, as transformers does with this class: {_first(extra)}"] if extra and renames else []
    if list(kept) == [*source.specs, *source.aliases] and list(kept.values()) == list(kept):
        return source, ""
    return _taken(source, kept), "; ".join(said)


def _taken(source: TensorSource, kept: dict[str, str]) -> RenamedSource:
    specs: dict[str, TensorSpec] = {}
    aliases: dict[str, str] = {}
    owners: dict[str, str] = {}
    for to, name in kept.items():
        owner = source.aliases.get(name, name)
        if owner in owners:
            aliases[to] = owners[owner]
        else:
            owners[owner] = to
            specs[to] = source.specs[owner]
    layout = dict(source.layout)
    if "shards" in layout:
        back = {name: to for to, name in kept.items()}
        layout["shards"] = {k: [back[n] for n in names if n in back] for k, names in layout["shards"].items()}
    return RenamedSource(source, kept, specs, aliases, layout | _rule(kept))


def _stripped(
    names: list[str], module: nn.Module | None, given: str | None, common: tuple[str, ...]
) -> tuple[dict[str, str], str]:
    """Every name -> its name in the network, and the prefix for people to read."""
    if given == "":
        return {name: name for name in names}, ""
    if given is not None:
        prefix = given.rstrip(".") + "."
        if not any(name.startswith(prefix) for name in names):
            raise CheckpointError(f"no name begins with strip_prefix={given!r}; the first are {_first(names)}")
        return {name: _unwrapped(name.removeprefix(prefix)) for name in names}, prefix
    if module is not None and covers(module, set(names)):
        return {name: name for name in names}, ""
    bare = {name: _unwrapped(name) for name in names}
    marks = [f"{mark}." for mark in WRAPPED if any(mark in name.split(".") for name in names)]
    prefix = "" if module is None else _prefix_before(module, list(bare.values()))
    known = set() if module is None else set(module.state_dict())
    if not prefix and not known & set(bare.values()):
        prefix = next((p for p in common if names and all(name.startswith(p) for name in bare.values())), "")
    if prefix:
        bare = {name: to.removeprefix(prefix) for name, to in bare.items()}
    return bare, " and ".join([*marks, *([prefix] if prefix else [])])


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPED)


def covers(module: nn.Module, names: set[str]) -> bool:
    """Whether every tensor of `module` is among `names` (or tied to one that is)."""
    wanted = {name for name in module.state_dict() if not name.endswith("num_batches_tracked")}
    return wanted <= names | set(tied_names(module, names))


def _prefix_before(module: nn.Module, names: list[str]) -> str:
    """The one prefix without which `names` are those of `module`; "" if there is none, or none is needed."""
    known, counts = set(module.state_dict()), Counter[str]()
    if covers(module, set(names)):
        return ""
    for name in names:
        parts = name.split(".")
        for cut in range(1, len(parts)):
            if ".".join(parts[cut:]) in known:
                counts[".".join(parts[:cut]) + "."] += 1
    most = [prefix for prefix, count in counts.items() if count >= max(counts.values(), default=0)]
    fits = [p for p in most if covers(module, {name.removeprefix(p) for name in names if name.startswith(p)})]
    if len(fits) > 1:
        raise CheckpointError(
            f"names fit the module after {' and after '.join(fits)}: choose one with "
            f'strip_prefix="{fits[0]}", and leave others out with ignore_keys="{fits[1]}*"'
        )
    return fits[0] if fits else ""


def _extra_buffers(source: TensorSource, new: Mapping[str, str], module: nn.Module) -> list[str]:
    wanted, buffers = set(module.state_dict()), {name for name, _ in module.named_buffers(remove_duplicate=False)}
    extra = []
    for name, to in new.items():
        dtype = source.specs[source.aliases.get(name, name)].dtype
        number = not (dtype.is_floating_point or dtype.is_complex)
        known = to in buffers or number or to.rpartition(".")[2] in BUFFERS
        if to not in wanted and known and not to.endswith("num_batches_tracked"):
            extra.append(name)
    return extra


def _first(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"


def _rule(kept: Mapping[str, str]) -> dict[str, Any]:
    """What `original_names` needs to turn new names into old ones."""
    prefixes: dict[str, str] = {}
    for to, name in kept.items():
        for path, inserted in _inserted(to, name):
            prefixes.setdefault(path, inserted)
    layout = {"prefixes": prefixes} if prefixes else {}
    back = original_names(layout)
    odd = {to: name for to, name in kept.items() if back(to) != name}
    return {**layout, "renamed": odd} if odd else dict(layout)


def _inserted(to: str, name: str) -> Iterable[tuple[str, str]]:
    """The parts of `name` that `to` lacks, with the path they follow."""
    parts, missing = to.split("."), ""
    path: list[str] = []
    for part in name.split("."):
        if len(path) < len(parts) and part == parts[len(path)]:
            if missing:
                yield ".".join(path), missing
            path, missing = [*path, part], ""
        else:
            missing += part + "."


def original_names(layout: Mapping[str, Any]) -> Callable[[str], str]:
    """From the name of a tensor in a compressed file to its name in the checkpoint.

    >>> original_names({"prefixes": {"": "module.", "layer1": "_orig_mod."}})("layer1.conv.weight")
    'module.layer1._orig_mod.conv.weight'

    **Raises** `ValueError` when called for a name that would become very long.
    """
    prefixes, odd = layout.get("prefixes", {}), layout.get("renamed", {})

    def back(name: str) -> str:
        if name in odd:
            return str(odd[name])
        text, path = "", ""
        for part in name.split("."):
            text += prefixes.get(path, "") + part + "."
            path = f"{path}.{part}" if path else part
            if len(text) > len(name) + LONGEST:
                raise ValueError(f"a layout that puts more than {LONGEST} characters before names")
        return text[:-1]

    return back
