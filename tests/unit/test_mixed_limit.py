"""Integers coded by context mixing take long to decode, so they count for more than their bytes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tersenet.core.grid import Uniform
from tersenet.core.model import CompressedModel, QTensor
from tersenet.errors import SizeLimitError
from tersenet.files.summary import verify
from tersenet.files.terse import load, save


def test_sixteen_bytes_for_every_integer_and_a_share_for_every_array(tmp_path: Path) -> None:
    rows = np.exp(np.random.default_rng(0).standard_normal((300, 1)))
    codes = np.round(np.random.default_rng(1).standard_normal((300, 100)) * rows).astype(np.int8).reshape(300, 4, 5, 5)
    grid = Uniform(torch.tensor(0.5))
    model = CompressedModel({"w": QTensor(torch.from_numpy(codes), grid)})
    save(model, tmp_path / "best.terse", effort="best")
    save(model, tmp_path / "fast.terse", effort="fast")
    assert verify(tmp_path / "best.terse").rows[0].coder == "cm"
    counted = 4 * codes.size + 16 * codes.size + 65_536
    with pytest.raises(SizeLimitError, match=f"max_output={counted}"):
        load(tmp_path / "best.terse", max_output=counted - 1)
    small = load(tmp_path / "best.terse", max_output=counted).tensors["w"]
    assert isinstance(small, QTensor) and np.array_equal(small.codes.numpy(), codes)
    load(tmp_path / "fast.terse", max_output=4 * codes.size)
