"""A run's log: JSON lines for programs, TensorBoard for people."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Appends one JSON object a line to `log.jsonl` and the numbers in it to TensorBoard."""

    def __init__(self, run: Path) -> None:
        self._file = (run / "log.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run / "tensorboard"))

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
