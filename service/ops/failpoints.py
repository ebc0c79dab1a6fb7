"""Failpoints: named places at which tests make the process die, fail or wait."""

from __future__ import annotations

import sys


def failpoint(name: str) -> None:
    """Raise the audit event `gmn.NAME`; a hook of the tests acts on it, and without one it is free.

    A name consists of the operation, a dot, and the step that has just happened or comes next.
    """
    sys.audit(f"gmn.{name}")
