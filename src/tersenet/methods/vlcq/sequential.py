"""Quantising a network layer by layer, in the order it runs, each on the inputs the layers before it really give."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from ...core.batch import Batch
from ...core.samples import Samples
from ...network.gptq import DAMPING, error_cost, inverse_factor, match_outputs, round_compensated
from ...network.layers import eval_without_grad, find_layers, input_of, inputs_of_layers, patches
from ...network.output_gradients import output_sensitivity
from ...progress import progress

BATCH = 32
PROBED = 512  # inputs that sensitivity is measured on
POSITIONS = 1 << 17  # places of a layer's input that moments are measured on, over all inputs; 64 an input at least
HELD = 2 << 30  # bytes of inputs of layers that are kept in memory instead of being computed again
RowScale = Callable[[str, Tensor], Tensor | None]


def holdable(module: nn.Module, inputs: Batch) -> int:
    """How many inputs there may be so that the inputs of all layers can be held in memory; `inputs` are a few."""
    with eval_without_grad(module):
        paths = [layer.path for layer in find_layers(module, inputs)]
        found = inputs_of_layers(module, paths, inputs)
    return HELD * len(inputs) // max(1, sum(part.numel() * part.element_size() for part in found.values()))


class SequentialGptq:
    """A module prepared for quantisation at any slope.

    `units[name]` is the step of a weight relative to the others at equal slope: `1 / sqrt(g * h)`, with g the geometric
    mean of the sensitivity of its rows and h what an error costs after compensation. `scales[name]` are the factors its
    rows are multiplied with before rounding, where the batch norm after it can undo them (`norms[name]`: its path):
    `row_scale(path of the batch norm, sensitivity / g)`, None to leave them.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Samples,
        wanted: Callable[[str], bool],
        row_scale: RowScale,
        seed: int,
        damping: float = DAMPING,
    ) -> None:
        self.module, self.inputs, self.damping = module, inputs, damping
        with eval_without_grad(module):
            found = find_layers(module, inputs.blocks[0].first(2))
            self.layers = [layer for layer in found if wanted(layer.weight)]
            self._held: dict[str, list[Tensor]] | None = self._kept_inputs()
            sensitivity = output_sensitivity(module, self.layers, inputs.first(PROBED), seed)
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
                costs = [math.log(error_cost(inverse_factor(m, damping))) for m in self._moments(layer.path, module)[0]]
                self.units[layer.weight] = 1 / math.sqrt(middle * math.exp(sum(costs) / len(costs)))
                progress("measuring layers", done + 1, len(self.layers))

    def codes(self, step_of: Callable[[str], float]) -> Iterator[tuple[str, Tensor, float]]:
        """Name, codes (int32, in the weight's shape) and step of every layer; `step_of` gives steps by name, in
        fp32."""
        quantised = deepcopy(self.module)
        with eval_without_grad(quantised), torch.no_grad():
            for done, layer in enumerate(self.layers):
                weight = self._weight(quantised, layer.path)
                moments, drifts = self._moments(layer.path, quantised)
                step = step_of(layer.weight)
                scale = self.scales.get(layer.weight, torch.ones(len(weight))).unsqueeze(1)
                rows = zip(
                    weight.flatten(1).chunk(layer.groups), scale.chunk(layer.groups), moments, drifts, strict=True
                )
                parts = [
                    round_compensated(
                        match_outputs(part, moment, drift, self.damping) * factor,
                        inverse_factor(moment, self.damping),
                        step,
                    )
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

    def _kept_inputs(self) -> dict[str, list[Tensor]] | None:
        """The inputs of every layer in the original network, batch by batch, unless they are too large to hold."""
        paths = [layer.path for layer in self.layers]
        held: dict[str, list[Tensor]] = {path: [] for path in paths}
        batches = self.inputs.split(BATCH)
        for done, batch in enumerate(batches):
            found = inputs_of_layers(self.module, paths, batch)
            size = sum(part.numel() * part.element_size() for part in found.values())
            if size * len(self.inputs) > HELD * len(batch):
                return None
            for path, part in found.items():
                held[path].append(part)
            progress("seeing inputs of layers", done + 1, len(batches))
        return held

    def _moments(self, path: str, quantised: nn.Module) -> tuple[Tensor, Tensor]:
        """X'^T X' and (X - X')^T X' per input, with X' the layer's inputs in `quantised` and X those in the original.

        Of many inputs, every k-th position is looked at.

        **Shapes**: `[groups, columns, columns]` twice.
        """
        moment = drift = torch.zeros(())
        part, positions, every, looked, padded = self.module.get_submodule(path), 0.0, 1, 0, False
        for index, batch in enumerate(self.inputs.split(BATCH)):
            own = self._held[path][index] if self._held else input_of(self.module, path, batch)
            if not index:
                positions = float(patches(part, own[:1]).shape[1])
                every = max(1, math.isqrt(int(positions / max(64, POSITIONS / len(self.inputs)))))
            mask = batch.padding
            first = seen = patches(part, own, every, index % every**2, mask)
            if quantised is not self.module:
                seen = patches(part, input_of(quantised, path, batch), every, index % every**2, mask)
                drift = drift + (first - seen).mT @ seen
            moment, looked = moment + seen.mT @ seen, looked + seen.shape[1]
            padded = padded or (isinstance(part, nn.Linear) and (mask is not None or len(self.inputs.blocks) > 1))
        if padded:
            positions = looked / len(self.inputs)
        return moment * (positions / looked), drift * (positions / looked)
