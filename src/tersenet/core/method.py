"""The contract of a compression method."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, get_type_hints

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..version import __version__
from .fields import Within, check_names, check_value
from .model import CompressedModel, Item, TensorSpec, gathered
from .task import Task

OURS = f"{__package__.rpartition('.')[0]}.methods."


@dataclass(frozen=True)
class Facts:
    """What a file says that neither tensors nor method tell: members of its `provenance`, and whether it keeps room for
    `results` that are measured when it is written."""

    provenance: Mapping[str, Any] = field(default_factory=dict)
    results: bool = False


class TensorSource(Protocol):
    """A checkpoint that can be read tensor by tensor, as often as one likes."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Every tensor once, in the checkpoint's order."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """Tied names -> the name in `specs` they share."""

    @property
    def layout(self) -> Mapping[str, Any]:
        """How to write the checkpoint back (JSON)."""

    @property
    def attachments(self) -> Mapping[str, bytes]:
        """Other files of the checkpoint."""

    @property
    def facts(self) -> Facts:
        """What its file is to say beside."""

    def read(self, name: str) -> Tensor:
        """The tensor called `name`."""

    def digest(self) -> str:
        """A hash of the content, for the provenance."""


@cache
def _kinds(cls: type) -> dict[str, Any]:
    """The annotations of the fields of a method."""
    hints = get_type_hints(cls, include_extras=True)
    return {each.name: hints[each.name] for each in fields(cls)}


@dataclass(frozen=True)
class RunFolder:
    """Where a training keeps its checkpoints and log (None: nowhere); whether it goes on there; what it starts from
    (the folder of a finished training, or a `.terse` file).

    >>> from pathlib import Path
    >>> RunFolder(Path("runs/lsq3"), resume=True).start is None
    True
    """

    folder: Path | None = None
    resume: bool = False
    start: Path | None = None


@dataclass(frozen=True)
class Job:
    """What a method works on: the tensors of a checkpoint and, where they are known, the network that holds them
    (evaluation mode, left as it is), a task (without its test split), and the run folder of a training.

    >>> from tersenet.files.checkpoint import open_module
    >>> job = Job(open_module(nn.Linear(64, 64)))
    >>> list(job.source.specs)
    ['weight', 'bias']
    """

    source: TensorSource
    module: nn.Module | None = None
    task: Task | None = None
    run: RunFolder | None = None

    def network_and_task(self, method: str, why: str) -> tuple[nn.Module, Task]:
        """Both. **Raises** `UsageError` if one is missing, saying that `method` `why`: "trains", "calibrates"."""
        if self.module is None or self.task is None:
            raise UsageError(f"{method} {why}: give the network's code (module=) and a task (task=)")
        return self.module, self.task


