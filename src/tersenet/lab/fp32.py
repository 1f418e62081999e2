"""Networks of papers in full precision, trained from scratch."""

from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from ..core.task import Task
from ..files.atomic import replacing_file
from ..training.loop import Schedule, Session, fit
from ..training.processes import Processes
from ..training.run import open_run
from .models import build


def train_fp32(network: nn.Module, task: Task, epochs: int, lr: float, run: Path, weights: Path, seed: int) -> None:
    """Train a network from scratch and write its weights; goes on in the folder `run`."""
    identity = {"fp32": type(network).__name__, "epochs": epochs, "lr": lr, "seed": seed}
    processes = Processes()
    network.to(processes.device)
    schedule = Schedule(epochs, lr, 5e-4, seed=seed)
    with open_run(run, identity, (run / "run.json").is_file()) as kept:
        fit(network, task, schedule, session=Session("fp32", processes, kept, saved=kept.state))
    with replacing_file(weights, overwrite=True) as stream:
        stream.write(save({name: value.cpu().contiguous() for name, value in network.state_dict().items()}))


def fp32_start(name: str, task: Task, epochs: int, lr: float, folder: Path, seed: int) -> Path:
    """The weights that rows about a network of the lab start from, trained in `folder` if they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "fp32.safetensors"
    if not weights.is_file():
        torch.manual_seed(seed)
        train_fp32(build(name), task, epochs, lr, folder / "fp32", weights, seed)
    return weights
