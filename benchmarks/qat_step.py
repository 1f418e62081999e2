"""What a training step with quantizers costs: ResNet-20, batch 128, forward + backward + SGD, beside fp32.

    python benchmarks/qat_step.py [--compile] [--rounds 9]

CPU time, one thread, variants interleaved round by round; medians of the ratios to fp32 in the same round. `--compile`
adds whole-model torch.compile (minutes for the first step), and counts graph breaks.
"""

import argparse
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
}
COMPILED = ("fp32", "lsq W4A4", "apot W4A4")


def network(variant: tuple[str, dict[str, int]] | None, x: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = build("resnet20")
    if variant is not None:
        name, fields = variant
        tersenet.attach(net, name, [x], **fields)
    return net.train()


def step_of(net: nn.Module, x: torch.Tensor, y: torch.Tensor, compiled: bool) -> Callable[[], None]:
    runner = torch.compile(net) if compiled else net
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9)

    def step() -> None:
        F.cross_entropy(runner(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    x, y = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))
    steps = {name: step_of(network(variant, x), x, y, False) for name, variant in VARIANTS.items()}
    if given.compile:
        for name in COMPILED:
            net = network(VARIANTS[name], x)
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
