"""Attaching quantizers to a network, and taking the compressed tensors out again."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..core.activation import Activation
from ..core.batch import run
from ..core.model import QTensor
from ..errors import InputError
from .activation import InputQuantizer, round_inputs
from .quantizer import Quantizer


def owner_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule and the attribute of the tensor called `name`."""
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def attach_weights(module: nn.Module, quantizers: Mapping[str, Quantizer], aliases: Mapping[str, str]) -> None:
    """Put every quantizer in front of its weight (by tensor name); tied names share one."""
    names = {**{name: name for name in quantizers}, **{a: of for a, of in aliases.items() if of in quantizers}}
    for name, of in names.items():
        part, leaf = owner_of(module, name)
        parametrize.register_parametrization(part, leaf, quantizers[of], unsafe=True)


def attach_inputs(module: nn.Module, quantizers: Mapping[str, InputQuantizer], batches: Iterable[Any]) -> None:
    """Put every input quantizer in front of its layer (by path), and set them by running `batches` (or inputs alone).

    **Raises** `InputError` if a layer is never run, or sees NaN.
    """
    for path, quantizer in quantizers.items():
        part = module.get_submodule(path)
        part.add_module("tersenet_input", quantizer)
        part.register_forward_pre_hook(round_inputs)
    was = module.training
    module.eval()
    with torch.no_grad():
        for inputs in batches:
            run(module, inputs)
    module.train(was)
    for path, quantizer in quantizers.items():
        observer = quantizer.observer
        if observer is None or observer.batches == 0:
            raise InputError(
                f"the layer {path} never ran on the calibration batches, so its input cannot be quantised: "
                "check that there are batches and that the network uses it, or leave it out with --exclude"
            )
        if not (abs(observer.low) < float("inf") and abs(observer.high) < float("inf")):
            raise InputError(f"the input of {path} has NaN or infinity on the calibration batches: check the data")
        quantizer.settle()


def quantizers(module: nn.Module) -> Iterator[tuple[str, Quantizer, Tensor]]:
    """Name, quantizer and latent weight of every quantised weight, each once."""
    seen: set[int] = set()
    for path, part in module.named_modules():
        if not isinstance(part, nn.Module) or not parametrize.is_parametrized(part):
            continue
        for leaf, chain in part.parametrizations.items():  # type: ignore[operator, union-attr]
            for quantizer in chain:
                if isinstance(quantizer, Quantizer) and id(quantizer) not in seen:
                    seen.add(id(quantizer))
                    yield f"{path}.{leaf}" if path else leaf, quantizer, chain.original


def penalty(module: nn.Module) -> Tensor:
    """The sum of what all quantizers of `module` add to the training loss (a scalar)."""
    total = torch.zeros(())
    for _, quantizer, latent in quantizers(module):
        total = total.to(latent.device) + quantizer.penalty(latent)
    return total


def anneal(module: nn.Module, progress: float, rate: float) -> None:
    """Tell every quantizer how much of the training is done (0 to 1), and the learning rate."""
    for _, quantizer, _ in quantizers(module):
        quantizer.anneal(progress, rate)


def frozen_weights(module: nn.Module) -> dict[str, QTensor]:
    """Every quantised weight by name, as codes on its grid."""
    return {name: quantizer.freeze(latent) for name, quantizer, latent in quantizers(module)}


def frozen_inputs(module: nn.Module) -> dict[str, Activation]:
    """What every quantised layer rounds its input to, by path."""
    return {
        path.removesuffix("tersenet_input").removesuffix("."): part.freeze()
        for path, part in module.named_modules()
        if isinstance(part, InputQuantizer)
    }


def average_bits(module: nn.Module) -> float:
    """The mean width of the codes of all quantised weights, in bits (32 if there are none)."""
    sizes = [(latent.numel(), quantizer.bits) for _, quantizer, latent in quantizers(module)]
    return sum(count * bits for count, bits in sizes) / sum(count for count, _ in sizes) if sizes else 32.0


def latent_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of the network without its quantizers, weights latent and in fp32, under their own names."""
    found = {}
    for name, value in module.state_dict().items():
        if ".tersenet_input." in f".{name}":
            continue
        path, mark, rest = name.partition("parametrizations.")
        if mark:
            leaf, _, kind = rest.partition(".")
            if kind != "original":
                continue
            name = path + leaf
        found[name] = value
    return found
