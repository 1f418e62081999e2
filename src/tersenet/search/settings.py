"""What a search is told beside the network and the method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Self

from ..core.fields import Within, check_names, check_value
from ..core.task import Task
from ..errors import UsageError
from ..files.terse import Effort, check_card_fields
from .target import Target

OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class SearchSettings:
    """The target, which is `max_bytes` (on disk) or `max_drop` (in points, or another unit of the task), and how it is
    searched for.

    `time_limit` is in seconds (None: as long as it takes). `overwrite` begins anew and replaces what is at the output.
    `effort` is the coder's ("fast", "best"). `task_name` tells tasks apart in the log of trials. `card_fields` are
    what only the user knows about the file. `on_message` gets a line of text before every trial.

    **Raises** `UsageError` for a value that a setting cannot have, and without a target.
    """

    max_bytes: Annotated[int, Within(least=1)] | None = None
    max_drop: Annotated[float, Within(least=0)] | None = None
    time_limit: Annotated[float, Within(above=0)] | None = None
    overwrite: bool = False
    effort: Effort = "fast"
    task_name: str = ""
    card_fields: Mapping[str, str] = field(default_factory=dict)
    on_message: OnMessage = lambda text: None

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.name != "on_message":
                object.__setattr__(self, each.name, check_value(each.name, each.type, getattr(self, each.name)))
        check_card_fields(self.card_fields)
        if (self.max_bytes is None) == (self.max_drop is None):
            raise UsageError("give max_bytes= or max_drop= (one of the two)")

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """The settings that a call names. **Raises** `UsageError` for others."""
        check_names("a search has no setting", given, [each.name for each in fields(cls)])
        return cls(**given)

    def target(self, task: Task | None) -> Target:
        """What is to be kept, in the unit of the task."""
        return Target(self.max_bytes, self.max_drop, "points" if task is None else task.unit)
