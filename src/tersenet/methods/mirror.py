"""Mirror descent: weights on two, three or any levels, as projections of duals that are trained.

Forward in training: `w = s P(w~)`, P a projection that grows steep with beta (levels q_1 < .. < q_d, middles m_k):

* tanh: `P(w~) = (q_1 + q_d) / 2 + sum over k of (q_(k+1) - q_k) / 2 * tanh(beta (w~ - m_k))`; `tanh(beta w~)` for
  -1 and 1;
* softmax: a dual per level, `P(u~) = sum over k of q_k p_k` with `p = softmax(beta u~)`.

Backward, by `rule`: "md-tanh" and "md-softmax" give the gradient of P to the dual as it is (`dL/du~_k = q_k dL/dP`),
which is mirror descent with the mirror map whose gradient is the inverse of P; "gd-tanh" and "pmf" are the same two
with the derivative of P. "binaryconnect" is the limit of a steep P: the nearest level, with the duals kept between the
outermost levels. "proxquant" trains the values themselves and pulls them towards their levels after every step, by
`beta * learning rate`. In evaluation mode, and in the file, w is s times the level next to the dual (or that of the
largest dual). beta rises with the steps from `beta` to `final_beta`, in a geometric series.

s is the mean magnitude of the weights at the start, kept in the file; duals start at `w / s` (softmax: `q_k w / s -
q_k^2 / 2`). With `paper` everything is as in Ajanthan et al. 2021: weights start at random, s is 1, every parameter is
on the levels, and norms neither scale nor shift. Such a network should end in a batch norm: its outputs are large.

Departures: beta grows in every step (the authors: every 100 to 2000), the learning rate falls along a cosine, and the
weights at the end are taken, not those of the best validation accuracy. With two levels and steps that do not depend on
the size of a gradient (Adam's), md-softmax is md-tanh. Inputs of layers stay as they are.

Needs the network's code and training data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.fields import Within, check_widths
from ..core.grid import Codebook
from ..core.levels import Integers
from ..core.method import Job, Knob, Method
from ..core.model import QTensor, TensorSpec
from ..errors import UsageError
from ..network.kept import left_out, smallest_batch_norm
from ..network.layers import BATCH_NORMS, Layer, recurrent_weights
from ..quantizers.bases import eight_bits, learned_step
from ..quantizers.project import LARGEST, SMALLEST, clipped, project_to
from ..quantizers.quantizer import Quantizer
from ..training.method import Target, TrainedMethod
from ..training.randomness import seeded

Rule = Literal["md-tanh", "md-softmax", "binaryconnect", "proxquant", "gd-tanh", "pmf"]
Levels = tuple[float, ...]

NORMS = (
    *BATCH_NORMS, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LayerNorm, nn.GroupNorm,
    nn.RMSNorm,
)  # fmt: skip


def tanh_projection(dual: Tensor, beta: Tensor | float, levels: Levels) -> Tensor:
    """A stair of tanhs over `levels`, a step in the middle between each two. **Shapes**: that of `dual`.

    >>> tanh_projection(torch.tensor([-9.0, 0.1, 9.0]), 4.0, (-1.0, 0.0, 1.0)).round(decimals=2)
    tensor([-1.0000,  0.0300,  1.0000])
    """
    value = torch.full_like(dual, (levels[0] + levels[-1]) / 2)
    for low, high in pairwise(levels):
        value = value + (high - low) / 2 * torch.tanh(beta * (dual - (low + high) / 2))
    return value


def softmax_projection(duals: Tensor, beta: Tensor | float, levels: Levels) -> Tensor:
    """The mean of `levels` with weights `softmax(beta duals)`. **Shapes**: `[levels, ...]` -> `[...]`.

    >>> softmax_projection(torch.tensor([[0.0], [0.5]]), 2.0, (-1.0, 1.0)) == torch.tanh(torch.tensor([0.5]))
    tensor([True])
    """
    return weighted(levels, torch.softmax(beta * (duals - duals.detach().amax(0)), 0))  # never infinity minus infinity


def weighted(factors: Sequence[float], parts: Tensor) -> Tensor:
    """`sum over k of factors[k] * parts[k]`, elementwise (a product of matrices would be in bf16 on a GPU)."""
    value = factors[0] * parts[0]
    for factor, part in zip(factors[1:], parts[1:], strict=True):
        value = value + factor * part
    return value


def nearest(dual: Tensor, levels: Levels) -> Tensor:
    """The index of the level next to each element; of the upper one in the middle. **Shapes**: kept."""
    middles = dual.new_tensor([(low + high) / 2 for low, high in pairwise(levels)])
    return torch.bucketize(dual.contiguous(), middles, right=True)


def largest(duals: Tensor) -> Tensor:
    """The index of the largest dual; of the upper one where two are. **Shapes**: `[levels, ...]` -> `[...]`."""
    return len(duals) - 1 - duals.flip(0).argmax(0)


def even(states: int) -> Levels:
    """The integers nearest to 0, without 0 if their number is even.

    >>> even(2), even(3), even(4)
    ((-1.0, 1.0), (-1.0, 0.0, 1.0), (-2.0, -1.0, 1.0, 2.0))
    """
    half = states // 2
    return tuple(float(level) for level in range(-half, half + 1) if level or states % 2)


class Projected(Quantizer):
    """A weight as the projection of its dual on `levels`, times `scale` (the mean magnitude, if `scaled`, or 1).

    The latent is the dual, `[...]` as the weight, or `[levels, ...]` with a softmax.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, levels: Levels, rule: Rule, betas: tuple[float, float], scaled: bool) -> None:
        super().__init__()
        self.levels, self.rule, self.betas, self.scaled = levels, rule, betas, scaled
        self.per_level = rule in ("md-softmax", "pmf")  # whether there is a dual for every level
        self.bits, self.dtype = (len(levels) - 1).bit_length(), weight.dtype
        scale = weight.double().abs().mean().float() if scaled else torch.ones((), device=weight.device)
        self.fp16 = bool(2 * SMALLEST <= scale < LARGEST)
        self.register_buffer("scale", scale.half().float() if self.fp16 else scale)

    @property
    def beta(self) -> Tensor:
        """How steep the projection is by now."""
        first, last = self.betas
        return first * (last / first) ** self.progress

    def latents(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The dual of a weight; that of a tensor of zeros, whose scale is 0, is 0."""
        dual = torch.where(self.scale > 0, weight / self.scale, torch.zeros_like(weight))
        return (torch.stack([level * dual - level**2 / 2 for level in self.levels]) if self.per_level else dual,)

    def to_weight(self, *latents: Tensor) -> Tensor:
        """The weight that a dual stands for; of a dual per level the one that is nearest to all of them."""
        (dual,) = latents
        if self.per_level:
            away = [level - sum(self.levels) / len(self.levels) for level in self.levels]
            offset = sum(a * level**2 / 2 for a, level in zip(away, self.levels, strict=True))
            dual = (weighted(away, dual) + offset) / sum(a * a for a in away)
        return dual * self.scale

    def forward(self, *latents: Tensor) -> Tensor:
        """`scale * P(dual)` in training, `scale *` a level otherwise."""
        (dual,) = latents
        value = (self.soft(dual) if self.training else self.rounded(dual)) * self.scale
        return value if self.dtype == torch.float32 else value.to(self.dtype).to(torch.float32)

    def soft(self, dual: Tensor) -> Tensor:
        """What training computes with, in units of the scale, with the gradient of the rule."""
        if self.rule == "proxquant":
            return dual
        if self.rule == "binaryconnect":
            return self.rounded(dual)
        project = softmax_projection if self.per_level else tanh_projection
        if self.rule in ("gd-tanh", "pmf"):
            return project(dual, self.beta, self.levels)
        return project_to(self._straight(dual), project(dual.detach(), self.beta, self.levels))

    def rounded(self, dual: Tensor) -> Tensor:
        """The level of every weight; gradients pass to the dual as they are."""
        return project_to(self._straight(dual), dual.new_tensor(self.levels)[self._index(dual.detach())])

    def freeze(self, *latents: Tensor) -> QTensor:
        """Positions among the levels; levels and scale as stored."""
        with torch.no_grad():
            codes = self._index(latents[0]).to("cpu", torch.int8)
        scale = self.scale.to("cpu", torch.float16 if self.fp16 else torch.float32) if self.scaled else None
        return QTensor(codes, Codebook(stored(self.levels), scale), self.dtype)

    def after_step(self, *latents: Tensor) -> None:
        """BinaryConnect keeps duals between the outermost levels; ProxQuant's proximal step."""
        (dual,) = latents
        if self.rule == "binaryconnect":
            dual.clamp_(self.levels[0], self.levels[-1])
        if self.rule == "proxquant":
            level = self.rounded(dual)
            away, pull = dual - level, self.beta * self.lr
            dual.copy_(level + away.sign() * (away.abs() - pull).clamp(min=0))

    def _index(self, dual: Tensor) -> Tensor:
        return largest(dual) if self.per_level else nearest(dual, self.levels)

    def _straight(self, dual: Tensor) -> Tensor:
        """What has the weight's shape and gives its gradient to the dual: g, or q_k g."""
        return weighted(self.levels, dual) if self.per_level else dual


def stored(levels: Levels) -> Tensor:
    """`levels` in the narrowest of int8, fp16 and fp32 that holds them exactly.

    >>> stored((-1.0, 1.0)).dtype, stored((-0.5, 0.5)).dtype, stored((0.1, 0.2)).dtype
    (torch.int8, torch.float16, torch.float32)
    """
    values = torch.tensor(levels)
    narrow = (values.to(kind) for kind in (torch.int8, torch.float16) if values.abs().max() <= 127)
    return next((each for each in narrow if torch.equal(each.float(), values)), values)


@dataclass(frozen=True)
class Mirror(TrainedMethod):
    """Weights on `levels`, in units of their mean magnitude, or on `states` even ones: 2 is binary, 3 ternary."""

    reference: ClassVar[str] = """@inproceedings{ajanthan2021mirror,
  title = {Mirror Descent View for Neural Network Quantization},
  author = {Ajanthan, Thalaiyasingam and Gupta, Kartik and Torr, Philip H. S. and Hartley, Richard and Dokania,
  Puneet K.}, booktitle = {AISTATS}, year = {2021}, eprint = {1910.08237}
}"""

    rule: Rule = "md-tanh"
    """Mirror descent with a tanh or a softmax, or one of four relatives."""
    states: Annotated[int, Within(2, 16)] = 2
    """How many even levels: 2 are -1 and 1; 3 are -1, 0 and 1; 4 are -2, -1, 1 and 2."""
    levels: tuple[Annotated[float, Within(-(2**15), 2**15)], ...] = ()
    """Other levels, in increasing order: -1,0,1."""
    beta: Annotated[float, Within(1e-6, 1e30)] = 1.0
    """How steep the projection is at the start."""
    final_beta: Annotated[float, Within(1e3, 1e30)] = 1e4
    """How steep it is at the end; the share of weights that are still between levels falls about as 1 over it."""
    paper: bool = False
    """As in the paper: random start, no scales, every parameter, norms without scale and shift."""
    first_last: Literal["8", "keep", "same"] = "8"
    """First and last layer: 8-bit weights, kept, or the same as the others (as always with paper)."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: Annotated[float, Within(above=0)] = 0.001
    weight_decay: Annotated[float, Within(least=0)] = 0.0

    def check(self) -> None:
        """Levels that rise, a beta that does not fall, widths that there are."""
        rising = all(low < high for low, high in pairwise(torch.tensor(self.levels).tolist()))  # in fp32
        if self.levels and not (2 <= len(self.levels) <= 127 and rising):
            raise UsageError(f"levels={self.levels}: expected 2 to 127 numbers in increasing order, such as (-1, 0, 1)")
        if self.beta > self.final_beta:
            raise UsageError(f"beta={self.beta} is above final_beta={self.final_beta}: the projection grows steep")
        if self.paper and self.rule == "binaryconnect" and 0 in self.chosen:
            raise UsageError("paper=True with rule='binaryconnect' would start every weight on the level 0, where no "
                             "gradient gets through: give levels without 0, or another rule")  # fmt: skip
        check_widths(self.layer_bits, 1, 8)

    @property
    def chosen(self) -> Levels:
        """`levels`, or the even ones."""
        return self.levels or even(self.states)

    @property
    def knob(self) -> Knob:
        """How many levels; there is nothing to turn where they are given."""
        return Knob("states", (self.states,) if self.levels else (8, 7, 5, 4, 3, 2))

    @property
    def untrained(self) -> Method:
        """The same without training."""
        return replace(self, epochs=0)

    @classmethod
    def auto_points(cls, job: Job) -> tuple[Method, ...]:
        """Three epochs at every number of levels, towards the outputs of the original."""
        return (cls(bn=smallest_batch_norm(job.source), epochs=3, distill=0.7),)

    def on_start(self, network: nn.Module) -> None:
        """With `paper`: norms that neither scale nor shift, and random weights."""
        if not self.paper:
            return
        for part in network.modules():
            if isinstance(part, NORMS):
                for name, parameter in part.named_parameters(recurse=False):
                    nn.init.constant_(parameter, 1.0 if name == "weight" else 0.0)
                    parameter.requires_grad_(False)
        recurrent = recurrent_weights(network)
        with seeded(self.seed):
            for name, parameter in network.named_parameters():
                if self._takes(name, parameter) and name not in recurrent:
                    nn.init.xavier_normal_(parameter) if parameter.dim() > 1 else nn.init.normal_(parameter, std=0.1)

    def targets(self, network: nn.Module, specs: Mapping[str, TensorSpec], layers: Sequence[Layer]) -> list[str]:
        """With `paper` every parameter that is trained."""
        if not self.paper:
            return TrainedMethod.targets(self, network, specs, layers)
        parameters = dict(network.named_parameters(remove_duplicate=False))
        return [name for name in specs if name in parameters and self._takes(name, parameters[name])]

    def quantizer(self, target: Target, weight: Tensor) -> Quantizer | None:
        """The levels, or a learned step where `layer_bits` or `first_last` say how many bits (1 bit: -1 and 1)."""
        end = target.first_or_last and not self.paper and self.first_last != "same"
        if end and self.first_last == "keep":
            return None
        bits = self.bits_of(target.name, 8 if end else 0)
        if bits == 8:
            return eight_bits(weight, None)
        if bits > 1:
            half = 2 ** (bits - 1)
            return learned_step(weight, Integers(-half, half - 1), clipped, None, target.normed, "none", "mse")
        levels = even(2) if bits == 1 else self.chosen
        return Projected(weight, levels, self.rule, (self.beta, self.final_beta), scaled=not self.paper)

    def _takes(self, name: str, parameter: Tensor) -> bool:
        return parameter.requires_grad and parameter.is_floating_point() and left_out(name, self) is None
