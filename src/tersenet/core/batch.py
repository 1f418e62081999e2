"""One batch of any task: the one place where data is taken apart, moved, cut, run through a network and judged."""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .likeness import alike, distance, feature_axis
from .nested import mapped, tensors

if TYPE_CHECKING:
    from .task import Task

IGNORED = -100  # a label that counts nowhere, as torch has it
LABELS = "labels"  # where a mapping has its targets, as transformers has it


@dataclass(frozen=True)
class Batch:
    """What a split yields, taken apart: `inputs` (a tensor, a tuple of positional arguments or a mapping of keyword
    arguments), `targets` (anything, or None), and the task that says how it is run and judged.

    `reference` are outputs of another network: where there are no targets, the loss is the distance to them.

    >>> batch = Batch({"input": torch.ones(4, 3)})
    >>> len(batch), batch.first(2).run(nn.Linear(3, 5)).shape
    (4, torch.Size([2, 5]))
    """

    inputs: Any
    targets: Any = None
    task: "Task | None" = None
    reference: Tensor | None = None

    def __len__(self) -> int:
        """The number of samples. **Raises** `InputError` if there is no tensor to tell."""
        for tensor in tensors([self.inputs, self.targets]):
            if tensor.dim():
                return len(tensor)
        raise InputError(f"a batch ({type(self.inputs).__name__}) has no tensor with an axis of samples")

    def first(self, count: int) -> "Batch":
        """The first `count` samples."""
        return self.at(slice(count))

    def at(self, index: Any) -> "Batch":
        """The samples at `index` (a slice or a tensor of integers); what has no axis of samples stays whole."""
        n = len(self)

        def cut(part: Any) -> Any:
            return part[index] if isinstance(part, Tensor) and part.dim() and len(part) == n else part

        inputs, targets = mapped(cut, self.inputs), mapped(cut, self.targets)
        return replace(self, inputs=inputs, targets=targets, reference=cut(self.reference))

    def run(self, module: nn.Module) -> Any:
        """What `module` returns for the inputs, moved to its device and, floats, to its precision."""
        inputs = fitted(self.inputs, module)
        if self.task is not None and self.task.forward is not None:
            return self.task.forward(module, inputs)
        if isinstance(inputs, Mapping):
            return _called(module, (), inputs)
        return _called(module, inputs if isinstance(inputs, tuple) else (inputs,), {})

    def seen(self, raw: Any) -> Tensor:
        """What loss, metric and agreement see of what the network returned, in fp32.

        That is what `Task.output` makes of it; else its `logits`, else its first tensor with an axis of samples.
        """
        if self.task is not None and self.task.output is not None:
            raw = self.task.output(raw)
        found = raw if isinstance(raw, Tensor) else _picked(raw)
        return found.float() if found.is_floating_point() else found

    def outputs(self, module: nn.Module) -> Tensor:
        """`seen` of `run`."""
        return self.seen(self.run(module))

    def mask(self, outputs: Tensor) -> Tensor | None:
        """Which positions of `outputs` count: those of tokens that are no padding and of labels that are not -100.

        **Shapes**: outputs `[n, classes, ...]` or `[n, ..., classes]` -> `[n, ...]`, or None if nothing fits.
        """
        counted: Tensor | None = None
        for part in (self._tokens(), self._labelled()):
            if part is not None and feature_axis(outputs, part.shape) is not None:
                part = part.to(outputs.device)
                counted = part if counted is None else counted & part
        return counted

    @property
    def padding(self) -> Tensor | None:
        """Which positions of a sequence are no padding, `[n, length]`: by `attention_mask`, else by labels of -100."""
        tokens = self._attention()
        mask = self._labelled() if tokens is None else tokens
        return None if mask is None or mask.dim() != 2 or bool(mask.all()) else mask

    @property
    def inside(self) -> bool:
        """Whether the targets are among the inputs, so that the network sees them."""
        return isinstance(self.inputs, Mapping) and self.inputs.get(LABELS) is not None

    def own_loss(self, raw: Any) -> Tensor | None:
        """The loss that the network returned, unless the task names one and there are targets for it."""
        found = raw.get("loss") if isinstance(raw, Mapping) else getattr(raw, "loss", None)
        named = self.targets is not None and self._task().names_loss
        return None if named or not isinstance(found, Tensor) else found.float().mean()

    def loss(self, raw: Any) -> tuple[Tensor, float]:
        """The mean loss of what the network returned, and over how many it is a mean: samples, or labels that count.

        It is the network's own `loss` where it returns one and the task names none; else that of the task; without
        targets, the distance to `reference`.

        **Raises** `InputError` if there is none of them.
        """
        task = self._task()
        own = self.own_loss(raw)
        if own is not None:
            return own, self._weight()
        outputs = self.seen(raw)
        if self.targets is None:
            if self.reference is None:
                raise InputError(
                    "the task gives no targets and the network returns no loss: give one of the two, or train on the "
                    "outputs of the original alone (distill=1)"
                )
            return self.distance(outputs, self.reference.to(outputs.device)), float(len(self))
        targets = mapped(lambda part: part.to(outputs.device) if isinstance(part, Tensor) else part, self.targets)
        weight = self._weight()
        if weight == 0:  # all labels are -100
            return outputs.sum() * 0, 0.0
        if task.classifies and isinstance(targets, Tensor) and feature_axis(outputs, targets.shape) not in (1, None):
            outputs = outputs.movedim(-1, 1)
        losses = task.loss(outputs, targets)
        if losses.dim() == 2:  # rows of sum and count
            return losses[:, 0].sum() / losses[:, 1].sum(), float(losses[:, 1].sum())
        return (losses if losses.dim() == 0 else losses.mean()), weight

    def scores(self, outputs: Tensor) -> Tensor | None:
        """The metric, one row for every sample: `[n]`, or `[n, k]` for the task's `aggregate`; None without targets.

        **Raises** `InputError` for anything else.
        """
        task = self._task()
        if not task.measures(self):
            return None
        targets = mapped(lambda part: part.to(outputs.device) if isinstance(part, Tensor) else part, self.targets)
        return self._checked(task.metric(outputs, targets), "metric")

    def agreement(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """Rows of how far `outputs` agree with those of another network: `[n]`, or `[n, 2]` of sums and counts."""
        kind = self._task().likeness
        if not isinstance(kind, str):
            return self._checked(kind(outputs, reference), "agreement")
        return self._checked(alike(outputs, reference, kind, self.mask(outputs)), "agreement")

    def compared(self, outputs: Tensor, reference: Tensor) -> dict[str, Tensor]:
        """Rows of the task's comparisons, by name."""
        mask, named = self.mask(outputs), self._task().comparisons
        return {name: self._checked(compare(outputs, reference, mask), name) for name, compare in named.items()}

    def distance(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """How far `outputs` are from those of another network, as a loss: KL of classes, else the relative error."""
        return distance(outputs, reference, self._task().divergence, self.mask(outputs))

    def _task(self) -> "Task":
        if self.task is None:
            raise InputError("these are inputs alone: there is no task to judge outputs by")
        return self.task

    def _checked(self, rows: Tensor, what: str) -> Tensor:
        n = len(self)
        if not isinstance(rows, Tensor) or rows.dim() not in (1, 2) or len(rows) != n:
            shape = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise InputError(
                f"the task's {what} returned shape {shape} for {n} samples: return one score per sample (shape [{n}]), "
                f"not a mean, or one row per sample (shape [{n}, k]) for aggregate"
            )
        return rows.detach().to("cpu", torch.float64)

    def _attention(self) -> Tensor | None:
        given = self.inputs.get("attention_mask") if isinstance(self.inputs, Mapping) else None
        return given != 0 if isinstance(given, Tensor) and given.dim() == 2 else None

    def _tokens(self) -> Tensor | None:
        """Where real tokens are: the attention mask, or everywhere that the first integers of two axes are."""
        given = self._attention()
        if given is None:
            whole = (t for t in tensors(self.inputs) if t.dim() == 2 and not t.is_floating_point())
            given = next((torch.ones_like(t, dtype=torch.bool) for t in whole), None)
        return given

    def _labelled(self) -> Tensor | None:
        integers = isinstance(self.targets, Tensor) and not self.targets.is_floating_point() and self.targets.dim() > 0
        return self.targets != IGNORED if integers else None

    def _weight(self) -> float:
        labelled = self._labelled()
        return float(len(self) if labelled is None else labelled.sum())


def read(batch: Any, task: "Task", split: str) -> Batch:
    """A batch as a split yields it. **Raises** `InputError` if it is nothing that can be taken apart."""
    if isinstance(batch, list | tuple) and len(batch) == 1:
        batch = batch[0]
    pair = isinstance(batch, list | tuple)
    if pair and len(batch) != 2:
        raise InputError(
            f"the {split} split gave {len(batch)} parts; it may give (inputs, targets), inputs alone, or a mapping: "
            "put several inputs into one, ((a, b), targets)"
        )
    inputs, targets = batch if pair else (batch, None)
    inputs, targets = mapped(_same, inputs), mapped(_same, targets)
    if next(tensors(inputs), None) is None and task.forward is None:
        raise InputError(
            f"the {split} split gave inputs without a tensor ({type(inputs).__name__}): give tensors, or say with "
            "Task(forward=...) how such a batch is run"
        )
    if targets is None and isinstance(inputs, Mapping):
        targets = inputs.get(LABELS)
    return Batch(inputs, targets, task)


def run(module: nn.Module, given: Any) -> Any:
    """What `module` returns for a `Batch`, or for inputs alone."""
    return (given if isinstance(given, Batch) else Batch(given)).run(module)


def fitted(inputs: Any, module: nn.Module) -> Any:
    """`inputs` on the device of `module`; floats in its precision, if all its parameters have the same."""
    first = next(module.parameters(), None)
    if first is None:
        return inputs
    kinds = {part.dtype for part in module.parameters() if part.is_floating_point()}
    kind = kinds.pop() if len(kinds) == 1 else None

    def moved(part: Any) -> Any:
        if not isinstance(part, Tensor):
            return part
        return part.to(first.device, kind if part.is_floating_point() else None)

    return mapped(moved, inputs)


def _same(part: Any) -> Any:
    return part


def _called(module: nn.Module, positional: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """`module(*positional, **named)`, without `labels` where it takes none. **Raises** `InputError` naming what fits
    it not."""
    inner = module
    while isinstance(inside := getattr(inner, "_orig_mod", None) or getattr(inner, "module", None), nn.Module):
        if type(inner).__module__.split(".")[0] != "torch":
            break
        inner = inside
    with suppress(ValueError):  # a forward that does not tell its signature
        signature = inspect.signature(inner.forward)
        keywords = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
        if not keywords and LABELS not in signature.parameters:
            named = {key: value for key, value in named.items() if key != LABELS}
        try:
            signature.bind(*positional, **named)
        except TypeError as error:
            given = f"({', '.join([*('tensor' for _ in positional), *named])})"
            raise InputError(
                f"{type(inner).__name__} does not take this batch, {given}: {error}; it takes {signature}; tensors are "
                "positional, a mapping is keywords; say with Task(forward=...) how a batch is run"
            ) from error
    return module(*positional, **named)


def _picked(raw: Any) -> Tensor:
    """The `logits` of a structured output, else its first tensor with an axis of samples."""
    named = raw.get("logits") if isinstance(raw, Mapping) else getattr(raw, "logits", None)
    if isinstance(named, Tensor):
        return named
    found = next((tensor for tensor in tensors(raw) if tensor.dim()), None)
    if found is None:
        raise InputError(
            f"the network returned a {type(raw).__name__} without a tensor: say with Task(output=...) what to look at"
        )
    return found
