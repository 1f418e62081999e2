"""Attaching quantizers to a network, and taking the compressed tensors out again."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..core.activation import Activation
from ..core.batch import run
from ..core.model import QTensor
from ..errors import InputError
from .activation import InputRounder, round_inputs
from .quantizer import ParamGroup, Quantizer


def owner_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule and the attribute of the tensor called `name`."""
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def attach_weights(module: nn.Module, quantizers: Mapping[str, Quantizer], aliases: Mapping[str, str]) -> None:
    """Put every quantizer in front of its weight (by tensor name); tied names share one.

    **Raises** `InputError` for an embedding with sparse gradients.
    """
    names = {**{name: name for name in quantizers}, **{a: of for a, of in aliases.items() if of in quantizers}}
    parts = [owner_of(module, name)[0] for name in names]
    if sparse := [n for n, part in zip(names, parts, strict=True) if getattr(part, "sparse", False)]:
        raise InputError(
            f"{sparse[0]} gets sparse gradients, which cannot be trained through levels: make the embedding with "
            f"sparse=False, or leave it out with exclude=({sparse[0]!r},)"
        )
    for name in (alias for alias, of in names.items() if alias != of):  # torch changes the shape of a latent in place
        part, leaf = owner_of(module, name)
        shared = getattr(part, leaf)
        setattr(part, leaf, nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad))
    for name, of in names.items():
        part, leaf = owner_of(module, name)
        parametrize.register_parametrization(part, leaf, quantizers[of], unsafe=True)
        if name != of:
            _share_latents(_chain(module, of), _chain(module, name))


def _chain(module: nn.Module, name: str) -> parametrize.ParametrizationList:
    part, leaf = owner_of(module, name)
    chain = part.parametrizations[leaf]  # type: ignore[index]
    assert isinstance(chain, parametrize.ParametrizationList)
    return chain


def _latents(chain: parametrize.ParametrizationList) -> dict[str, Tensor]:
    names = ["original"] if chain.is_tensor else [f"original{index}" for index in range(chain.ntensors)]
    return {name: getattr(chain, name) for name in names}


def _share_latents(of: parametrize.ParametrizationList, with_: parametrize.ParametrizationList) -> None:
    for name, latent in _latents(of).items():
        setattr(with_, name, latent)


def attach_inputs(module: nn.Module, quantizers: Mapping[str, InputRounder], batches: Iterable[Any]) -> None:
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
                "check that there are batches and that the network uses it, or leave it out with exclude="
            )
        if not (abs(observer.low) < float("inf") and abs(observer.high) < float("inf")):
            raise InputError(f"the input of {path} has NaN or infinity on the calibration batches: check the data")
        quantizer.settle()


class Attached(NamedTuple):
    """A quantised tensor: its name, its quantizer, and the latents that are trained in its place."""

    name: str
    quantizer: Quantizer
    latents: tuple[Tensor, ...]


def quantizers(module: nn.Module) -> Iterator[Attached]:
    """Every quantised tensor once; of tied ones the first."""
    seen: set[int] = set()
    for attached in _all(module):
        if id(attached.quantizer) not in seen:
            seen.add(id(attached.quantizer))
            yield attached


def _all(module: nn.Module) -> Iterator[Attached]:
    """Every quantised tensor, tied ones under each of their names."""
    for path, part in module.named_modules():
        if not parametrize.is_parametrized(part):
            continue
        for leaf, chain in part.parametrizations.items():
            if isinstance(chain[0], Quantizer):
                yield Attached(f"{path}.{leaf}" if path else leaf, chain[0], tuple(_latents(chain).values()))


def penalty(module: nn.Module) -> Tensor:
    """The sum of what all quantizers of `module` add to the training loss (a scalar)."""
    total = torch.zeros(())
    for attached in quantizers(module):
        total = total.to(attached.latents[0].device) + attached.quantizer.penalty(*attached.latents)
    return total


