"""Questions at the terminal; standard output stays free for what a program reads."""

from __future__ import annotations

import getpass
import sys

from typer import echo

from gmn_client.errors import InvalidInput


def ask(question: str, default: str = "") -> str:
    """Return the answer to a question, or the default for an empty one.

    Raises:
        InvalidInput: the terminal was closed.
    """
    shown = f" [{default}]" if default else ""
    echo(f"{question}{shown}: ", nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        raise _no_answer(question)
    return line.strip() or default


def ask_secret(question: str) -> str:
    """Return the answer to a question without showing it.

    Raises:
        InvalidInput: the terminal was closed.
    """
    try:
        return getpass.getpass(f"{question}: ", sys.stderr)
    except EOFError as error:
        raise _no_answer(question) from error


def _no_answer(question: str) -> InvalidInput:
    return InvalidInput(
        f"{question}: no answer came; options of the command line answer it, too (see --help)"
    )
