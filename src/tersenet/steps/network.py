"""Quantising a network layer by layer, in the order it runs, each on the inputs the layers before it really give."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from ..progress import progress
from .compensate import hardness, inverse_factor, retarget, round_compensated
from .layers import find_layers, frozen, input_of, patches
from .sensitivity import output_sensitivity

BATCH = 32
RowScale = Callable[[str, Tensor], Tensor | None]


class NetworkQuantizer:
    """A module prepared for quantisation at any slope.

    `units[name]` is the step of a weight relative to the others at equal slope: `1 / sqrt(g * h)`, with g the geometric
    mean of the sensitivity of its rows and h what an error costs after compensation. `scales[name]` are the factors its
    rows are multiplied with before rounding, where the batch norm behind it can undo them (`norms[name]`: its path):
    `row_scale(path of the batch norm, sensitivity / g)`, None to leave them.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Tensor,
        wanted: Callable[[str], bool],
        row_scale: RowScale,
        seed: int,
    ) -> None:
        self.module, self.inputs = module, inputs
        with frozen(module):
            found = find_layers(module, inputs[:2])
            self.layers = [layer for layer in found if wanted(layer.weight)]
            sensitivity = output_sensitivity(module, self.layers, inputs, seed)
            self.units: dict[str, float] = {}
            self.scales: dict[str, Tensor] = {}
            self.norms: dict[str, str] = {}
            for done, layer in enumerate(self.layers):
                weight = self._weight(module, layer.path)
                importance = sensitivity.get(layer.path, torch.ones(len(weight)))
                middle = float(importance.log().mean().exp())
                scale = row_scale(layer.batch_norm, importance / middle) if layer.batch_norm else None
                if scale is not None:
                    self.norms[layer.weight], self.scales[layer.weight] = layer.batch_norm, scale
                costs = [math.log(hardness(inverse_factor(m))) for m in self._moments(layer.path, module)[0]]
                self.units[layer.weight] = 1 / math.sqrt(middle * math.exp(sum(costs) / len(costs)))
                progress("measuring layers", done + 1, len(self.layers))

    def codes(self, step_of: Callable[[str], float]) -> Iterator[tuple[str, Tensor, float]]:
        """Name, codes (int32, in the weight's shape) and step of every layer; `step_of` gives steps by name, in
        fp32."""
        quantised = deepcopy(self.module)
        with frozen(quantised), torch.no_grad():
            for done, layer in enumerate(self.layers):
                weight = self._weight(quantised, layer.path)
                moments, drifts = self._moments(layer.path, quantised)
                step = step_of(layer.weight)
                scale = self.scales.get(layer.weight, torch.ones(len(weight))).unsqueeze(1)
                rows = zip(
                    weight.flatten(1).chunk(layer.groups), scale.chunk(layer.groups), moments, drifts, strict=True
                )
                parts = [
                    round_compensated(retarget(part, moment, drift) * factor, inverse_factor(moment), step)
                    for part, factor, moment, drift in rows
                ]
                codes = torch.cat(parts)
                weight.copy_((codes * step / scale).reshape(weight.shape))
                progress("quantising layers", done + 1, len(self.layers))
                yield layer.weight, codes.reshape(weight.shape), step

    @staticmethod
    def _weight(module: nn.Module, path: str) -> Tensor:
        weight = module.get_submodule(path).weight
        assert isinstance(weight, Tensor)
        return weight

    def _moments(self, path: str, quantised: nn.Module) -> tuple[Tensor, Tensor]:
        """X'^T X' and (X - X')^T X' per input, with X' the layer's inputs in `quantised` and X those in the original.

        **Shapes**: `[groups, columns, columns]` twice.
        """
        moment = drift = torch.zeros(())
        part = self.module.get_submodule(path)
        for batch in self.inputs.split(BATCH):
            seen = patches(part, input_of(quantised, path, batch))
            moment = moment + seen.mT @ seen
            if quantised is not self.module:
                drift = drift + (patches(part, input_of(self.module, path, batch)) - seen).mT @ seen
        return moment / len(self.inputs), drift / len(self.inputs)
