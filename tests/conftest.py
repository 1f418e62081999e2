"""One small trained network for the whole suite."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tersenet import methods
from tersenet.core.task import Task
from tersenet.lab import digits
from tersenet.lab.models import build
from tersenet.search.within import compress_within


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def task() -> Task:
    return digits.make_task()


@pytest.fixture(scope="session")
def trained(task: Task) -> nn.Module:
    torch.manual_seed(0)
    return digits.train(build("digits"), task, epochs=6)


@pytest.fixture
def network(trained: nn.Module) -> nn.Module:
    """A trained DigitsNet that the test may change."""
    return copy.deepcopy(trained)


@pytest.fixture(scope="session")
def checkpoint(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "digits.safetensors"
    save_file({name: value for name, value in trained.state_dict().items() if "num_batches" not in name}, path)
    return path


@pytest.fixture
def within(checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path) -> Any:
    """A search of rtn for the digits network, at `o.terse`."""

    def search(**given: Any) -> Any:
        fields = {"module": network, "task": task, "max_drop": 6.0} | given
        method = fields.pop("method", methods.get("rtn")())
        return compress_within(fields.pop("path", checkpoint), tmp_path / "o.terse", method, **fields)

    return search
