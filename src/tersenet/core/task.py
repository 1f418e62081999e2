"""Tasks: what a method may look at, and how the result is judged."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError, UsageError
from .batch import IGNORED, Batch, read
from .likeness import NAMES, Likeness, features_last, rows_of

Batches = Iterable[Any]
Comparison = Callable[[Tensor, Tensor, Tensor | None], Tensor]
SPLITS = ("calibration", "train", "validation", "test")


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Top-1 accuracy per sample (1.0 or 0.0); of a sequence, how many positions are right, and how many are not -100.

    **Shapes**: outputs `[n, classes]`, targets `[n]` -> `[n]`; or `[n, classes, ...]` or `[n, ..., classes]`, `[n,
    ...]` -> `[n, 2]`.
    """
    counts = targets != IGNORED
    return rows_of((features_last(outputs, counts).argmax(-1) == targets).to(torch.float32), counts)


@dataclass(frozen=True)
class Task:
    """Named splits, a loss, a metric and a seed.

    A split is anything that can be iterated again and again, such as a `DataLoader` or a list. Its batches are
    `(inputs, targets)`, inputs alone, or a mapping (keyword arguments, with `labels` among them, as transformers has
    it). Inputs are a tensor, a tuple of positional arguments or a mapping; targets are what `loss` and `metric` take.

    * `forward(network, inputs)` says how a batch is run, where calling the network with the inputs is not enough.
    * `output(returned)` picks or builds the tensor that loss, metric and agreement see (in fp32); else it is `logits`,
      else the first tensor.
    * `loss(outputs, targets)` is a mean, or rows like those of a metric. A network that returns a `loss` of its own is
      taken at its word where the task names none. Without targets methods compare with the original's outputs.
    * `metric(outputs, targets)` returns one number per sample, so that two networks can be compared on the same
      samples; or one row, such as the (sum, count) of a sequence, which `aggregate(rows)` makes a score (otherwise it
      is the sum of sums over the sum of counts). Accuracy, the default, is for integer labels; labels of sequences
      inside a mapping need a metric of yours, because a causal network shifts them and others do not.
    * `agreement` with another network needs no labels: "classes" (the same class), "cosine", "relative" (1 minus the
      relative squared error), or a function of both outputs that returns numbers or rows. If absent it is "classes"
      where the loss is cross-entropy, else "relative". It decides what distillation is: KL for classes, else the
      relative error.
    * `points` is what one unit of the metric is in points: 100 where it is a share (accuracy), 1 where it is counted in
      points already (dB, BLEU, perplexity); `unit` is what they are called in print.
    * `comparisons` are further things to say of a network beside the original, by name: functions of both outputs and
      of a mask of the positions that count, which return numbers or rows. `drop_by` names the one that a drop is
      counted in, in place of the metric: 0 where nothing differs, the more the worse (the KL divergence).

    Padding counts nowhere: tokens whose `attention_mask` is 0, labels of -100. Methods receive the task without its
    `test` split (`for_method`).

    >>> words = {"input_ids": torch.tensor([[5, 8, 2]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    >>> task = Task(test=[words], output=lambda returned: returned.last_hidden_state, agreement="cosine")
    >>> [len(batch) for batch in task.batches("test")]
    [1]
    """

    test: Batches | None = None
    validation: Batches | None = None
    train: Batches | None = None
    calibration: Batches | None = None
    loss: Callable[[Tensor, Any], Tensor] = F.cross_entropy
    metric: Callable[[Tensor, Any], Tensor] = accuracy
    agreement: Likeness | Callable[[Tensor, Tensor], Tensor] | None = None
    higher_is_better: bool = True
    points: float = 100.0
    seed: int = 0
    forward: Callable[[nn.Module, Any], Any] | None = None
    output: Callable[[Any], Tensor] | None = None
    aggregate: Callable[[Tensor], Any] | None = None
    unit: str = "points"
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    drop_by: str | None = None

    def __post_init__(self) -> None:
        if self.drop_by is not None and self.drop_by not in self.comparisons:
            raise UsageError(
                f"drop_by={self.drop_by!r}: expected one of {', '.join(self.comparisons) or 'comparisons'}"
            )
        if isinstance(self.agreement, str) and self.agreement not in NAMES:
            raise UsageError(f"agreement is {self.agreement!r}; it may be {', '.join(NAMES)}, or a function")

    def split(self, name: str) -> Batches:
        """The split called `name`.

        **Raises** `InputError` if the task has none (a split is never invented), `UsageError` for another name.
        """
        if name not in SPLITS:
            raise UsageError(f"split={name!r}: expected {', '.join(SPLITS)}")
        batches: Batches | None = getattr(self, name)
        if batches is None:
            has = [n for n in SPLITS if getattr(self, n) is not None]
            raise InputError(
                f"the task has no split {name!r}, only {', '.join(has) or 'none'}: give Task(..., {name}=batches)"
            )
        return batches

    def batches(self, name: str) -> Iterator[Batch]:
        """The batches of a split, taken apart. **Raises** `InputError` for a batch that is none."""
        split = self.split(name)

        def taken() -> Iterator[Batch]:  # the split is begun when the first batch is asked for
            for batch in split:
                yield read(batch, self, name)

        return taken()

    def for_method(self) -> "Task":
        """The same task without the test split: what a method may see."""
        return replace(self, test=None)

    @property
    def names_loss(self) -> bool:
        """Whether the loss is another than the default."""
        return self.loss is not F.cross_entropy

    @property
    def classifies(self) -> bool:
        """Whether the loss is cross-entropy."""
        loss = self.loss.func if isinstance(self.loss, partial) else self.loss
        return loss is F.cross_entropy or isinstance(loss, nn.CrossEntropyLoss)

    @property
    def likeness(self) -> Likeness | Callable[[Tensor, Tensor], Tensor]:
        """What agreement is."""
        return self.agreement or ("classes" if self.classifies else "relative")

    @property
    def divergence(self) -> Likeness:
        """What the distance to another network's outputs is: that of "classes" or "relative"."""
        kind = self.likeness
        classes = kind == "classes" if isinstance(kind, str) else self.classifies
        return "classes" if classes else "relative"

    @property
    def agreement_name(self) -> str:
        """What agreement is called in print."""
        kind = self.likeness
        return NAMES[kind] if isinstance(kind, str) else getattr(kind, "__name__", type(kind).__name__)

    def measures(self, batch: Batch) -> bool:
        """Whether the metric is one for these targets: the default is for integer labels that nothing shifts."""
        if batch.targets is None or self.metric is not accuracy:
            return batch.targets is not None
        labels = batch.targets
        integers = isinstance(labels, Tensor) and not labels.is_floating_point()
        return integers and not (batch.inside and labels.dim() > 1)