def anneal(module: nn.Module, progress: float, lr: float) -> None:
    """Tell every quantizer how much of the training is done (0 to 1), and the learning rate."""
    for attached in quantizers(module):
        attached.quantizer.anneal(progress, lr)


def after_step(module: nn.Module) -> None:
    """Let every quantizer project its latents and parameters, which the optimizer has just changed."""
    with torch.no_grad():
        for attached in quantizers(module):
            attached.quantizer.after_step(*attached.latents)
        for part in module.modules():
            if isinstance(part, InputRounder):
                part.after_step()


def param_groups(module: nn.Module, lr: float, weight_decay: float) -> list[ParamGroup]:
    """Groups for a `torch.optim.Optimizer`: everything in `module` that is trained, each once, with the rate and the
    weight decay that its quantizer asks for."""
    special: list[ParamGroup] = []
    for attached in quantizers(module):
        special += attached.quantizer.param_groups(attached.latents, lr, weight_decay)
    for part in module.modules():
        if isinstance(part, InputRounder):
            special += part.param_groups(lr, weight_decay)
    taken = {id(parameter) for group in special for parameter in group["params"]}
    others = [parameter for parameter in module.parameters() if id(parameter) not in taken]
    merged: dict[tuple[float, float], list[nn.Parameter]] = {}
    for group in [{"params": others, "lr": lr, "weight_decay": weight_decay}, *special]:
        trained = [parameter for parameter in group["params"] if parameter.requires_grad]
        if trained:
            merged.setdefault((group["lr"], group["weight_decay"]), []).extend(trained)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in merged.items()]


def frozen_weights(module: nn.Module) -> dict[str, QTensor]:
    """Every quantised weight by name, as codes on its grid."""
    return {attached.name: attached.quantizer.freeze(*attached.latents) for attached in quantizers(module)}


def frozen_inputs(module: nn.Module) -> dict[str, Activation]:
    """What every quantised layer rounds its input to, by path."""
    return {
        path.removesuffix("tersenet_input").removesuffix("."): part.freeze()
        for path, part in module.named_modules()
        if isinstance(part, InputRounder)
    }


def average_bits(module: nn.Module) -> float:
    """The mean width of the codes of all quantised weights, in bits (32 if there are none)."""
    sizes = [(attached.quantizer.shape.numel(), attached.quantizer.bits) for attached in quantizers(module)]
    return sum(count * bits for count, bits in sizes) / sum(count for count, _ in sizes) if sizes else 32.0


@torch.no_grad()
def latent_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of the network without its quantizers, in full precision, weights under their own names."""
    found = {
        name: value
        for name, value in module.state_dict().items()
        if ".tersenet_input." not in f".{name}" and ".parametrizations." not in f".{name}"
    }
    return found | {each.name: each.quantizer.to_weight(*each.latents) for each in _all(module)}


def detach(module: nn.Module) -> None:
    """Take every quantizer out of `module` again: an ordinary network, in full precision as trained so far."""
    restored: dict[int, nn.Parameter] = {}  # tied names share one again
    for attached in list(_all(module)):
        part, leaf = owner_of(module, attached.name)
        weight = attached.quantizer.to_weight(*attached.latents).detach().clone()
        cls = type(part)  # which torch changes, and which copies of the module share
        part.__class__ = type(cls.__name__, cls.__bases__, dict(vars(cls)))
        parametrize.remove_parametrizations(part, leaf)
        trained = any(latent.requires_grad for latent in attached.latents)
        setattr(part, leaf, restored.setdefault(id(attached.quantizer), nn.Parameter(weight, requires_grad=trained)))
    for part in list(module.modules()):
        if isinstance(getattr(part, "tersenet_input", None), InputRounder):
            del part.tersenet_input
            hooks = part._forward_pre_hooks
            for key in [key for key, hook in hooks.items() if hook is round_inputs]:
                del hooks[key]
