"""What trained methods do at the edges: tied weights, sparse embeddings, prime rows, dead layers, named widths."""

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tersenet
from tersenet.core.grid import BinaryBases
from tersenet.core.model import CompressedModel, QTensor
from tersenet.core.task import Task
from tersenet.errors import InputError, TersenetError, TrainingError, UsageError
from tersenet.methods import get
from tersenet.methods.alq import Alq
from tersenet.methods.cpq.quantizers import NEVER, CategoricalWeight

ALQ: dict[str, Any] = {"rounds": 1, "epochs": 1, "coordinate_epochs": 0, "refine": 0}
QUICK: dict[str, dict[str, Any]] = {
    "cpq": {"epochs": 1, "bits": 3},
    "bsq": {"epochs": 1, "refine": 1, "alpha": 1e-4},
    "mirror": {"epochs": 1},
    "alq": ALQ,
    "lsq": {"epochs": 1, "bits": 3},
}


def noise(*shape: int, batches: int = 3, size: int = 8) -> Task:
    draw = torch.Generator().manual_seed(1)
    pairs = [(torch.randn(size, *shape, generator=draw), torch.arange(size) % 10) for _ in range(batches)]
    return Task(train=pairs)


def mlp(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def made(network: nn.Module, task: Task, name: str, **fields: Any) -> CompressedModel:
    return tersenet.compress(copy.deepcopy(network), name, task=task, **{**QUICK[name], **fields})


class Tied(nn.Module):
    """The two middle layers share a weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = nn.Linear(16, 20), nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 10)
        self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.d(self.c(self.b(self.a(x).relu()).relu()).relu())
        return out


@pytest.mark.parametrize("rule", ["md-tanh", "md-softmax", "pmf", "proxquant"])
def test_tied_weights_are_one_tensor_under_every_rule(rule: str) -> None:
    small = made(Tied(), noise(16), "mirror", rule=rule)
    network = small.apply_to(Tied()).eval()
    assert torch.equal(network.b.weight, network.c.weight)
    assert small.aliases == {"c.weight": "b.weight"} and len(network.b.weight.unique()) == 2


@pytest.mark.parametrize("name", QUICK)
def test_sparse_embeddings_are_refused_by_name(name: str) -> None:
    network = nn.Sequential(nn.Embedding(40, 16, sparse=True), nn.Flatten(), nn.Linear(64, 10))
    batches = [(torch.randint(40, (4, 4)), torch.arange(4)) for _ in range(2)]
    with pytest.raises(InputError, match=r"0\.weight gets sparse gradients"):
        made(network, Task(train=batches), name)


def test_a_group_is_never_a_few_weights_because_a_row_is_a_prime() -> None:
    method = Alq(groups="kernel")
    for row in (509, 521, 1021, 2 * 521, 127, 7):
        size, _ = method.grouping("w", torch.Size([8, row]))
        assert row % size == 0 and size >= min(row, 64)
    assert method.grouping("w", torch.Size([8, 32, 1, 1])) == (32, 1)
    assert method.grouping("w", torch.Size([8, 32, 3, 3])) == (9, 1)


def test_alq_goes_on_where_no_bits_are_to_be_taken() -> None:
    network = mlp(16, 40, 40, 10)
    pinned = made(network, noise(16), "alq", bits=0.8, layer_bits={"*": 2})
    grids = [entry.grid for entry in pinned.tensors.values() if isinstance(entry, QTensor)]
    assert all(isinstance(grid, BinaryBases) and int(grid.counts.max()) == 2 for grid in grids)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    empty = made(network, noise(16), "alq", bits=0.8)
    assert all(not entry.dequantize().any() for entry in empty.tensors.values() if isinstance(entry, QTensor))


def test_alq_names_an_unused_layer_instead_of_missing_its_goal() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.head = mlp(16, 40, 10), nn.Linear(16, 40)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out

    with pytest.raises(InputError, match=r"gradient of head\.weight was 0.*exclude="):
        made(Unused(), noise(16), "alq", bits=0.8)


def test_an_idle_tensor_is_named_after_one_epoch_and_not_after_all() -> None:
    network, counted = mlp(16, 40, 40, 10), []

    class Counting(list[Any]):
        def __iter__(self) -> Any:
            counted.append(1)
            return super().__iter__()

    nn.init.zeros_(network[2].weight)
    nn.init.constant_(network[2].bias, -1.0)
    with pytest.raises(InputError, match=r"a layer behind it all 0"):
        made(network, Task(train=Counting(noise(16).split("train"))), "alq", bits=0.8, epochs=9)
    assert len(counted) < 6


def test_bsq_judges_a_network_by_more_than_one_sample() -> None:
    facts = []
    for size in (1, 8):
        task = noise(16, batches=24 // size, size=size)
        network = mlp(16, 40, 10)
        network[0].weight.data.mul_(1e-3)
        network[0].bias.data.normal_()
        facts.append(made(network, task, "bsq", alpha=30.0, refine=0).provenance["bsq"])
    assert facts[0].get("spared") == facts[1].get("spared")


def test_bsq_blames_no_layer_for_a_network_that_was_constant_before(caplog: pytest.LogCaptureFixture) -> None:
    network = mlp(16, 40, 40, 10)
    nn.init.constant_(network[2].bias, -1e3)
    facts = made(network, noise(16), "bsq", alpha=1e3, refine=0).provenance["bsq"]
    assert "spared" not in facts and set(facts["planes"].values()) == {0}


@pytest.mark.parametrize("lr", [1e3, 1e6])
@pytest.mark.parametrize("name", QUICK)
def test_a_wild_learning_rate_ends_in_one_typed_error_or_a_finite_file(name: str, lr: float) -> None:
    try:
        small = made(mlp(16, 40, 40, 10), noise(16), name, lr=lr)
    except TersenetError as error:
        assert isinstance(error, TrainingError | InputError)
    else:
        tensors = [entry.dequantize() for entry in small.tensors.values() if isinstance(entry, QTensor)]
        assert all(bool(tensor.isfinite().all()) for tensor in tensors)
    with pytest.raises(UsageError, match="lr"):
        get(name)(lr=1e39)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("cpq", {"bits": 32}),
        ("cpq", {"first_last": "keep"}),
        ("lsq", {"bits": 32}),
        ("lsq", {"first_last": "keep"}),
        ("mirror", {"first_last": "keep"}),
    ],
)
def test_what_layer_bits_names_is_quantised_whatever_else_is_said(name: str, fields: dict[str, Any]) -> None:
    small = made(mlp(16, 40, 40, 10), noise(16), name, layer_bits={"0.weight": 3}, **fields)
    entry = small.tensors["0.weight"]
    assert isinstance(entry, QTensor) and len(entry.codes.unique()) <= 8


def test_the_penalty_is_the_expected_bits_of_every_tensor() -> None:
    quantizer = CategoricalWeight(torch.randn(30, 10), 4, "winner", 0.7, 0.25)
    gates = torch.tensor([0.3, -0.6, 1.2])
    quantizer.gates.data.copy_(gates)
    open_ = [1 / (1 + math.exp(-(float(gate) - NEVER))) for gate in gates]
    expected = 0.25 * sum(math.prod(open_[: k + 1]) for k in range(3))
    assert quantizer.penalty(torch.randn(30, 10)).item() == pytest.approx(expected, rel=1e-5)
