"""On the command line, messages speak of flags."""

from pathlib import Path

import pytest

from tersenet.cli import main
from tersenet.cli.wording import in_flags


@pytest.mark.parametrize(
    ("python", "flags"),
    [
        ("x.terse exists: give overwrite=True, or another", "x.terse exists: give --overwrite, or another"),
        ("bn='fold' needs module=, or bn=\"scale-shift\".", "--bn fold needs --model, or --bn scale-shift."),
        ("the code (module=) and data (task=)", "the code (--model) and data (--task)"),
        ("give max_output=123.", "give --max-output 123."),
        ("lr=-1: expected a number", "--lr -1: expected a number"),
        ("zero_level=False is slower", "--no-zero-level is slower"),
        ("keep it with exclude=('a b',)", "keep it with --exclude 'a b'"),
        ("stages=(8, 4): too long", "--stages 8 --stages 4: too long"),
        ("start='runs/a': there is nothing", "--from runs/a: there is nothing"),
        ("begin with run=RunFolder('r')", "begin with --run r"),
        ("go on with run=RunFolder('r', resume=True)", "go on with --resume r"),
        ("layer_bits={'a': 'b'}: no", "--layer-bits {'a': 'b'}: no"),
        ('`estimator="qea"` and `module=`', "`--estimator qea` and `--model`"),
    ],
)
def test_names_with_values_become_flags(python: str, flags: str) -> None:
    assert in_flags(python) == flags


@pytest.mark.parametrize(
    "text",
    [
        "give Task(..., train=batches, seed=3)", "n = 3, p=0.5", "--bits=3 is not enough", "the_bits=3", "a.bits=3",
        "at https://x.org/?bits=3", "no names at all",
    ],
)  # fmt: skip
def test_everything_else_stays(text: str) -> None:
    assert in_flags(text) == text


def test_an_error_of_a_command_names_its_flags(checkpoint: Path, tmp_path: Path, capsys) -> None:
    for options, says in (
        (["--kept-dtype", "fp32"], "--kept-dtype fp32: expected 'fp16' or 'exact'"),
        (
            ["--method", "rtn", "--equalise", "--bn", "scale-shift"],
            "--equalise needs batch norm folded: give --bn fold",
        ),
        (["--calibrate"], "--calibrate needs the network's code (--model) and a calibration split (--task)"),
    ):
        with pytest.raises(SystemExit):
            main(["compress", str(checkpoint), "-o", str(tmp_path / "o.terse"), *options])
        assert says in capsys.readouterr().err
