"""A compressed Hugging Face folder is loaded by transformers, after `import tersenet`."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tersenet
from tersenet import methods
from tersenet.api import compress_file
from tersenet.cli.factory import make_model
from tersenet.files.checkpoint_write import write_checkpoint
from tersenet.files.names import CONTAINER

transformers = pytest.importorskip("transformers", minversion="5.20")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 96}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", {"model_type": "bert", **SMALL}),
    "bert-masked": ("BertForMaskedLM", {"model_type": "bert", **SMALL}),
    "gpt2": ("GPT2LMHeadModel", {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 96}),
    "llama": ("LlamaForCausalLM", {"model_type": "llama", **SMALL, "num_key_value_heads": 1}),
    "llama-tied": ("LlamaForCausalLM", {"model_type": "llama", **SMALL, "tie_word_embeddings": True}),
    "vit": ("ViTForImageClassification", {"model_type": "vit", **SMALL, "image_size": 16, "patch_size": 4}),
}


def made(place: Path, network: str = "bert", dtype: torch.dtype = torch.float32, **saving: Any) -> Path:
    """A random network in a folder as transformers saves it."""
    kind, config = NETWORKS[network]
    torch.manual_seed(0)
    settings = transformers.AutoConfig.for_model(**config)
    getattr(transformers, kind)(settings).to(dtype).save_pretrained(place, **saving)
    return place


def loaded(folder: Path, kind: str = "AutoModel", **given: Any) -> Any:
    torch.manual_seed(0)  # a part that the checkpoint lacks (a pooler) is random
    return getattr(transformers, kind).from_pretrained(folder, **given)


def same(one: Any, other: Any) -> bool:
    """Whether two networks have the same tensors, bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours
    )


def compressed(folder: Path, place: Path, **fields: Any) -> tuple[Path, Path]:
    """The compressed folder, and what `decompress` makes of it."""
    method = methods.get("rtn")(**{"bits": 4} | fields)
    size = compress_file(folder, f"{place}/small/", method)
    assert size == (place / "small" / CONTAINER).stat().st_size
    write_checkpoint(tersenet.load(place / "small"), place / "plain")
    return place / "small", place / "plain"


