"""Every attack ends in a typed error or a right result, whatever is done with the file, and takes little."""

import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from attacks import ATTACKS  # noqa: E402
from bombs import BOMBS, HEAVY, many  # noqa: E402
from mutate import judge, mutant, seeds  # noqa: E402
from parts import honest, kept, quantised  # noqa: E402

from tersenet.cli import main  # noqa: E402
from tersenet.errors import FormatError, SizeLimitError  # noqa: E402
from tersenet.files.summary import summarize, verify  # noqa: E402
from tersenet.files.terse import load  # noqa: E402

CASES = Path(os.environ.get("TERSENET_CASES", Path(os.environ.get("TERSENET_DATA", "nowhere")).parent / "cases"))
GIVEN = sorted((CASES / "attacks").glob("*.terse"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.terse"


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_in_a_typed_error_or_a_result_that_two_readers_agree_on(name: str, file: Path) -> None:
    file.write_bytes(ATTACKS[name]())
    assert judge(file) == []


@pytest.mark.parametrize("given", GIVEN, ids=lambda path: path.stem)
def test_a_given_attack_ends_likewise(given: Path, file: Path) -> None:
    file.write_bytes(given.read_bytes())
    assert judge(file) == []


REFUSED = [
    name
    for name in ATTACKS
    if name.startswith(("act_", "layout_", "index_", "scale_", "kept_bool", "trellis_", "low_"))
]
REFUSED += [
    "duplicate_json_keys",
    "batch_norm_empty",
    "data_section_with_a_kind",
    "provenance_1e400",
    "prov_nested_400",
]
REFUSED += ["kept_complex_as_int", "kept_f64_nan_as_bool", "kept_i64_as_f8", "kept_u64_as_u16", "kept_100_dims"]
REFUSED += ["kept_zstd_empty_with_junk", "coder2_empty_frame_with_junk", "coder2_chunk_claims_100GB", "grid_kind_list"]
REFUSED += ["constant_out_of_type", "constant_out_of_type_of_nothing", "zero_point_extreme", "zero_point_nan_f64"]
REFUSED += ["group_rows_zero", "group_row_zero_len", "quant_100_dims", "codes_outside_codebook"]
OPENED = ["kept_constant_of_nothing", "kept_zstd_empty", "kept_c128", "group_1d", "axis_dim_zero", "codebook_axis_1d"]
OPENED += [
    "name_ansi",
    "name_bidi",
    "name_empty",
    "codebook_of_nothing",
    "coder2_empty_frame_for_nothing",
    "group_size_2p48",
]


@pytest.mark.parametrize("name", REFUSED)
def test_what_two_readers_could_read_differently_is_refused(name: str, file: Path) -> None:
    file.write_bytes(ATTACKS[name]())
    with pytest.raises(FormatError, match=r"x\.terse"):
        verify(file)


@pytest.mark.parametrize("name", OPENED)
def test_what_is_odd_but_clear_opens(name: str, file: Path) -> None:
    file.write_bytes(ATTACKS[name]())
    verify(file)
    assert load(file).state_dict()


def test_an_honest_file_opens(file: Path) -> None:
    file.write_bytes(honest())
    assert judge(file) == []
    assert len(verify(file).rows) == 1


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_and_a_limit_names_the_number_to_allow(name: str, file: Path) -> None:
    file.write_bytes(BOMBS[name]())
    with pytest.raises(FormatError, match=r"x\.terse") as caught:
        verify(file)
    if isinstance(caught.value, SizeLimitError) and "amplify" in name:
        number = int(str(caught.value).rpartition("max_output=")[2])
        summarize(file, max_output=number)
        with pytest.raises(SizeLimitError):
            summarize(file, max_output=number - 1)


def test_the_default_limit_is_256_mib_or_250_times_the_file(file: Path) -> None:
    for elements, padding, opens in ((1 << 27, 0, True), ((1 << 27) + 1, 0, False), (1 << 28, 4 << 20, True)):
        file.write_bytes(claim(elements, padding))
        if opens:
            assert summarize(file).original_bytes == 2 * elements
        else:
            with pytest.raises(SizeLimitError, match=f"max_output={2 * elements}$"):
                summarize(file)


def claim(elements: int, padding: int) -> bytes:
    """A file of one constant in fp16, and of bytes that nobody reads."""
    more = {"sections": [[padding, "note", False]], "contents": [bytes(padding)]} if padding else {}
    return kept(b"\0\0", shape=[elements], dtype="f16", storage=2, **more)


LIMITED = """
import resource, sys
from tersenet.files.summary import summarize, verify
from tersenet.report.size import storage
summarize(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (held() + (1 << 29), held() + (1 << 29)))
for work in (verify, storage):
    work(sys.argv[1])
"""
HELD = """
def held():
    return int(open("/proc/self/statm").read().split()[0]) * 4096
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the address space from /proc")
@pytest.mark.parametrize("name", ["const_256MiB", "kept_256MiB_zstd"])
def test_what_the_limit_allows_is_verified_in_half_a_gigabyte(name: str, file: Path) -> None:
    file.write_bytes(HEAVY[name]())
    run = subprocess.run([sys.executable, "-c", HELD + LIMITED, str(file)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_a_large_tensor_is_decoded_with_little_beside_it(file: Path) -> None:
    """A quarter of the largest that the default limit allows: the peak is codes, result and a few pieces."""
    count = 1 << 25
    file.write_bytes(quantised([1 << 12, count >> 12], b"\x80\2", dtype="f16"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state = load(file).state_dict()
    assert state["z"].numel() == count
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 3 * count + (96 << 20)


@pytest.mark.parametrize("name", ["name_ansi", "name_bidi", "reason_ansi", "provmethod_ansi", "err_ansi", "name_1MB"])
def test_no_control_character_of_a_file_reaches_the_terminal(
    name: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(ATTACKS[name]())
    for command in (["inspect"], ["inspect", "--json"], ["verify"], ["inspect", "--storage"]):
        with contextlib.suppress(SystemExit):
            main([*command, str(file)])
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert all(character.isprintable() or character == "\n" for character in text)
    assert len(shown.err) < 5000


def test_no_attack_is_a_fault_for_a_command_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, made in ATTACKS.items():
        file.write_bytes(made())
        with pytest.raises(SystemExit) as stop:
            main(["inspect", "--storage", str(file)])
        assert stop.value.code in (0, 1) and "fault of tersenet" not in capsys.readouterr().err, name


def test_a_table_of_very_many_tensors_says_how_many_it_leaves_out(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(many(1500))
    main_in_process(["inspect", str(file)])
    shown = capsys.readouterr().out
    assert "(501 more rows are not shown: --json has them all)" in shown and "total" in shown
    main_in_process(["inspect", "--json", str(file)])
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 1501


def main_in_process(arguments: list[str]) -> None:
    with contextlib.suppress(SystemExit):
        main(arguments)


@pytest.mark.parametrize("block", range(4))
def test_mutants_of_valid_files_end_in_a_typed_error_or_a_result_that_two_readers_agree_on(
    block: int, file: Path
) -> None:
    every, faults = seeds(), []
    for seed in range(100 * block, 100 * block + 100):
        file.write_bytes(mutant(every, random.Random(seed)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            faults += [f"seed {seed}: {fault}" for fault in judge(file)]
    assert faults == []
