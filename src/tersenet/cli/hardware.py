"""What a run knows and a file must not hold: time, machine, date, paths."""

import datetime
import os
import platform
import sys
from pathlib import Path
from typing import Any


def described(output: Path, checkpoint: Path, seconds: float) -> dict[str, Any]:
    """The run that made `output`, for its `FILE.card.json`."""
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else None
    processor = f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}"
    return {
        "seconds": round(seconds, 2),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": f"{gpu}; {processor}" if gpu else processor,
        "checkpoint": _text(checkpoint),
        "output": _text(output),
        "command": [_text(part) for part in sys.argv],
    }


def _text(name: str | Path) -> str:
    """A name that may be no text, so that JSON can hold it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
