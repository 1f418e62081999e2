"""What is attached to weights and to inputs of layers: steps and temperatures that learn, gates over rings of codes."""

import math

import torch
from torch import Tensor, nn

from ...core.activation import Activation
from ...core.grid import Uniform
from ...core.levels import Integers
from ...core.model import QTensor
from ...quantizers.activation import InputRounder, Sign
from ...quantizers.project import LARGEST, SMALLEST, stored_scale
from ...quantizers.quantizer import ParamGroup, Quantizer
from .categorical import Categorical, Jacobian, Range, round_to_mode

FIRST_SIGMA, LEAST_SIGMA = 1 / 3, 1 / 20  # in units of the step; below the least one there are no gradients
FARTHEST = 60.0  # of the logarithm of a step from 0
CANDIDATES = 64  # first steps that are tried
TAU, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # of the hard-concrete distribution (Louizos et al. 2018)
NEVER = TAU * math.log(-GAMMA / ZETA)  # a gate is not 0 with the probability `sigmoid(gate - NEVER)`
SCALE_RATE, GATE_RATE = 0.1, 10.0  # learning rates of steps and temperatures, and of gates, against those of weights


def signed_range(bits: int) -> Range:
    """The codes of `bits` bits: `-2^(bits - 1)` to `2^(bits - 1) - 1`."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def first_step(weight: Tensor, codes: Range) -> Tensor:
    """The step with the smallest squared error among 64 fractions of what spans the largest weight (`[]`)."""
    flat, levels = weight.float().reshape(-1), Integers(*codes)
    widest = flat.abs().amax().clamp(min=1e-12) / -codes[0]
    steps = [widest * i / CANDIDATES for i in range(1, CANDIDATES + 1)]
    errors = [float((levels.nearest(flat / step) * step - flat).square().sum()) for step in steps]
    return steps[errors.index(min(errors))]


class StepAndSigma(nn.Module):
    """A learned step and a learned temperature, as logarithms; the step is used as it is stored, in fp16 (fp32 where
    that would lose it).

    Both gradients are multiplied by `1 / (first step^2 sqrt(elements x highest code))`: at the start, the relative
    change of the step is that of LSQ.
    """

    def __init__(self, step: Tensor, elements: int, highest: int) -> None:
        super().__init__()
        self.fp16 = 2 * SMALLEST < float(step) < LARGEST / 2
        self.factor = 1 / (float(step) ** 2 * math.sqrt(elements * max(1, highest)))
        self.log_step = nn.Parameter(step.detach().float().log())
        self.log_sigma = nn.Parameter((step.detach().float() * FIRST_SIGMA).log())

    @property
    def step(self) -> Tensor:
        """The step as stored (`[]`)."""
        return stored_scale(self.log_step.exp(), 1.0, self.factor, self.fp16)

    @property
    def sigma(self) -> Tensor:
        """The temperature (`[]`)."""
        return stored_scale(self.log_sigma.exp(), 1.0, self.factor, False)

    def clamp(self) -> None:
        """Keep the temperature from falling where nothing learns any more, and both where fp32 holds them."""
        self.log_step.clamp_(-FARTHEST, FARTHEST)
        step = float(self.log_step)
        self.log_sigma.clamp_(step + math.log(LEAST_SIGMA), step + FARTHEST / 4)


class CategoricalWeight(Quantizer):
    """`value = step * k`, k the mode of the categorical distribution over `2^bits` codes (see `categorical`).

    With `keep`, each ring of codes between two numbers of bits is masked by a hard-concrete gate, `M_k = product of Z_j
    for j <= k`, drawn by `anneal`, once per minibatch, until `settle` ends it; the gates, whose chance of not being 0
    is `keep` at the start, learn if `strength` is not None: it is the loss per expected bit. In evaluation mode masks
    are 1, up to the first learned gate that is closed without noise.
    """

    noise: Tensor

    def __init__(
        self, weight: Tensor, bits: int, jacobian: Jacobian, keep: float | None = None, strength: float | None = None
    ) -> None:
        super().__init__()
        self.dtype, self.most, self.jacobian, self.strength = weight.dtype, bits, jacobian, strength
        codes = signed_range(bits)
        self.scale = StepAndSigma(first_step(weight, codes), weight.numel(), codes[1])
        self.draws = keep is not None and bits > 1
        opened = 0.0 if keep is None else math.log(keep / (1 - keep)) + NEVER
        self.gates = nn.Parameter(torch.full((bits - 1,), opened), requires_grad=strength is not None)
        self.register_buffer("noise", torch.full((bits - 1,), math.inf), persistent=False)

    @property
    def bits(self) -> int:  # type: ignore[override]
        """The width of the codes that are left."""
        if self.strength is None:
            return self.most
        alive = (torch.sigmoid(self.gates.detach()) * (ZETA - GAMMA) + GAMMA > 0).tolist()
        return 1 + (alive.index(False) if False in alive else len(alive))

    def anneal(self, progress: float, lr: float) -> None:
        """Draw the masks of the next minibatch."""
        if self.draws:
            uniform = torch.rand(self.noise.shape).clamp_(1e-6, 1 - 1e-6)
            self.noise.copy_(torch.logit(uniform))

    def settle(self) -> None:
        """From now on there are as many bits as now, and no masks."""
        self.draws = False
        self.gates.requires_grad_(False)

    def after_step(self, *latents: Tensor) -> None:
        """Keep the temperature in its range."""
        self.scale.clamp()

    def forward(self, latent: Tensor) -> Tensor:  # type: ignore[override]
        """The rounded weight, in fp32 values that its original dtype holds."""
        value = round_to_mode(latent, self._distribution(), self.jacobian)
        return value if self.dtype == torch.float32 else value.to(self.dtype).to(torch.float32)

    def _distribution(self) -> Categorical:
        if self.training and self.draws:
            z = torch.sigmoid((self.noise + self.gates) / TAU) * (ZETA - GAMMA) + GAMMA
            masks = torch.cat([z.new_ones(1), z.clamp(0, 1).cumprod(0)])
            ranges = tuple(signed_range(bits) for bits in range(1, self.most + 1))
        else:
            masks, ranges = torch.ones_like(self.scale.log_step).reshape(1), (signed_range(self.bits),)
        return Categorical(self.scale.step, self.scale.sigma, masks, ranges)

    def penalty(self, *latents: Tensor) -> Tensor:
        """`strength` times the expected number of bits above the first."""
        if self.strength is None or not self.draws:
            return super().penalty(*latents)
        return self.strength * torch.sigmoid(self.gates - NEVER).cumprod(0).sum()

    def freeze(self, latent: Tensor) -> QTensor:  # type: ignore[override]
        """Codes, with the step as stored."""
        with torch.no_grad():
            levels, step = Integers(*signed_range(self.bits)), self.scale.step
            codes = levels.codes(levels.nearest(latent / step)).cpu()
            return QTensor(
                codes, Uniform(step.to("cpu", torch.float16 if self.scale.fp16 else torch.float32)), self.dtype
            )

    def param_groups(self, latents: tuple[Tensor, ...], lr: float, weight_decay: float) -> list[ParamGroup]:
        """Step and temperature, and gates, at rates of their own; none decays."""
        return [
            {"params": list(self.scale.parameters()), "lr": lr * SCALE_RATE, "weight_decay": 0.0},
            {"params": [self.gates], "lr": lr * GATE_RATE, "weight_decay": 0.0},
        ]


class CategoricalInput(InputRounder):
    """The same parametrisation of a layer's input: codes 0 to `2^bits - 1`, or signed ones."""

    def __init__(self, bits: int, jacobian: Jacobian, sign: Sign = "seen") -> None:
        super().__init__(sign)
        self.count, self.jacobian, self.codes = bits, jacobian, signed_range(bits)
        self.scale = StepAndSigma(torch.ones(()), 1, 1)

    def settle(self) -> None:
        """The step with the smallest squared error on what was observed."""
        assert self.observer is not None
        self.codes = signed_range(self.count) if self.observer.signed else (0, 2**self.count - 1)
        levels = Integers(*self.codes)
        step = torch.tensor(self.observer.clip("mse", levels) / levels.high, device=self.scale.log_step.device)
        self.scale = StepAndSigma(step, self.observer.features, levels.high)
        self.observer = None

    def rounded(self, inputs: Tensor) -> Tensor:
        """`step * k`, k the mode."""
        masks = torch.ones_like(self.scale.log_step).reshape(1)
        return round_to_mode(
            inputs.float(), Categorical(self.scale.step, self.scale.sigma, masks, (self.codes,)), self.jacobian
        )

    def after_step(self) -> None:
        """Keep the temperature in its range."""
        self.scale.clamp()

    def param_groups(self, lr: float, weight_decay: float) -> list[ParamGroup]:
        """Step and temperature, which do not decay."""
        return [{"params": list(self.scale.parameters()), "lr": lr * SCALE_RATE, "weight_decay": 0.0}]

    def freeze(self) -> Activation:
        """The same rounding, as a fact."""
        with torch.no_grad():
            return Activation(Integers(*self.codes), float(self.scale.step))
