"""Failpoints: named places at which tests make the process die, fail or wait.

A name consists of the operation, a dot, and the step that has just happened or comes next. Reaching
one raises an audit event, on which a hook of the tests acts; without a hook it costs nothing.
"""

from __future__ import annotations

import sys


def failpoint(name: str) -> None:
    sys.audit(f"gmn.{name}")
