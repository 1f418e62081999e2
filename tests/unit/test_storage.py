"""Bytes in the storage formats of the literature, for files of any method."""

from pathlib import Path

import tersenet
from tersenet.report.size import csr_bits, storage


def test_csr_counts_values_columns_tags_and_row_pointers() -> None:
    assert csr_bits((300, 784), {4: 1000, 6: 100}, 1) == 4000 + 600 + 1100 * (10 + 1) + 301 * 11
    assert csr_bits((500,), {5: 3}, 0) == 15 + 3 * 9 + 2 * 2
    assert csr_bits((20, 1, 5, 5), {}, 2) == 0


def test_every_format_is_counted_for_files_of_other_methods(checkpoint: Path, tmp_path: Path) -> None:
    for method, fields in (("rtn", {"bits": 4}), ("rtn", {"bits": 3, "affine": True}), ("vlcq", {"target_bits": 1.0})):
        size = tersenet.save(tersenet.compress(checkpoint, method, **fields), tmp_path / "x.terse", overwrite=True)
        found = storage(tmp_path / "x.terse")
        assert found.file == size and found.beside < min(found.csr, found.relative, found.bitmap, found.dense)
        assert found.nonzeros <= found.weights <= found.fp32 // 4
        if method == "rtn" and not fields.get("affine"):
            assert found.dense == found.beside + found.weights * 4 // 8
        if method == "vlcq":
            assert found.file < min(found.csr, found.relative, found.bitmap, found.dense)