@pytest.mark.parametrize("network", NETWORKS)
def test_what_transformers_loads_is_what_decompress_writes_bit_for_bit(network: str, tmp_path: Path) -> None:
    small, plain = compressed(made(tmp_path / "net", network), tmp_path)
    kind = NETWORKS[network][0]
    net, report = loaded(small, kind, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert same(net, loaded(plain, kind)) and not same(net, loaded(tmp_path / "net", kind))
    assert same(loaded(small), loaded(plain))  # without its head


def test_bf16_shards_and_tied_weights_stay_as_they_were(tmp_path: Path) -> None:
    folder = made(tmp_path / "net", "llama-tied", torch.bfloat16, max_shard_size="12KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    small, plain = compressed(folder, tmp_path)
    net = loaded(small, "AutoModelForCausalLM")
    assert net.dtype == torch.bfloat16 and net.lm_head.weight is net.model.embed_tokens.weight
    assert same(net, loaded(plain, "AutoModelForCausalLM"))
    names = {path.name for path in plain.iterdir()}
    assert names == {path.name for path in folder.iterdir()}
    assert (plain / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert {path.name for path in small.iterdir()} == {CONTAINER, "config.json", "generation_config.json", "README.md"}


def test_a_model_that_was_loaded_is_saved_and_loaded_as_an_ordinary_one(tmp_path: Path) -> None:
    small, _ = compressed(made(tmp_path / "net", "bert-masked"), tmp_path)
    net = loaded(small, "BertForMaskedLM")
    net.save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text("utf-8"))
    assert "quantization_config" not in config and "transformers_weights" not in config
    assert same(net, loaded(tmp_path / "again", "BertForMaskedLM"))
    net.train()(input_ids=torch.arange(6)[None], labels=torch.arange(6)[None]).loss.backward()
    assert net.bert.embeddings.word_embeddings.weight.grad is not None


def test_devices_and_other_dtypes_are_as_with_the_ordinary_folder(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    small, plain = compressed(made(tmp_path / "net", "llama"), tmp_path)
    for given in ({"device_map": "auto"}, {"dtype": torch.bfloat16}, {"dtype": "float16"}):
        assert same(loaded(small, **given), loaded(plain, **given))
    tokens, off = torch.arange(6)[None], {"device_map": {"": "disk"}, "offload_folder": tmp_path / "off"}
    assert torch.equal(loaded(small, **off)(tokens)[0], loaded(plain)(tokens)[0])


def test_names_of_older_checkpoints_are_found_as_transformers_finds_them(tmp_path: Path) -> None:
    folder = made(tmp_path / "net", "bert-masked")
    state = load_file(folder / "model.safetensors")
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in state.items()}
    old |= {"bert.embeddings.position_ids": torch.arange(512)[None], "cls.seq_relationship.weight": torch.ones(2, 32)}
    save_file(old, folder / "model.safetensors", {"format": "pt"})
    small, plain = compressed(folder, tmp_path)
    assert same(loaded(small, "BertForMaskedLM"), loaded(plain, "BertForMaskedLM"))
    assert same(
        loaded(small, "BertModel", add_pooling_layer=False), loaded(plain, "BertModel", add_pooling_layer=False)
    )
    net = transformers.BertForMaskedLM(transformers.AutoConfig.from_pretrained(plain))
    assert same(tersenet.load_into(small, net), loaded(plain, "BertForMaskedLM"))
    (tmp_path / "with").mkdir()
    compress_file(folder, f"{tmp_path}/with/net/", methods.get("rtn")(bits=4), module=net)
    assert same(loaded(tmp_path / "with" / "net", "BertForMaskedLM"), loaded(plain, "BertForMaskedLM"))


def test_inputs_that_are_rounded_are_rounded_after_loading_and_never_lost_by_saving(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = made(tmp_path / "net", "bert-masked")
    net = loaded(folder, "BertForMaskedLM")
    tokens = torch.arange(40).reshape(4, 10)
    task = tersenet.Task(calibration=[{"input_ids": tokens}], train=[{"input_ids": tokens}])
    fields = {"act_bits": 6, "epochs": 1, "distill": 1.0}
    compress_file(folder, f"{tmp_path}/small/", methods.get("lsq")(**fields), module=net, task=task)
    assert tersenet.load(tmp_path / "small").activations
    rounded = loaded(tmp_path / "small", "BertForMaskedLM")
    direct = tersenet.load(tmp_path / "small").apply_to(loaded(folder, "BertForMaskedLM")).eval()
    assert torch.equal(rounded(tokens).logits, direct(tokens).logits)
    inner = loaded(tmp_path / "small", "BertModel", add_pooling_layer=False)
    assert torch.equal(inner(tokens)[0], direct.bert(tokens)[0])
    with pytest.raises(ValueError, match="not serializable"):
        rounded.save_pretrained(tmp_path / "again")


@pytest.mark.parametrize("network", ["bert", "bert-masked", "llama-tied"])
def test_a_class_that_the_config_does_not_name_is_told_by_the_tensors(network: str, tmp_path: Path) -> None:
    folder = made(tmp_path / "net", network)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"architectures": None}))
    small, _ = compressed(folder, tmp_path)
    for place in (folder, small, folder / "model.safetensors"):
        assert type(make_model("auto", [], place)).__name__ == NETWORKS[network][0]


IMPORTS = {
    "before": "import tersenet, transformers",
    "after": "from transformers import AutoModel; AutoModel.from_pretrained; import tersenet",
    "between": "import transformers; import tersenet",
    "never": "import transformers",
}


@pytest.mark.slow
@pytest.mark.parametrize("order", IMPORTS)
def test_tersenet_may_be_imported_before_or_after_transformers(order: str, tmp_path: Path) -> None:
    small, _ = compressed(made(tmp_path / "net"), tmp_path)
    code = f"{IMPORTS[order]}\nfrom transformers import AutoModel\nAutoModel.from_pretrained({str(small)!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ran.returncode == (order == "never"), ran.stderr
    if order == "never":  # rather than a random network
        assert "Unknown quantization type, got terse" in ran.stderr and "no file named" in ran.stderr


@pytest.mark.slow
def test_minilm_is_loaded_as_decompress_writes_it(tmp_path: Path) -> None:
    script = Path(os.environ.get("TERSENET_DATA", ""), "nets.py")
    if not script.is_file():
        pytest.skip("TERSENET_DATA has no nets.py")
    spec = importlib.util.spec_from_file_location("nets", script)
    assert spec is not None and spec.loader is not None
    nets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    if not (nets.HOME / "minilm" / "done").exists():
        pytest.skip("MiniLM was not fetched")
    small, plain = compressed(nets.minilm(), tmp_path)
    assert same(loaded(small), loaded(plain))
