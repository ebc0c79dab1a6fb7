"""The errors that a user's input causes, and those that the machine causes."""

from __future__ import annotations

import errno

# Too little memory, too many open files of the process or of the machine, and a disk that fails.
ERRORS_OF_THE_MACHINE = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO})
NO_THREAD = "can't start new thread"


class InputProblem(ValueError):
    """Input that cannot be used.

    The message names the input, the error and the remedy. The command line prints it and exits with
    status 2; the service answers with a problem document.
    """


class ArtefactProblem(InputProblem):
    """A file that is not a usable artefact."""


def is_of_the_machine(error: BaseException | None) -> bool:
    """Return whether the machine caused an error, and not the input that was being read.

    Input must not be refused as damaged for such an error, since it may be right.
    """
    if isinstance(error, OSError):
        return error.errno in ERRORS_OF_THE_MACHINE
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and str(error) == NO_THREAD
    )


def legible(name: object) -> str:
    """Return a name for a message; in quotes with escapes if a part of it could not be seen.

    Such a part is a line end, another character that is not printed, or a space at an end.
    """
    text = str(name)
    return text if text and text.isprintable() and text == text.strip() else repr(text)
