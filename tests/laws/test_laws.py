"""The laws that every method obeys; methods are found in their folder."""

import copy
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import nn

import tersenet
from codes_reader import roundings, values
from tersenet import methods
from tersenet.analysis.evaluate import evaluate
from tersenet.core.model import CompressedModel, KeptTensor, QTensor
from tersenet.core.task import Task
from tersenet.files.checkpoint_write import write_checkpoint
from tersenet.files.summary import summarize, verify
from tersenet.lab.digits import make_task

SMALL = {"rtn": {"bits": 4}, "vlcq": {"target_bits": 3.0}}
SMALL["lapq"] = {"bits": 4, "act_bits": 4, "evaluations": 20}
SMALL["imprint"] = {"average_bits": 5.0, "act_bits": 4, "epochs": 1}
SMALL["alq"] = {"bits": 3.0, "act_bits": 4, "rounds": 1, "epochs": 1, "coordinate_epochs": 0, "refine": 1}
SMALL["accgrad"] = {"share": 0.55, "epochs": 8, "refine": 2, "bits": (6,)}
BRIEF = {"bits": 4, "act_bits": 4, "epochs": 1}  # of methods that train


def compressed(name: str, checkpoint: Path, trained: nn.Module, task: Task | None = None) -> CompressedModel:
    """A cheap result of a method; the network's code and the task only where it needs them, or if given."""
    if methods.facts(name).needs != "nothing":
        network, task = copy.deepcopy(trained), task or make_task()
        return tersenet.compress(checkpoint, name, module=network, task=task, **SMALL.get(name, BRIEF))
    return tersenet.compress(checkpoint, name, task=task, **SMALL[name])


@pytest.fixture(scope="module", params=methods.names())
def made(request: pytest.FixtureRequest, trained: nn.Module, checkpoint: Path) -> tuple[str, CompressedModel]:
    return request.param, compressed(request.param, checkpoint, trained)


