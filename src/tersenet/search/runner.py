"""Where the files of a search are made and judged."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

from torch import nn

from ..analysis.evaluate import Evaluation, evaluate
from ..analysis.intervals import Estimate
from ..analysis.results import measure
from ..api import check_method, load, open_inputs
from ..core.method import Job, Method, RunFolder
from ..core.model import Item
from ..core.nested import hash_of_tensors
from ..core.task import Task
from ..errors import InputError
from ..files.checkpoint import Where
from ..files.results import Results
from ..files.terse import write
from ..network.uses import described
from .folder import SearchFolder
from .settings import SearchSettings
from .trials import key_of

VALIDATION = "validation"
LOGGER = logging.getLogger("tersenet")


class Runner:
    """Makes and judges the files of a search.

    `judged` is the task that files are judged on, None where there is nothing to judge on; `original` is what the
    network to compress scores on validation, None without labels.

    **Raises** `InputError` if the input, the network or the samples cannot be used.
    """

    def __init__(
        self,
        what: nn.Module | Where,
        module: nn.Module | None,
        task: Task | None,
        settings: SearchSettings,
        folder: SearchFolder,
    ) -> None:
        opened, self.network = open_inputs(what, module)
        self.task, self.effort, self.folder = task, settings.effort, folder
        self.reference = None if self.network is None else deepcopy(self.network)
        self.judged = None if module is None or task is None or task.validation is None else task
        tested = self.judged is not None and self.judged.test is not None
        self.source = described(opened, self.network, task, card_fields=settings.card_fields, results=tested)
        self.kept: tuple[str, Callable[[Method], Iterator[Item]]] | None = None  # the last method, ready for all rates
        began = time.perf_counter()
        original = None if self.judged is None else self._compared(self.network, VALIDATION)
        self.pass_seconds = (time.perf_counter() - began) / 2
        self.original = None if original is None else original.metric
        self.samples = 0 if original is None or original.agreement is None else original.agreement.n
        if original is not None and original.metric is None:
            LOGGER.info("no labels for the metric: drops are those of agreement (%s)", original.agreement_name)
        if original is not None and original.drop is not None and not math.isfinite(original.drop.mean):
            raise InputError("the metric of the original network is not finite on validation: check metric and data")

    def make(self, method: Method, start: str, place: Path) -> int:
        """Write the file of a trial; return its bytes."""
        check_method(method, self.source, None)
        seen = None if self.task is None else self.task.for_method()
        if method.needs == "training":
            folder, trains = self.folder.run_of(key_of(method, start)), method.untrained != method
            run = RunFolder(folder, (folder / "run.json").is_file(), self.folder.run_of(start) if start else None)
            pieces = method.compress(Job(self.source, self.network, seen, run if trains else None))
        else:
            family = key_of(method.at(method.knob.values[0]))
            if self.kept is None or self.kept[0] != family:
                self.kept = family, method.prepare(Job(self.source, self.network, seen))
            pieces = self.kept[1](method)
        return write(place, pieces, method.model(self.source, ()), overwrite=True, effort=self.effort)

    def evaluate(self, place: Path) -> Estimate | None:
        """The drop of a file on validation, in points, decoded from disk."""
        if self.judged is None or self.network is None:
            return None
        return self._drop(self._compared(load(place).apply_to(deepcopy(self.network)).eval(), VALIDATION))

    def test(self, place: Path) -> tuple[Estimate, Estimate | None, Results]:
        """The drop of a file on the test split, in points, what the original scores there (with labels), and all that
        the file is to say about it."""
        assert self.judged is not None and self.network is not None
        evaluation, results = measure(place, self.network, self.judged, "test", self.reference)
        return self._drop(evaluation), evaluation.reference, results

    def expect(self, method: Method) -> float:
        """The seconds of a trial, guessed from those of a forward pass."""
        return self.pass_seconds * (2 + method.sample_passes(self.task) / max(1, self.samples))

    @property
    def data(self) -> str:
        """What tells the samples that files are judged on from others: a hash of the first batch."""
        first = None if self.judged is None else next(self.judged.batches(VALIDATION), None)
        return "" if first is None else hash_of_tensors([first.inputs, first.targets])

    def _drop(self, evaluation: Evaluation) -> Estimate:
        """In points."""
        assert evaluation.drop is not None and self.judged is not None
        if math.isnan(evaluation.drop.mean):  # such a network is as bad as can be
            return Estimate(math.inf, math.inf, math.inf, evaluation.drop.n, math.inf, math.inf)
        return evaluation.drop.times(self.judged.points)

    def _compared(self, network: nn.Module | None, split: str) -> Evaluation:
        assert network is not None and self.judged is not None
        return evaluate(network, self.judged, split, self.reference)
