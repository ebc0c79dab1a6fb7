"""The synchronous client is the asynchronous one without `await`."""

from __future__ import annotations

from tests.check.sync_client import ROOT, generate


def test_the_synchronous_client_is_what_is_generated_from_the_asynchronous_one() -> None:
    folder = ROOT / "gmn_client" / "_sync"
    kept = {file.name: file.read_text() for file in folder.glob("*.py")}
    assert kept == generate(), "run python -m tests.check.sync_client"