@pytest.fixture(scope="module")
def file(made: tuple[str, CompressedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("laws") / "x.terse"
    tersenet.save(made[1], path)
    return path


def test_the_file_gives_back_the_same_tensors_bit_for_bit(made: tuple[str, CompressedModel], file: Path) -> None:
    back, state = ({n: e.dequantize() for n, e in m.tensors.items()} for m in (tersenet.load(file), made[1]))
    assert tersenet.load(file).activations == made[1].activations
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype, name


def test_the_reloaded_network_computes_what_the_compressed_model_says(
    made: tuple[str, CompressedModel], file: Path, trained: nn.Module, task: Task
) -> None:
    inputs = next(iter(task.split("test")))[0]
    first, second = copy.deepcopy(trained), copy.deepcopy(trained)
    made[1].apply_to(first), tersenet.load_into(file, second)
    with torch.no_grad():
        assert torch.equal(first(inputs), second(inputs))


def test_the_same_input_gives_the_same_bytes_and_the_users_random_state_stays(
    made: tuple[str, CompressedModel], file: Path, checkpoint: Path, trained: nn.Module
) -> None:
    torch.manual_seed(11)
    drawn, expected = torch.rand(3), torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(3), drawn)
    again = compressed(made[0], checkpoint, trained)
    other = file.with_name("again.terse")
    tersenet.save(again, other)
    assert other.read_bytes() == file.read_bytes()
    assert torch.equal(torch.rand(3), expected)


def test_codes_are_enough_to_make_every_value_and_rounding_without_tersenet(file: Path) -> None:
    model, codes = tersenet.load(file), file.with_name("codes.safetensors")
    write_checkpoint(model, codes, codes=True, overwrite=True)
    found, inputs = values(codes), torch.randn(1000) * 4
    assert found.keys() == model.tensors.keys() | model.aliases.keys()
    for name, entry in model.tensors.items():
        assert found[name].tobytes() == entry.dequantize().numpy().tobytes(), name
    assert roundings(codes).keys() == model.activations.keys()
    for path, rounding in roundings(codes).items():
        assert rounding(inputs.numpy()).tobytes() == model.activations[path](inputs).numpy().tobytes(), path


def test_the_reported_bytes_are_those_on_disk_and_it_verifies(file: Path) -> None:
    summary = verify(file)
    assert summary.size == file.stat().st_size
    assert sum(row.bytes for row in summary.rows) + sum(summary.overhead.values()) == summary.size


def test_a_data_free_method_ignores_the_data(
    made: tuple[str, CompressedModel], checkpoint: Path, trained: nn.Module, task: Task
) -> None:
    name, model = made
    if methods.facts(name).needs != "nothing":
        pytest.skip(f"{name} needs {methods.facts(name).needs}")
    with_data = compressed(name, checkpoint, trained, task)
    assert all(torch.equal(with_data.state_dict()[key], value) for key, value in model.state_dict().items())


def test_the_compressed_network_still_does_its_job(file: Path, trained: nn.Module, task: Task) -> None:
    result = evaluate(tersenet.load(file).apply_to(copy.deepcopy(trained)), task, reference=trained)
    assert result.agreement is not None and result.agreement.mean > 0.97


def test_weights_are_quantised_vectors_are_kept_and_every_kept_tensor_says_why(
    made: tuple[str, CompressedModel],
) -> None:
    for name, entry in made[1].tensors.items():
        if entry.shape.numel() >= 256 and len(entry.shape) > 1:
            assert isinstance(entry, QTensor), name
        elif name == "linear.bias" and made[0] == "accgrad":  # the one method that quantises biases
            assert isinstance(entry, QTensor)
        else:
            assert isinstance(entry, KeptTensor) and entry.reason, name


def test_provenance_holds_method_fields_versions_and_input_but_no_path(
    made: tuple[str, CompressedModel], checkpoint: Path
) -> None:
    provenance = made[1].provenance
    assert provenance["method"] == made[0] and set(provenance) - {"importance", "accgrad", "alq"} == {
        "method",
        "fields",
        "versions",
        "input",
    }
    assert str(checkpoint.parent) not in str(provenance)


@pytest.mark.parametrize("name", methods.names())
def test_the_facts_read_from_the_source_are_those_of_the_class(name: str) -> None:
    cls, facts = methods.get(name), methods.facts(name)
    assert (facts.needs, facts.reference) == (cls.needs, cls.reference)
    assert {field.name for field in facts.fields} == {field.name for field in fields(cls)}
    assert cls().name == name and facts.sentence.endswith(".")


def test_excluded_and_unincluded_tensors_are_kept(checkpoint: Path) -> None:
    model = tersenet.compress(checkpoint, "rtn", include=("conv*",), exclude=("conv2*",))
    kept = {name: entry.reason for name, entry in model.tensors.items() if isinstance(entry, KeptTensor)}
    assert kept["conv2.weight"] == "excluded" and kept["linear.weight"] == "not included"
    assert isinstance(model.tensors["conv3.weight"], QTensor)


def test_side_exact_keeps_every_bit_of_what_is_not_quantised(checkpoint: Path, trained: nn.Module) -> None:
    model = tersenet.compress(checkpoint, "rtn", kept_dtype="exact")
    for name, entry in model.tensors.items():
        if isinstance(entry, KeptTensor):
            assert torch.equal(entry.dequantize(), trained.state_dict()[name])


def test_sides_lose_no_more_than_two_to_the_minus_ten(checkpoint: Path, trained: nn.Module) -> None:
    for name, entry in tersenet.compress(checkpoint, "rtn").tensors.items():
        if isinstance(entry, KeptTensor):
            value = trained.state_dict()[name]
            assert ((entry.dequantize() - value).abs() <= value.abs() * 2**-10).all()


@pytest.mark.filterwarnings("ignore:bn='scale-shift' takes eps")
def test_a_batch_norm_of_scale_and_shift_computes_the_same_with_fewer_bytes(
    checkpoint: Path, trained: nn.Module, task: Task, tmp_path: Path
) -> None:
    inputs = next(iter(task.split("test")))[0]
    keep, pair = (
        tersenet.compress(checkpoint, "rtn", exclude=("*.weight",), kept_dtype="exact", bn=bn)
        for bn in ("keep", "scale-shift")
    )
    with torch.no_grad():
        a = keep.apply_to(copy.deepcopy(trained))(inputs)
        b = pair.apply_to(copy.deepcopy(trained))(inputs)
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)
    assert tersenet.save(pair, tmp_path / "p.terse") < tersenet.save(keep, tmp_path / "k.terse")
    assert summarize(tmp_path / "p.terse").batch_norm == "scale-shift"
