"""Networks that a Hugging Face folder describes by itself: the class its config.json names, built by transformers."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import nn

AUTO = "auto"
CONFIG = "config.json"
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json")


def network(where: str, beside: Sequence[Path], changes: Mapping[str, Any]) -> "nn.Module":
    """The network of `--model`: that of the folder `where`, or ("auto") of the checkpoint or `.terse` file among
    `beside` that has a config.json. Its weights are random. `changes` replace values of the config.

    **Raises** `UsageError` without a config.json, without transformers, or for a class that it does not have.
    """
    content, place = _config(beside if where == AUTO else [Path(where)], where)
    named = json.loads(content).get("architectures") or []
    try:
        import transformers
    except ImportError as error:
        what = named[0] if named else "the network"
        raise UsageError(
            f"--model {where} builds {what} with transformers, which is not installed: pip install transformers"
        ) from error
    kind = getattr(transformers, named[0], None) if named else None
    if named and kind is None:
        raise UsageError(
            f"--model {where}: transformers {transformers.__version__} has no class {named[0]}: install another "
            "version, or give --model FILE.py:function"
        )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CONFIG).write_bytes(content)
        config = transformers.AutoConfig.from_pretrained(folder, **changes)
    kind = kind or _fitting(transformers, config, place)
    if kind is None:
        raise UsageError(
            f"--model {where}: {CONFIG} names no class (architectures), and none fits the tensors: write a function "
            "that builds the network, and give --model FILE.py:function"
        )
    built: nn.Module = kind(config)
    return built


def _fitting(transformers: Any, config: Any, place: Path) -> Any:
    """The class whose tensors are those at `place`: the first of a masked or a causal language model, and the inner
    model, that has no others."""
    import torch

    from ..api import load
    from ..files.checkpoint import open_checkpoint
    from ..files.packed_folder import is_packed
    from ..files.prefixes import covers
    from ..files.transformers_names import names_in

    opened: Any = load(place) if is_packed(place) else open_checkpoint(place)
    tensors = [*opened.specs, *opened.aliases]
    for auto in ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel"):
        with suppress(ValueError, AttributeError), torch.device("meta"):
            net = getattr(transformers, auto).from_config(config)
            if covers(net, set((names_in(net, tensors) or {}).values())):
                return type(net)
    return None


@contextmanager
def tokenizer_folder(places: Sequence[Path]) -> Iterator[Path]:
    """A folder with the tokenizer of the first of `places` that has one: a folder, that of a file, or the attachments
    of a `.terse` file, which lie there while the body runs. **Raises** `UsageError` if there is none."""
    for place in places:
        folder = place if place.is_dir() else place.parent
        if any((folder / name).is_file() for name in TOKENIZERS):
            yield folder
            return
        if place.suffix == ".terse" and place.is_file():
            from ..api import load
            from ..files.names import check_paths

            attached = {name: content for name, content in load(place).attachments.items() if "/" not in name}
            check_paths(attached)
            if set(attached) & set(TOKENIZERS):
                with tempfile.TemporaryDirectory() as made:
                    for name, content in attached.items():
                        if name.endswith((".json", ".txt", ".model")):
                            (Path(made) / name).write_bytes(content)
                    yield Path(made)
                return
    tried = ", ".join(map(str, places)) or "no file"
    raise UsageError(f"there is no tokenizer in or beside {tried}: give --task-arg folder=FOLDER")


def _config(places: Sequence[Path], where: str) -> tuple[bytes, Path]:
    """The content of the first config.json, and where it is: in a folder, beside a file, or attached to a `.terse`
    file."""
    from ..files.packed_folder import is_packed

    for place in places:
        if is_packed(place):
            from ..api import load

            attached = load(place).attachments
            if CONFIG in attached:
                return attached[CONFIG], place
        found = (place if place.is_dir() else place.parent) / CONFIG
        if found.is_file():
            return found.read_bytes(), place
    tried = ", ".join(map(str, places))
    raise UsageError(
        f"--model {where}: there is no {CONFIG} in or beside {tried}: give a Hugging Face folder, or the network's "
        "code as module:function or FILE.py:function"
    )
