"""What transformers needs to load a compressed folder: the quantizer "terse", and tensors that are decoded one by one.

Imported when transformers' own quantizers are (`tersenet/__init__`). After the weights are there, a model is an
ordinary one: it is saved as an ordinary checkpoint, without tersenet.
"""

from collections.abc import Callable, Mapping
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from .core.activation import round_input
from .core.model import CompressedModel
from .files.folder_readme import QUANT_METHOD
from .files.names import CONTAINER
from .files.prefixes import original_names
from .files.safe import NAMES
from .files.terse import load

LOGGER = logging.get_logger("transformers.tersenet")
NEEDED = "update_attn_implementation"  # transformers has it from 5.20 on


def register() -> None:
    """Make the quantizer known to transformers, once."""
    if QUANT_METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(QUANT_METHOD)(TerseConfig)
        register_quantizer(QUANT_METHOD)(TerseQuantizer)


class TerseConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """What config.json says of a compressed folder: nothing but the name."""

    def __init__(self, **said: Any) -> None:
        self.quant_method = QUANT_METHOD


class TerseQuantizer(HfQuantizer):  # type: ignore[misc]
    """Hands over the decoded tensors of a compressed folder, by the names of the checkpoint that it was made from."""

    def __init__(self, quantization_config: TerseConfig, **given: Any) -> None:
        if not hasattr(HfQuantizer, NEEDED):
            raise ImportError("a folder of tersenet needs transformers 5.20 or newer: pip install -U transformers")
        super().__init__(quantization_config, **given)
        if not self.pre_quantized:
            raise ValueError("from_pretrained does not compress: run tersenet compress FOLDER -o COMPRESSED/ first")
        self._model: CompressedModel | None = None

    def update_attn_implementation(self, config: Any) -> Any:
        """Before files are looked for: name the container."""
        config.transformers_weights = CONTAINER
        return config

    def state(self, checkpoint_files: list[str]) -> dict[str, Any]:
        """Every tensor by its name in the checkpoint, to be decoded when it is asked for."""
        (file,) = checkpoint_files
        self._model = model = load(Path(file))
        back = original_names(model.layout)
        tensors = {name: LazyTensor(model, name) for name in model.tensors}
        tensors |= {alias: tensors[name] for alias, name in model.aliases.items()}
        for name in model.aliases.values():
            tensors[name].shared = True
        return {back(name): tensor for name, tensor in tensors.items()}

    def preprocess_model(self, model: Any, *given: Any, **more: Any) -> None:
        """As transformers does it; from now on its loader asks `state` for the tensors of such folders."""
        super().preprocess_model(model, *given, **more)
        from transformers.modeling_utils import PreTrainedModel

        if not hasattr(PreTrainedModel._load_pretrained_model, "__wrapped__"):
            PreTrainedModel._load_pretrained_model = staticmethod(_handed_over(PreTrainedModel._load_pretrained_model))

    def postprocess_model(self, model: Any, **given: Any) -> None:
        """Leave an ordinary model, or one whose layers round their inputs, which no checkpoint can say."""
        del model.config.transformers_weights
        compressed, self._model = self._model, None
        if compressed is not None and compressed.activations:
            _round_inputs(model, compressed)
            return
        conversions = model.__dict__.get("_weight_conversions")
        self.remove_quantization_config(model)
        model._weight_conversions = conversions

    def is_serializable(self, *given: Any, **more: Any) -> bool:
        """Of a model that still has a quantizer: one whose inputs are rounded."""
        LOGGER.warning(
            "The layers of this model round their inputs, and a checkpoint cannot say so: copy the compressed folder."
        )
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class LazyTensor:
    """A tensor of a compressed model as transformers asks for one: what it is, and its values once it is sliced."""

    def __init__(self, model: CompressedModel, name: str) -> None:
        self._model, self._name, self._spec = model, name, model.specs[name]
        self.shared = False

    def get_dtype(self) -> str:
        """As safetensors calls it."""
        return NAMES.get(self._spec.dtype, str(self._spec.dtype))

    def get_shape(self) -> list[int]:
        return list(self._spec.shape)

    def __getitem__(self, index: Any) -> Tensor:
        value = self._once if self.shared else self._model.tensors[self._name].dequantize()
        part: Tensor = value[index]
        return part

    @cached_property
    def _once(self) -> Tensor:
        return self._model.tensors[self._name].dequantize()


def _handed_over(load_pretrained: Callable[..., Any]) -> Callable[..., Any]:
    """transformers' `_load_pretrained_model`, with a state for folders that this quantizer reads."""

    @wraps(load_pretrained)
    def loaded(model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, *more: Any, **named: Any) -> Any:
        quantizer = load_config.hf_quantizer
        if isinstance(quantizer, TerseQuantizer):
            state_dict, checkpoint_files = quantizer.state(checkpoint_files), None
        return load_pretrained(model, state_dict, checkpoint_files, load_config, *more, **named)

    return loaded


def _round_inputs(model: Any, compressed: CompressedModel) -> None:
    """Make the layers of a model round their inputs; their names may lack the prefix of the inner model, or have it."""
    parts: Mapping[str, nn.Module] = dict(model.named_modules())
    back, prefix = original_names(compressed.layout), f"{model.base_model_prefix}."
    absent = []
    for path, activation in compressed.activations.items():
        name = back(f"{path}.weight").removesuffix(".weight")
        known = [each for each in (path, name, prefix + name, name.removeprefix(prefix)) if each in parts]
        if known:
            round_input(parts[known[0]], activation)
        else:
            absent.append(path)
    if absent:
        LOGGER.warning("%s has no %s, whose inputs are rounded", type(model).__name__, ", ".join(absent[:5]))
