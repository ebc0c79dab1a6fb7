"""A run's log: JSON lines for programs, TensorBoard for people."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

FILE_NAME = "log.jsonl"


class RunLog:
    """Appends one JSON object a line to `log.jsonl` and the numbers in it to TensorBoard.

    Lines of steps that are about to be done again, because the run was killed after its last
    checkpoint, are taken out first: every step is in the log once.
    """

    def __init__(self, run: Path, next_step: int) -> None:
        _drop_from(run / FILE_NAME, next_step)
        self._file = (run / FILE_NAME).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=next_step)

    def write(self, event: str, step: int, **values: Any) -> None:
        """Writes one line; nested numbers become TensorBoard scalars `event/outer/inner`."""
        line = {"event": event, "time": round(time.time(), 3), "step": step, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            for part, number in parts:
                if isinstance(number, (int, float)):
                    tag = f"{event}/{name}/{part}".rstrip("/")
                    self._board.add_scalar(tag, number, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._board.close()


class SilentLog(RunLog):
    """The log of a process that does not lead: the leading one writes."""

    def __init__(self) -> None:
        pass

    def write(self, event: str, step: int, **values: Any) -> None:
        """Writes nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


def _drop_from(path: Path, step: int) -> None:
    """Keeps the whole lines of earlier steps; a killed run may have left half a line."""
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) < step]
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    beside.replace(path)


def _step(line: str) -> float:
    try:
        found: float = json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")
    return found