@dataclass(frozen=True)
class Knob:
    """The field of a method that trades bytes for accuracy, and its values from the largest file to the smallest.

    >>> Knob("bits", (8, 4, 2)).values[-1]
    2
    """

    field: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Method(ABC):
    """Hyper-parameters of a method; `dataclasses.asdict` of it is the flags, the sweep point and the provenance.

    Class facts: `needs` is "nothing", "calibration" or "training"; `reference` is BibTeX; `QUICK` are fields with which
    the method takes about a second on the digits network of `lab`: the example that tests of every method take. The
    fields here are those of every method. A string literal below a field is its line of help.

    The annotation of a field says what it may be (`core.fields`); what fields may be together is for `check`.

    >>> import dataclasses, tersenet
    >>> @dataclasses.dataclass(frozen=True)
    ... class Halved(Method):
    ...     def compress(self, job):
    ...         for name, spec in job.source.specs.items():
    ...             yield name, KeptTensor(job.source.read(name).half(), spec.dtype, "halved")
    >>> tersenet.compress(nn.Linear(64, 64), Halved()).tensors["weight"].tensor.dtype
    torch.float16
    """

    needs: ClassVar[str] = "nothing"
    reference: ClassVar[str] = ""
    QUICK: ClassVar[Mapping[str, Any]] = {}

    include: tuple[str, ...] = ()
    """Globs over tensor names: only these are quantised."""
    exclude: tuple[str, ...] = ()
    """Globs over tensor names: these are kept; wins over `include`."""
    kept_dtype: Literal["fp16", "exact"] = "fp16"
    """Precision of what is kept: fp16 where every element survives to 2^-10 relative, or exact."""
    bn: Literal["keep", "scale-shift", "fold"] = "keep"
    """Batch norm: keep its four vectors, store scale and shift only, or fold its scale into the weights before it."""
    layer_bits: Mapping[str, Annotated[int, Within(1, 16)]] = field(default_factory=dict)
    """Widths that differ: name or glob of a weight to bits, the first match counts, or a JSON file of that."""

    def __new__(cls, *values: Any, **given: Any) -> Self:
        """**Raises** `UsageError` for a field that the method does not have."""
        check_names(f"{cls.__module__.rpartition('.')[2]} has no field", given, [each.name for each in fields(cls)])
        return object.__new__(cls)

    def __post_init__(self) -> None:
        """Check every field by its annotation, then all together by `check` of every class, the base first."""
        for name, kind in _kinds(type(self)).items():
            object.__setattr__(self, name, check_value(name, kind, getattr(self, name)))
        for cls in reversed(type(self).__mro__):
            if "check" in vars(cls):
                vars(cls)["check"](self)

    def check(self) -> None:  # noqa: B027 (optional)
        """**Raises** `UsageError` for fields that contradict each other. Nothing is replaced by a child's `check`."""

    def bits_of(self, name: str, otherwise: int) -> int:
        """The width that `layer_bits` gives the weight called `name`."""
        return next((bits for glob, bits in self.layer_bits.items() if fnmatchcase(name, glob)), otherwise)

    @abstractmethod
    def compress(self, job: Job) -> Iterator[Item]:
        """Yield every tensor of the job's source, compressed or kept, one at a time and in order, then any activations
        and findings.

        A method that can do without the network or the task accepts None, the others raise `UsageError`.
        """

    def prepare(self, job: Job) -> Callable[["Method"], Iterator[Item]]:
        """What all rates of this method share, done once: from the same method at any rate to what it yields."""
        return lambda method: method.compress(job)

    @property
    def knob(self) -> Knob:
        """What a search turns; it may depend on the other fields."""
        return Knob("bits", (8, 7, 6, 5, 4, 3, 2))

    def at(self, value: float) -> "Method":
        """The same method with its knob at another value."""
        fields: dict[str, Any] = {self.knob.field: int(value) if float(value).is_integer() else value}
        return replace(self, **fields)

    def filling(self, max_bytes: int) -> "Method | None":
        """The same method made to fill a number of bytes by itself; None if it cannot, so that a search has to."""
        return None

    @property
    def untrained(self) -> "Method | None":
        """The same method without what takes long, whose file has about the same bytes; itself if nothing does, None if
        bytes are known only when all is done."""
        return self

    @classmethod
    def auto_points(cls, job: Job) -> "tuple[Method, ...]":
        """What `auto` tries of this method on a network and its task; each is searched by its knob."""
        return ()

    def sample_passes(self, task: Task | None) -> float:
        """About how many samples it runs through the network, a backward pass counted as two."""
        return 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the file should know about how it was made, for the provenance."""
        return ()

    @property
    def name(self) -> str:
        """The method's name, which is its file's name."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def changed(self) -> dict[str, Any]:
        """The fields that are not what they are by default."""
        plain = type(self)()
        return {key: value for key, value in asdict(self).items() if value != getattr(plain, key)}

    def model(self, source: TensorSource, items: Iterable[Item]) -> CompressedModel:
        """The compressed model of what `compress` yields, with all else that belongs to `source`, and provenance.

        Of fields it has those that are not the defaults of this version of tersenet (`methods.settings` tells the
        others); of a method from outside, whose defaults no version tells, it has all.
        """
        tensors, activations, findings = gathered(items)
        ours = type(self).__module__.startswith(OURS)
        noted = {"notes": list(self.notes)} if self.notes else {}
        versions = {"tersenet": __version__, "torch": torch.__version__}
        return CompressedModel(
            tensors,
            aliases=source.aliases,
            provenance={
                "method": self.name,
                "fields": self.changed if ours else asdict(self),
                "versions": versions,
                "input": source.digest(),
                **({} if ours else {"outside": True}),
                **noted,
                **source.facts.provenance,
                **findings,
            },
            layout=source.layout,
            attachments=source.attachments,
            batch_norm=self.bn,
            activations=activations,
            results=[] if source.facts.results else None,
        )
