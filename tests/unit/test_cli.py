"""The commands: exit codes, JSON, what they import, and a user's own network from outside the repository."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tersenet
from tersenet.cli import main
from tersenet.methods import settings

TUTORIAL = (Path(__file__).parents[2] / "docs" / "tutorials" / "2-network-and-data.md").read_text("utf-8")
EXAMPLE = TUTORIAL.split('```python title="cnn.py"\n')[1].split("```")[0]


def run(*arguments: str | Path) -> int:
    """The exit code of a command run in this process."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def file(checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / "x.terse"
    assert run("compress", checkpoint, "-o", path, "--target-bits", "3") == 0
    return path


def test_the_issue_s_commands_work_one_after_the_other(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terse, back = tmp_path / "d.terse", tmp_path / "back.safetensors"
    assert run("compress", checkpoint, "-o", terse, "--target-bits", "3") == 0
    assert run("inspect", terse) == 0
    assert run("verify", terse) == 0
    assert run("decompress", terse, "-o", back) == 0
    assert load_file(back).keys() == load_file(checkpoint).keys()
    assert run("eval", terse, "--model", "digits", "--task", "digits", "--against", checkpoint) == 0
    shown = capsys.readouterr().out
    assert f"{terse.stat().st_size:,}" in shown and "conv2.weight" in shown and "95 % interval" in shown


def test_every_command_prints_one_json_object(file: Path, checkpoint: Path, tmp_path: Path, capsys) -> None:
    commands = [
        ["compress", checkpoint, "-o", tmp_path / "y.terse", "--method", "rtn", "--bits", "4"],
        ["inspect", file],
        ["verify", file],
        ["decompress", file, "-o", tmp_path / "b.safetensors"],
        ["eval", file, "--model", "digits", "--task", "digits"],
        ["methods"],
        ["methods", "vlcq"],
    ]
    for command in commands:
        capsys.readouterr()
        assert run(*command, "--json") == 0
        assert isinstance(json.loads(capsys.readouterr().out), dict), command


def test_codes_are_integers_that_rebuild_the_values(file: Path, tmp_path: Path) -> None:
    assert run("decompress", file, "-o", tmp_path / "c.safetensors", "--as", "codes") == 0
    assert run("decompress", file, "-o", tmp_path / "v.safetensors") == 0
    codes, values = load_file(tmp_path / "c.safetensors"), load_file(tmp_path / "v.safetensors")
    assert not codes["conv2.weight"].is_floating_point()
    assert torch.equal(codes["conv2.weight"].float() * codes["conv2.weight:scale"], values["conv2.weight"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["verify", "{tmp}/nothing.terse"], 1, "cannot be read"),
        (["compress", "{tmp}/nothing.safetensors", "-o", "{tmp}/o.terse"], 1, "no such file"),
        (
            ["compress", "{net}", "-o", "{tmp}/o.terse", "--method", "magic"],
            2,
            "the methods are accgrad, alq, apot, bsq, cpq, imprint, lapq, lsq, mirror, pot, rtn, vlcq",
        ),
        (
            ["compress", "{net}", "-o", "{tmp}/o.terse", "--bots", "3"],
            2,
            "vlcq has no option '--bots' (did you mean '--bn'?); it has --bn, --calibrate",
        ),
        (
            ["compress", "{net}", "-o", "{tmp}/o.terse", "--bits", "3"],
            2,
            "vlcq has no option '--bits' (did you mean '--layer-bits', '--target-bits' or '--nominal-bits'?)",
        ),
        (
            ["compress", "{net}", "-o", "{tmp}/o.terse", "--target-bits", "many"],
            2,
            "--target-bits many: expected a number, above 0",
        ),
        (
            ["compress", "{net}", "-o", "{tmp}/o.terse", "--bn", "drop"],
            2,
            "--bn drop: expected 'keep', 'scale-shift' or 'fold'",
        ),
        (["compress", "{net}", "-o", "{tmp}/o.terse", "--bn", "fold"], 2, "--model"),
        (["compress", "{net}", "-o", "{tmp}/o.terse", "--model", "imaginary"], 2, "they are resnet20"),
        (["compress", "{net}", "-o", "{tmp}/o.terse", "--model", "lenet5"], 1, "missing in the file"),
        (["compress", "{net}", "-o", "{tmp}/o.terse", "--model", "{tmp}/no.py:make"], 2, "there is no file"),
        (["compress", "{net}", "-o", "{tmp}/gone/o.terse"], 1, "is not a folder"),
        (["compress", "{net}", "-o", "{tmp}/o.terse", "--max-bytes", "100"], 1, "bytes too many"),
        (["decompress", "{net}", "-o", "{tmp}/o.safetensors"], 1, "is a safetensors checkpoint"),
        (["eval", "{net}", "--model", "digits", "--task", "tarot"], 2, "no task 'tarot'"),
        (["frobnicate"], 2, ""),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_failures_have_exit_code_1_and_wrong_usage_2(
    arguments: list[str], code: int, says: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(tmp=tmp_path, net=checkpoint) for argument in arguments]
    assert run(*filled) == code
    assert says in capsys.readouterr().err
    left = {path.name for path in tmp_path.glob("*o.terse*")}
    nearest = {"o.terse", "o.terse.card.json", "o.terse.search"}
    assert left == (nearest if "--max-bytes" in arguments else set())


def test_an_existing_output_is_replaced_only_with_overwrite(file: Path, checkpoint: Path, capsys) -> None:
    before = file.read_bytes()
    assert run("compress", checkpoint, "-o", file, "--target-bits", "2") == 1
    assert "--overwrite" in capsys.readouterr().err and file.read_bytes() == before
    assert run("compress", checkpoint, "-o", file, "--target-bits", "2", "--overwrite") == 0
    assert file.stat().st_size < len(before)


def test_help_is_fast_and_inspecting_never_imports_torch(file: Path) -> None:
    script = (
        "import sys; from tersenet.cli import main\n"
        "for arguments in (['methods'], ['methods', 'vlcq'], ['inspect', sys.argv[1]], ['verify', sys.argv[1]]):\n"
        "    try: main(arguments)\n"
        "    except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(file)], check=True, stdout=subprocess.DEVNULL)
    started = time.process_time()
    subprocess.run([sys.executable, "-m", "tersenet", "--help"], check=True, stdout=subprocess.DEVNULL)
    assert time.process_time() - started < 5


def test_a_users_own_network_and_metric_work_from_outside_the_repository(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(EXAMPLE)
    namespace: dict = {}
    exec(EXAMPLE, namespace)
    torch.manual_seed(0)
    save_file(namespace["make"](24).state_dict(), tmp_path / "net.safetensors")
    tersenet = [sys.executable, "-m", "tersenet"]
    model = ["--model", "my.py:make", "--model-arg", "width=24"]
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    for command in (
        [
            "compress",
            "net.safetensors",
            "-o",
            "net.terse",
            *model,
            "--target-bits",
            "4",
            "--images",
            "8",
            "--synthesis-steps",
            "4",
        ],
        ["eval", "net.terse", *model, "--task", "my.py:make_task", "--against", "net.safetensors", "--json"],
    ):
        done = subprocess.run([*tersenet, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["agreement"]["n"] == 100


@pytest.mark.parametrize(("text", "value"), [("True", True), ("false", False), ("None", None), ("3", 3), ("a", "a")])
def test_arguments_of_models_and_tasks_are_read_as_python_or_json(text: str, value: object) -> None:
    from tersenet.cli.factory import _keywords

    assert _keywords([f"x={text}"]) == {"x": value}


def test_no_command_writes_over_what_it_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, small = tmp_path / "net.safetensors", tmp_path / "net.terse"
    save_file({"a.weight": torch.ones(32, 32)}, net)
    for command in (
        ["compress", str(net), "-o", str(net), "--method", "rtn", "--overwrite"],
        ["compress", str(net), "-o", str(small), "--method", "rtn"],
        ["compress", str(net), "-o", str(net), "--method", "rtn", "--max-bytes", "900", "--overwrite"],
        ["decompress", str(small), "-o", str(small), "--overwrite"],
    ):
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(SystemExit) as stop:
            main(command)
        if command[3] == str(small) and command[0] == "compress":
            assert stop.value.code == 0
            continue
        assert stop.value.code == 1 and "is what is read" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"tersenet {tersenet.__version__}\n"


WRONG = {
    "a boolean that is no boolean": ["--method", "rtn", "--affine=perhaps"],
    "a negated number": ["--method", "rtn", "--no-bits", "3"],
    "an unknown effort": ["--effort", "heroic"],
    "calibration without data": ["--calibrate"],
    "arguments for no model": ["--model-arg", "a=b"],
    "an include that matches nothing": ["--include", "nothing*"],
    "rtn cannot fold": ["--method", "rtn", "--bn", "fold"],
    "a folder for a training that is none": ["--run", "somewhere"],
    "an unknown argument of the model": ["--model", "digits", "--model-arg", "depth=3", "--task", "x.py:y"],
}


@pytest.mark.parametrize("flags", WRONG.values(), ids=WRONG.keys())
def test_wrong_usage_is_named_and_nothing_is_written(
    flags: list[str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compress", str(checkpoint), "-o", str(tmp_path / "o.terse"), "--json", *flags])
    assert stop.value.code == 2 and not list(tmp_path.iterdir())
    assert json.loads(capsys.readouterr().out)["error"] == "UsageError"


def main_ok(arguments: list[str]) -> None:
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code


def test_false_is_false(checkpoint: Path, tmp_path: Path) -> None:
    main_ok(["compress", str(checkpoint), "-o", str(tmp_path / "o.terse"), "--method", "rtn", "--affine=false"])
    (affine,) = (s for s in settings(tersenet.load(tmp_path / "o.terse").provenance).fields if s.name == "affine")
    assert affine.value is False


def test_names_with_brackets_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tersenet.CompressedModel({"blocks[attn].w": tersenet.KeptTensor(torch.ones(3), torch.float32, "[/red]")})
    tersenet.save(model, tmp_path / "x.terse")
    main_ok(["inspect", str(tmp_path / "x.terse")])
    assert "blocks[attn].w" in capsys.readouterr().out
