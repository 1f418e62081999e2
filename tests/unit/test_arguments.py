"""What is no file, no model and no number is told so, in words of the caller."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tersenet
from tersenet.errors import InputError, SizeLimitError, UsageError


@pytest.mark.parametrize("what", [{"a": torch.zeros(2)}, 3, None, b"x.safetensors"], ids=str)
def test_what_cannot_be_compressed_is_a_usage_error(what: Any) -> None:
    with pytest.raises(UsageError, match="expected a module, a path or a Checkpoint"):
        tersenet.compress(what, "rtn")


def test_what_cannot_be_saved_or_loaded_is_a_usage_error(tmp_path: Path) -> None:
    small = tersenet.compress(torch.nn.Linear(64, 64), "rtn")
    with pytest.raises(UsageError, match="expected what compress"):
        tersenet.save(3, tmp_path / "x.terse")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected a path"):
        tersenet.save(small, 3)  # type: ignore[arg-type]
    tersenet.save(small, tmp_path / "x.terse")
    for wrong in (0, -5, "x"):
        with pytest.raises(UsageError, match="expected a number of bytes"):
            tersenet.load(tmp_path / "x.terse", max_output=wrong)  # type: ignore[arg-type]
    for place in (3, b"x", {1: 2}):
        with pytest.raises(UsageError, match="expected the path of a file"):
            tersenet.load(place)  # type: ignore[arg-type]


def test_a_refusal_for_size_names_the_number_that_is_compared(tmp_path: Path) -> None:
    tersenet.save(tersenet.compress(torch.nn.Linear(64, 64), "rtn"), tmp_path / "x.terse")
    with pytest.raises(SizeLimitError, match=r"count as [\d,]+ bytes; 100 are allowed"):
        tersenet.load(tmp_path / "x.terse", max_output=100)


def test_an_empty_log_is_named(tmp_path: Path) -> None:
    from tersenet.search.within import _own

    (tmp_path / "log").touch(), (tmp_path / "x.terse").touch()
    with pytest.raises(InputError, match="is empty"):
        _own(tmp_path / "x.terse", tmp_path / "log")
    assert (tmp_path / "log").stat().st_size == 0
