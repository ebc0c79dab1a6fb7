"""The errors that a user's input causes."""

from __future__ import annotations


class InputProblem(ValueError):
    """Input that cannot be used.

    The message names the input, the error and the remedy. The command line prints it and exits with
    status 2; the service answers with a problem document.
    """


class ArtefactProblem(InputProblem):
    """A file that is not a usable artefact."""
