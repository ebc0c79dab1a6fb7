"""The errors that a user's input causes."""

from __future__ import annotations


class InputProblem(ValueError):
    """Input that cannot be used.

    The message names the input, the error and the remedy. The command line prints it and exits with
    status 2; the service answers with a problem document.
    """


class ArtefactProblem(InputProblem):
    """A file that is not a usable artefact."""


def visible(name: object) -> str:
    """Return a name for a message; in quotes with escapes if a part of it could not be seen.

    Such a part is a line end, another character that is not printed, or a space at an end.
    """
    text = str(name)
    return text if text and text.isprintable() and text == text.strip() else repr(text)
