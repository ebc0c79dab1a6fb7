"""Consoles and progress of all commands, which print every text as it is.

Progress is bars on a terminal. Elsewhere it is a line every ten seconds, which tells what the
newest bar would show.
"""

from __future__ import annotations

import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import Progress, ProgressColumn, TextColumn

LINE_SECONDS = 10.0


def escape_controls(text: str) -> str:
    """Return a message in which control characters are shown, such as a carriage return as `\\r`.

    A console would leave some of them out, and a terminal obey the others.
    """
    return "".join(
        repr(letter)[1:-1] if unicodedata.category(letter) == "Cc" and letter != "\n" else letter
        for letter in text
    )


def make_console(
    *, stderr: bool = False, width: int | None = None, soft_wrap: bool = False
) -> Console:
    """Return a console that prints text without interpreting markup or emoji, and without colours.

    Names that users wrote may hold `[red]` or `:ab:`. Use `rich.text.Text` for styles.
    """
    return Console(
        stderr=stderr,
        width=width,
        soft_wrap=soft_wrap,
        markup=False,
        emoji=False,
        highlight=False,
    )


class Teller:
    """Tells what a command does in lines on standard error."""

    def __init__(self, doing: str) -> None:
        """Start the command's clock.

        Args:
            doing: what is done outside of all bars.
        """
        self.bars: list[Progress] = []
        self._doing = doing
        self._began = time.monotonic()

    def line(self) -> str:
        """Return what is done now, and how far it is."""
        tasks = [task for bar in list(self.bars) for task in bar.tasks]
        if not tasks:
            return f"{self._doing}: {time.monotonic() - self._began:.0f} s"
        task = tasks[-1]
        if task.total:
            return f"{task.description}: {task.completed:,.0f} of {task.total:,.0f}"
        return f"{task.description}: {task.elapsed or 0.0:.0f} s"


_teller: ContextVar[Teller | None] = ContextVar("teller", default=None)


@contextmanager
def tell_steps(doing: str) -> Iterator[None]:
    """Print a line every `LINE_SECONDS` while the block runs, if standard error is no terminal.

    Args:
        doing: what is done outside of all bars, such as the command.
    """
    console = make_console(stderr=True, soft_wrap=True)
    if console.is_terminal:
        yield
        return
    teller = Teller(doing)
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(LINE_SECONDS):
            console.print(escape_controls(teller.line()))

    thread = threading.Thread(target=tell, name="teller", daemon=True)
    token = _teller.set(teller)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _teller.reset(token)


class ToldProgress(Progress):
    """A progress bar of which `tell_steps` tells where no terminal shows it."""

    _told_by: Teller | None = None

    def start(self) -> None:
        super().start()
        if self.disable and (teller := _teller.get()):
            teller.bars.append(self)
            self._told_by = teller

    def stop(self) -> None:
        super().stop()
        if self._told_by is not None:
            self._told_by.bars.remove(self)
            self._told_by = None


def make_progress(*columns: ProgressColumn, transient: bool = True) -> Progress:
    """Return a progress bar on standard error; if that is no terminal, `tell_steps` tells of it.

    Args:
        columns: shown after the description of each task.
        transient: whether the bar disappears at the end.
    """
    console = make_console(stderr=True)
    return ToldProgress(
        TextColumn("{task.description}", markup=False),
        *columns,
        console=console,
        transient=transient,
        disable=not console.is_terminal,
    )
