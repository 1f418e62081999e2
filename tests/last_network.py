"""Law 1: the network that a method runs last is, bit for bit, the network that its file gives back."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tersenet
from tersenet.core.method import Method
from tersenet.core.model import QTensor
from tersenet.core.task import Task
from tersenet.network.calibrate import calibration


def seen_by(monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module]) -> list[nn.Module]:
    """Every network of a class that runs from now on, in order."""
    seen: list[nn.Module] = []
    forward = kind.forward

    def watched(self: nn.Module, *given: object, **named: object) -> object:
        seen.append(self)
        return forward(self, *given, **named)

    monkeypatch.setattr(kind, "forward", watched)
    return seen


def outputs(network: nn.Module, task: Task) -> Tensor:
    """What a network returns for calibration inputs that are large enough to be clipped."""
    with torch.no_grad():
        return torch.cat([network(batch.inputs * 1.5) for batch in calibration(task, 1000)])


def check_law(network: nn.Module, method: Method, task: Task, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compress `network` (of a class that runs as a whole) on a few batches: the file has to compute what `method`
    returned, and what it ran last.

    A method without data may round what it keeps, and add what it found no use in running, when it has run the
    network: only what it returned is compared.
    """
    few = replace(task, train=list(task.split("train"))[:4])
    with monkeypatch.context() as patch:
        seen = seen_by(patch, type(network))
        small = tersenet.compress(copy.deepcopy(network), method, task=few)
    assert any(isinstance(entry, QTensor) for entry in small.tensors.values())
    tersenet.save(small, folder / "law.terse")
    back = tersenet.load(folder / "law.terse").apply_to(copy.deepcopy(network)).eval()
    expected = outputs(back, task)
    assert torch.equal(outputs(small.apply_to(copy.deepcopy(network)).eval(), task), expected)
    if method.needs != "nothing":
        assert torch.equal(outputs(seen[-1], task), expected)
