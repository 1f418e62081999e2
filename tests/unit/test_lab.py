"""Reference networks and data sets."""

import gzip
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tersenet.errors import InputError, UsageError
from tersenet.lab import images
from tersenet.lab.models import MODELS, build

SIZES = {
    "lenet300": 266_610, "lenet5": 431_080, "resnet20": 269_722, "resnet32": 464_154, "resnet44": 658_586,
    "resnet56": 853_018, "alexnet": 23_272_266, "vgg7": 12_978_058, "vgg16": 14_986_698, "digits": 57_000,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_reference_network_runs_and_has_its_number_of_parameters(name: str) -> None:
    net = build(name).eval()
    shape = (1, 8, 8) if name == "digits" else (1, 28, 28) if name.startswith("lenet") else (3, 32, 32)
    with torch.no_grad():
        assert net(torch.zeros(2, *shape)).shape == (2, 10)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == pytest.approx(SIZES[name], rel=0.05 if name == "digits" else 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with small data sets in the published formats."""
    rng = np.random.default_rng(0)
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        content = {
            b"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8),
            b"labels": rng.integers(0, 10, 20).tolist(),
        }
        (batches / name).write_bytes(pickle.dumps(content))
    for prefix, count in (("train", 60), ("t10k", 20)):
        head = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        with gzip.open(tmp_path / f"{prefix}-images-idx3-ubyte.gz", "wb") as stream:
            stream.write(head + rng.integers(0, 256, count * 784, dtype=np.uint8).tobytes())
        labels = b"\0\0\x08\x01" + count.to_bytes(4, "big") + rng.integers(0, 10, count, dtype=np.uint8).tobytes()
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    return tmp_path


def test_the_published_files_are_read(folder: Path) -> None:
    x, y = images.read_cifar10(folder, "train")
    assert x.shape == (100, 3, 32, 32) and x.dtype == torch.uint8 and y.shape == (100,)
    x, y = images.read_mnist(folder, "test")
    assert x.shape == (20, 1, 28, 28) and y.dtype == torch.int64
    assert next(iter(images.mnist(str(folder)).split("test")))[0].shape == (20, 1, 28, 28)


def test_the_same_seed_gives_the_same_batches_and_another_round_others(folder: Path) -> None:
    normalised = images.Normalisation((0.5,) * 3, (0.2,) * 3)
    read = partial(images.read_cifar10, folder, "train")
    train = images.Images(read, slice(0, 90), 40, normalised, shuffle=True, shift=4, flip=True)
    assert len(train) == 3
    torch.manual_seed(1)
    first, other = list(train), list(train)
    torch.manual_seed(1)
    again = list(train)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], other[0][0])


def test_a_shift_moves_the_image_and_fills_with_black() -> None:
    torch.manual_seed(0)
    given = torch.arange(1, 26, dtype=torch.uint8).reshape(1, 1, 5, 5).repeat(200, 1, 1, 1)
    moved = images.shifted(given, 1)
    found = {tuple(image.flatten().tolist()) for image in moved}
    assert len(found) == 9 and tuple(given[0].flatten().tolist()) in found
    right = torch.nn.functional.pad(given[:1], (1, 0))[..., :5]
    assert tuple(right.flatten().tolist()) in found


def test_data_that_is_not_there_or_could_run_code_is_a_clear_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TERSENET_DATA", raising=False)
    with pytest.raises(UsageError, match="TERSENET_DATA"):
        images.cifar10()
    with pytest.raises(InputError, match="put MNIST there"):
        images.read_mnist(folder / "cifar-10-batches-py", "train")

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return print, ("run",)

    (folder / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="is not CIFAR-10"):
        images.read_cifar10(folder, "test")
