"""What a training step with quantizers costs beside fp32: forward + penalty + backward + SGD + what quantizers do after
it. ResNet-20 with batch 128, or an encoder of MiniLM's size (6 layers of 384, 30,522 words) with 32 texts of 128 words.

    python benchmarks/qat_step.py [--net minilm] [--only bsq] [--compile] [--rounds 9]

CPU time, one thread, variants interleaved round by round; medians of the ratios to fp32 in the same round. `--compile`
adds whole-model torch.compile (minutes for the first step), and counts graph breaks.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import tersenet
from tersenet.lab.models import build

VARIANTS = {
    "fp32": None,
    "lsq W4": ("lsq", {}),
    "lsq W4A4": ("lsq", {"act_bits": 4}),
    "apot W4": ("apot", {}),
    "apot W4A4": ("apot", {"act_bits": 4}),
    "bsq": ("bsq", {}),
    "bsq A4": ("bsq", {"act_bits": 4}),
    "cpq W3": ("cpq", {"bits": 3}),
    "cpq W3A3": ("cpq", {"bits": 3, "act_bits": 3}),
    "cpq W3A3 dropbits": ("cpq", {"bits": 3, "act_bits": 3, "dropbits": True}),
}
COMPILED = ("fp32", "lsq W4A4", "apot W4A4")


class Block(nn.Module):
    """A layer of an encoder: attention of 12 heads, then two linear layers."""

    def __init__(self, width: int = 384, hidden: int = 1536) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [each(x).unflatten(2, (12, 32)).transpose(1, 2) for each in (self.query, self.key, self.value)]
        seen = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = self.norms[0](x + self.out(seen))
        return self.norms[1](x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """Word vectors, six layers, two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30_522, 384)
        self.layers = nn.Sequential(*(Block() for _ in range(6)))
        self.classes = nn.Linear(384, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classes(self.layers(self.words(x)).mean(1))


def network(name: str, variant: tuple[str, dict[str, int]] | None, x: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = Encoder() if name == "minilm" else build(name)
    if variant is not None:
        tersenet.attach(net, variant[0], [x], **variant[1])
    return net.train()


def step_of(net: nn.Module, x: torch.Tensor, y: torch.Tensor, compiled: bool) -> Callable[[], None]:
    runner = torch.compile(net) if compiled else net
    optimizer = torch.optim.SGD(tersenet.param_groups(net, 0.01), momentum=0.9)
    steps = itertools.count()

    def step() -> None:
        tersenet.anneal(net, next(steps) / 1000, 0.1)
        (F.cross_entropy(runner(x), y) + tersenet.penalty(net)).backward()
        optimizer.step()
        optimizer.zero_grad()
        tersenet.after_step(net)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--net", choices=["resnet20", "minilm"], default="resnet20")
    parser.add_argument("--only", default="", help="variants whose name begins like this, and fp32")
    given = parser.parse_args()
    torch.set_num_threads(1)
    x, y = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))
    if given.net == "minilm":
        x, y = torch.randint(0, 30_522, (32, 128)), torch.randint(0, 2, (32,))
    chosen = {name: variant for name, variant in VARIANTS.items() if name == "fp32" or name.startswith(given.only)}
    steps = {name: step_of(network(given.net, variant, x), x, y, False) for name, variant in chosen.items()}
    if given.compile:
        for name in COMPILED:
            net = network(given.net, VARIANTS[name], x)
            breaks = torch._dynamo.explain(net)(x).graph_break_count
            print(f"{name}: {breaks} graph breaks", flush=True)
            steps[f"{name}, compiled"] = step_of(net, x, y, True)
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(given.rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    for name, own in times.items():
        base = "fp32, compiled" if name.endswith("compiled") else "fp32"
        ratio = statistics.median(a / b for a, b in zip(own, times[base], strict=True))
        print(f"{name:22} {statistics.median(own):.3f} s   {ratio:.2f} x {base}")


if __name__ == "__main__":
    main()
