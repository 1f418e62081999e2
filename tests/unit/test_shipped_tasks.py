"""Tasks that come with tersenet: language models and encoders on a text file, pictures by class, frames of sounds."""

import json
import math
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize

import tersenet
from tersenet.analysis.evaluate import evaluate
from tersenet.cli import main
from tersenet.cli.factory import make_task
from tersenet.errors import InputError, UsageError
from tersenet.search.target import Target

WORDS = [f"w{i}" for i in range(60)]


def text(n: int = 3000, seed: int = 0) -> str:
    """Sentences of eleven words."""
    words = np.random.default_rng(seed).choice(WORDS, n).tolist()
    return "\n".join(" ".join(words[i : i + 11]) + ", as it was said before ." for i in range(0, n, 11))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random causal model with a tokenizer of words."""
    transformers = pytest.importorskip("transformers", minversion="5.20")
    tokenizers = pytest.importorskip("tokenizers")
    place = tmp_path_factory.mktemp("language")
    vocabulary = {word: i for i, word in enumerate(["[UNK]", "[PAD]", "[MASK]", *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(place)
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=63, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    transformers.GPT2LMHeadModel(config).save_pretrained(place)
    (place / "text.txt").write_text(text())
    (place / "test.txt").write_text(text(seed=1))
    return place


def networks(folder: Path) -> tuple[nn.Module, nn.Module]:
    """The original and one with other weights."""
    from transformers import GPT2LMHeadModel

    one, other = (GPT2LMHeadModel.from_pretrained(folder).eval() for _ in range(2))
    with torch.no_grad():
        for part in other.parameters():
            part.add_(torch.randn(part.shape, generator=torch.Generator().manual_seed(1)), alpha=0.02)
    return one, other


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_text_is_judged_by_perplexity_divergence_and_top_token_as_by_hand(folder: Path) -> None:
    task = make_task("text", [f"file={folder}/text.txt", f"test={folder}/test.txt", "windows=6", "length=32"], folder)
    original, network = networks(folder)
    result = evaluate(network, task, "test", original)
    batches = list(task.batches("test"))
    ids = torch.cat([batch.inputs["input_ids"] for batch in batches])
    assert ids.shape == (6, 32)
    with torch.no_grad():
        ours, theirs = (log_softmax(net(ids).logits[:, :-1], -1) for net in (network, original))
    loss = cross_entropy(ours.flatten(0, 1), ids[:, 1:].flatten())
    assert result.metric is not None and result.metric.mean == pytest.approx(math.exp(loss), rel=1e-5)
    divergence = kl_div(ours.flatten(0, 1), theirs.flatten(0, 1), reduction="batchmean", log_target=True)
    assert result.comparisons["KL"].mean == pytest.approx(float(divergence), rel=1e-4)
    assert result.comparisons["KL"].low < result.comparisons["KL"].mean < result.comparisons["KL"].high
    other = (ours.argmax(-1) != theirs.argmax(-1)).float().mean()
    assert result.comparisons["other top token"].mean == pytest.approx(float(other))
    assert result.agreement is not None and result.agreement.mean == pytest.approx(1 - float(other))
    assert result.agreement_name == "same top token"


@pytest.mark.parametrize(("drop", "unit"), [("perplexity", "perplexity"), ("KL", "KL"), ("top", "points of top token")])
def test_a_drop_is_in_the_unit_of_the_task(folder: Path, drop: str, unit: str) -> None:
    given = [f"file={folder}/text.txt", "windows=4", "length=32", f"drop={drop}"]
    task = make_task("text", given, folder)
    original, network = networks(folder)
    result = evaluate(network, task, "validation", original)
    assert result.drop is not None and task.unit == unit
    expected = {"KL": "KL", "top": "other top token"}.get(drop)
    assert expected is None or result.drop == result.comparisons[expected]
    assert evaluate(original, task, "validation", original).drop.mean == pytest.approx(0, abs=1e-6)  # type: ignore[union-attr]
    assert unit in str(Target(max_drop=0.5, unit=task.unit))


def test_a_masked_model_predicts_hidden_tokens_only(folder: Path) -> None:
    task = make_task("text", [f"file={folder}/text.txt", "windows=4", "length=32", "masked=true"], folder)
    batch = next(task.batches("test"))
    hidden = batch.targets != -100
    assert 0 < hidden.float().mean() < 0.2 and bool((batch.inputs["input_ids"][hidden] == 2).all())


def test_splits_of_one_text_have_nothing_in_common(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "count.txt").write_text(" ".join(WORDS[i // 100 % 60] for i in range(6000)))
    task = make_task("text", [f"file={tmp_path}/count.txt", "length=20", "windows=100"], folder)
    seen = [{int(t) for batch in task.batches(split) for t in batch.inputs["input_ids"].flatten()}
            for split in ("calibration", "train", "validation", "test")]  # fmt: skip
    assert all(len(one & other) <= 1 for i, one in enumerate(seen) for other in seen[i + 1 :])


def test_commands_find_the_tokenizer_and_name_the_unit(folder: Path, tmp_path: Path, capsys: Any) -> None:
    small = tmp_path / "small.terse"
    task = ["--task", "text", "--task-arg", f"file={folder}/text.txt", "--task-arg", "windows=4",
            "--task-arg", "length=32", "--task-arg", "drop=KL"]  # fmt: skip
    command = ["compress", str(folder), "-o", str(small), "--method", "rtn", "--model", "auto", *task]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--max-drop", "0.5"])
    out = capsys.readouterr().out
    assert not stop.value.code and "a drop of at most 0.5 KL" in out and "points" not in out
    with pytest.raises(SystemExit):
        main(["eval", str(small), "--model", "auto", "--against", str(folder), *task])
    out = capsys.readouterr().out
    assert all(word in out for word in ("metric", "drop in KL", "other top token", "agreement (same top token)"))
    alone = tmp_path / "elsewhere"
    alone.mkdir()
    small.rename(alone / "small.terse")  # the tokenizer is attached
    with pytest.raises(SystemExit) as stop:
        main(["eval", str(alone / "small.terse"), "--model", "auto", *task, "--json"])
    assert not stop.value.code and json.loads(capsys.readouterr().out)["metric"]["mean"] > 1


def test_embeddings_are_judged_by_cosine_and_nearest_neighbour(folder: Path) -> None:
    task = make_task("embeddings", [f"file={folder}/text.txt", "n=20", "drop=nearest"], folder)

    class Encoder(nn.Module):
        """Embeddings of tokens, as a mapping."""

        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.table = nn.Embedding(63, 16).requires_grad_(False)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **more: Any) -> tuple[torch.Tensor]:
            return (self.table(input_ids),)

    one, other = Encoder(0), Encoder(1)
    result = evaluate(one, task, "test", other)
    (batch,) = task.batches("test")
    mask = batch.inputs["attention_mask"].unsqueeze(-1)
    ours, theirs = (
        normalize((net.table(batch.inputs["input_ids"]) * mask).sum(1) / mask.sum(1), dim=1) for net in (one, other)
    )
    assert result.agreement is not None
    assert result.agreement.mean == pytest.approx(float((ours * theirs).sum(1).mean()), abs=1e-5)
    nearest = [(each @ each.T).fill_diagonal_(-9).argmax(1) for each in (ours, theirs)]
    share = float((nearest[0] != nearest[1]).float().mean())
    assert result.drop is not None and result.drop.mean == pytest.approx(share)
    assert task.unit == "points of nearest neighbour"


def test_text_that_is_too_short_or_missing_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("w1 w2")
    for where, given, kind, says in (
        ("text", [f"file={tmp_path}/short.txt"], InputError, "less than two windows of 512"),
        ("embeddings", [f"file={tmp_path}/short.txt"], InputError, "0 sentences"),
        ("text", [f"file={tmp_path}/none.txt"], InputError, "cannot be read as text"),
        ("text", [f"file={folder}/text.txt", "drop=accuracy"], UsageError, "drop='accuracy'"),
        ("text", [f"file={folder}/text.txt", f"folder={tmp_path}"], InputError, "no tokenizer"),
        ("text", ["length=3"], UsageError, "missing a required argument: 'file'"),
    ):
        with pytest.raises(kind, match=says):
            make_task(where, given, folder)
    with pytest.raises(UsageError, match="no tokenizer in or beside"):
        make_task("text", [f"file={folder}/text.txt"], tmp_path / "net.pt")


def pictures(place: Path, n: int = 12) -> None:
    image = pytest.importorskip("PIL.Image")
    for number, name in enumerate(("cat", "dog")):
        (place / name).mkdir(parents=True)
        for i in range(n):
            image.new("RGB", (20 + i, 16), (255 * number, 0, 10 * i)).save(place / name / f"{i}.png")


def test_pictures_are_labelled_by_their_folder(tmp_path: Path) -> None:
    pictures(tmp_path / "all")
    task = make_task("images", [f"folder={tmp_path}/all", "size=8", "mean=0,0,0", "std=1,1,1"])
    batches = [batch for split in ("train", "validation", "test") for batch in task.batches(split)]
    assert sum(map(len, batches)) == 24
    for batch in batches:
        assert batch.inputs.shape[1:] == (3, 8, 8) and torch.equal(
            (batch.inputs[:, 0, 4, 4] > 0.5).long(), batch.targets
        )
    for split in ("train", "val", "test"):
        pictures(tmp_path / "split" / split, 4)
    task = make_task("images", [f"folder={tmp_path}/split", "size=8", "mean=0.5", "std=0.5"])
    assert [sum(map(len, task.batches(s))) for s in ("train", "validation", "test")] == [8, 8, 8]
    assert next(task.batches("test")).inputs.shape[1:] == (1, 8, 8)


def test_frames_of_wav_files_are_normalised_and_quiet_ones_left_out(tmp_path: Path) -> None:
    for number in range(4):
        sound = np.sin(np.arange(4000) * 0.1 * (number + 1)) * 20000
        sound[2000:] = 0
        with wave.open(str(tmp_path / f"{number}.wav"), "wb") as opened:
            opened.setnchannels(2)
            opened.setsampwidth(2)
            opened.setframerate(16000)
            opened.writeframes(np.repeat(sound.astype("<i2"), 2).tobytes())
    task = make_task("audio", [f"folder={tmp_path}", "frame=200", "hop=100"])
    for split in ("calibration", "train", "validation", "test"):
        (batch,) = task.batches(split)
        assert len(batch) == 20 and batch.inputs.mean(1).abs().max() < 1e-5 and batch.targets is None
    torch.manual_seed(0)
    net, other = nn.Linear(200, 3), nn.Linear(200, 3)
    result = evaluate(other, task, "test", net)
    assert result.agreement_name == "1 - relative error" and result.drop is not None and result.drop.mean > 0.5


def test_folders_that_do_not_fit_are_said(tmp_path: Path) -> None:
    for where, says in (("images", "expected a folder for every class"), ("audio", "0 .wav files")):
        with pytest.raises(InputError, match=says):
            make_task(where, [f"folder={tmp_path}"])
    for number in range(4):
        (tmp_path / f"{number}.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"cannot be read as PCM"):
        make_task("audio", [f"folder={tmp_path}"])


def test_what_a_drop_is_counted_in_must_be_a_comparison() -> None:
    with pytest.raises(UsageError, match="drop_by='KL': expected one of comparisons"):
        tersenet.Task(drop_by="KL")
