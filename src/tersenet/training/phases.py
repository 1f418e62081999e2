"""A training phase by phase: attaching, the loop, and the checkpoints that it goes on from."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..core.batch import Batch
from ..core.method import Job
from ..network.batch_norm import reestimate
from ..network.layers import BATCH_NORMS
from ..quantizers import attach
from .loop import Hooks, Schedule, Session, fit
from .processes import Processes
from .randomness import seeded
from .run import Run

if TYPE_CHECKING:
    from .method import TrainedMethod


@dataclass(frozen=True)
class Phase:
    """A part of a training: `epochs` with a learning rate that falls from `lr` to 0, by the hooks of `method`.

    With `attach` its quantizers are new, for the weights as they are; without, those of the phase before learn on.

    >>> from dataclasses import replace
    >>> from tersenet.methods import get
    >>> lsq = get("lsq")(bits=2)
    >>> [phase.method.bits for phase in (Phase(replace(lsq, bits=4), 1, 0.01), Phase(lsq, 2, 0.005))]
    [4, 2]
    """

    method: "TrainedMethod"
    epochs: int
    lr: float
    attach: bool = True


class Training:
    """One training of `method`, phase by phase; what is needed to resume it goes to `folder`.

    A checkpoint is the phase, the state of the plain network when quantizers were attached last (`base`), and what the
    loop adds: attaching to `base` again and loading the model gives the same network.
    """

    def __init__(
        self, method: "TrainedMethod", job: Job, network: nn.Module, processes: Processes, folder: Run | None
    ) -> None:
        self.method, self.job, self.network = method, job, network
        self.task = job.network_and_task(method.name, "trains")[1]
        self.processes, self.folder = processes, folder
        self.teacher = deepcopy(network).eval().requires_grad_(False) if method.distill else None
        self.base: dict[str, Tensor] = {}

    def trained(self) -> nn.Module:
        """The network at the end, in evaluation mode, with its quantizers."""
        saved, phases = None if self.folder is None else self.folder.state, self.method.phases()
        first = 0 if saved is None else int(saved["stage"])
        if saved is not None:
            self._restore(saved, max(number for number in range(first + 1) if phases[number].attach or not number))
        if saved is not None and "finished" in saved:
            return self.network.eval()
        for number in range(first, len(phases)):
            resumed = saved if number == first else None
            if resumed is None:
                self._begin(phases[number], fresh=number == 0)
            phases[number].method.on_phase(self.network, number, self.job)
            self._fit(phases[number], number, resumed)
        self._finish(len(phases) - 1)
        return self.network

    def _restore(self, saved: Mapping[str, Any], attached: int) -> None:
        """The network of a checkpoint, whose quantizers were attached in phase `attached`."""
        self.base = saved["base"]
        self.network.load_state_dict(self.base)
        self._attach(self.method.phases()[attached].method)
        self.network.load_state_dict(saved["model"])

    def _begin(self, phase: Phase, fresh: bool) -> None:
        if not (phase.attach or fresh):
            return
        if not fresh:
            latent = attach.latent_state(self.network)
            assert self.job.module is not None
            self.network = deepcopy(self.job.module).float().to(self.processes.device)
            phase.method.on_start(self.network)
            self.network.load_state_dict(latent)
        self.base = {name: value.clone() for name, value in self.network.state_dict().items()}
        self._attach(phase.method)

    def _attach(self, method: "TrainedMethod") -> None:
        source, train = self.job.source, self.task.batches("train")
        with seeded(method.seed):
            method.attach(self.network, source.specs, train, source.aliases)

    def _fit(self, phase: Phase, number: int, saved: Mapping[str, Any] | None) -> None:
        method = phase.method
        schedule = Schedule(
            phase.epochs,
            phase.lr,
            method.weight_decay,
            method.optimizer,
            method.clip_grad,
            method.distill,
            method.seed,
            method.compile,
        )
        hooks = Hooks(method.make_optimizer, partial(method.on_epoch, job=self.job), method.after_step)
        title = f"{method.name}, {attach.average_bits(self.network):.2f} bits"
        envelope = {"stage": number, "base": self.base}
        session = Session(title, self.processes, self.folder, envelope, saved, self.teacher)
        fit(self.network, self.task, schedule, hooks, session)

    def _finish(self, number: int) -> None:
        with seeded(self.method.seed):
            finish(self.network, self.task.batches("train"))
        if self.folder is not None and self.processes.rank == 0:
            state = {"stage": number, "base": self.base, "model": self.network.state_dict()}
            self.folder.save({**state, "finished": attach.latent_state(self.network)})


def finish(network: nn.Module, train: Iterable[Batch]) -> None:
    """Evaluation mode, with batch norm re-estimated for the weights as they are now."""
    network.eval()
    if any(isinstance(part, BATCH_NORMS) for part in network.modules()):
        reestimate(network, train)
