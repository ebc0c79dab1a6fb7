"""Consoles and progress bars of all commands, which print every text as it is."""

from __future__ import annotations

import unicodedata

from rich.console import Console
from rich.progress import Progress, ProgressColumn, TextColumn


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


def make_progress(*columns: ProgressColumn, transient: bool = True) -> Progress:
    """Return a progress bar on standard error; silent if that is no terminal.

    Args:
        columns: shown after the description of each task.
        transient: whether the bar disappears at the end.
    """
    console = make_console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        *columns,
        console=console,
        transient=transient,
        disable=not console.is_terminal,
    )
