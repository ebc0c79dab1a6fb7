"""Failpoints: each has a scenario that reaches it, and a process fails there as it is told."""

import re
import signal
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from tests.torture.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
WRITES = (
    *("enroll", "delete-crop", "forget-identity", "delete-expired", "relabel", "create-gallery"),
    *("change-gallery", "delete-gallery", "reindex"),
)
# Before the commit; then the record has the write and the index does not; then searches show it.
OF_COMMITS = {
    f"{write}.{step}" for write in WRITES for step in ("before-commit", "committed", "shown")
}
# At the first start with a record of a former format; see tests/service/record/test_formats.py.
OF_FORMATS = {"format.copied", "format.changed", "format.committed"}


def test_every_failpoint_stands_in_one_place_and_has_a_scenario_that_leads_there():
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "service").rglob("*.py"))
    placed = Counter(re.findall(r'failpoint\("([a-z.-]+)"\)', text))
    assert placed == dict.fromkeys((SCENARIOS.keys() - OF_COMMITS) | OF_FORMATS, 1)
    assert SCENARIOS.keys() >= OF_COMMITS
    named = r'(?:change|commit)\(\s*(?:gallery,\s*entry,\s*)?"([a-z-]+)"'
    assert {*WRITES} <= {*re.findall(named, text)}


def test_a_served_process_says_loudly_that_it_is_to_fail_and_does(start, images):
    served = start(failpoint="delete-crop.committed:2")
    assert "THIS PROCESS IS TO FAIL ON PURPOSE" in served.log.read_text()
    first, second = served.enrolled("default", images[0], images[1])
    served.delete_crop("default", first)
    with pytest.raises(httpx2.TransportError):
        served.delete_crop("default", second)
    assert served.process.wait(20) == -signal.SIGKILL
    served.kill()
