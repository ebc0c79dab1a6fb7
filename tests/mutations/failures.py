"""A pytest plug-in that writes each failure of a run as a line of JSON to `$MUTATION_FAILURES`."""

import json
import os
from pathlib import Path

import pytest

VARIABLE = "MUTATION_FAILURES"
DID_NOT_RAISE = "DID NOT RAISE"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.excinfo is not None and report.failed:
        line = {
            "test": item.nodeid,
            "asserted": call.when == "call" and is_assertion(call.excinfo.value),
            "error": f"{call.when}: {call.excinfo.exconly()}",
        }
        with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return report


def is_assertion(error):
    """Return whether a test's own expectation failed, and not the code or the machine below it."""
    # Hypothesis raises a group where it found several failures.
    if isinstance(error, BaseExceptionGroup):
        return all(is_assertion(inner) for inner in error.exceptions)
    if isinstance(error, pytest.fail.Exception):
        return str(error).startswith(DID_NOT_RAISE)
    return isinstance(error, AssertionError)
