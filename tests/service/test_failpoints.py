"""Failpoints: each has a scenario that reaches it, and acts as it is told."""

from __future__ import annotations

import re
import signal
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.failpoints import parse
from tests.torture.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
SOURCE = "".join(
    path.read_text(encoding="utf-8")
    for path in (ROOT / "service").rglob("*.py")
    if path.name != "failpoints.py"
)
WRITES = (
    *("enroll", "delete-crop", "forget-identity", "delete-expired", "relabel", "create-gallery"),
    *("change-gallery", "delete-gallery", "restore", "reindex"),
)
# Before the commit; then the record has the write and the index does not; then searches show it.
STEPS = ("before-commit", "committed", "shown")


def _is_of_a_commit(name: str) -> bool:
    write, _, step = name.partition(".")
    return step in STEPS and write in WRITES


def test_every_failpoint_stands_in_one_place_and_has_a_scenario_that_leads_there():
    placed = Counter(re.findall(r'failpoint\("([a-z.-]+)"\)', SOURCE))
    assert placed == dict.fromkeys((name for name in SCENARIOS if not _is_of_a_commit(name)), 1)
    assert {f"{write}.{step}" for write in WRITES for step in STEPS} <= set(SCENARIOS)
    named = re.compile(
        r'(?:change|change_crops|_commit)\(\s*(?:runtime,\s*gallery,\s*)?"([a-z-]+)"'
    )
    assert set(WRITES) <= set(named.findall(SOURCE))


def test_a_write_has_happened_at_its_failpoints_but_for_the_one_before_its_commit():
    for point, scenario in SCENARIOS.items():
        if _is_of_a_commit(point) and scenario.happened is not None:
            assert scenario.happened == (not point.endswith(".before-commit")), point


@pytest.mark.parametrize(
    ("text", "point", "passage", "action"),
    [
        ("enroll.committed", "enroll.committed", 1, "kill"),
        ("relabel.shown:7", "relabel.shown", 7, "kill"),
        ("job.ended=raise", "job.ended", 1, "raise"),
        ("audit.before-line:2=delay:0.25", "audit.before-line", 2, 0.25),
    ],
)
def test_it_is_written_as_name_passage_and_action(text, point, passage, action):
    armed = parse(text)
    assert (armed.name, armed.passage, armed.action) == (point, passage, action)


def test_it_acts_at_its_passage_and_at_no_other():
    hook = parse("relabel.shown:2=raise").hook
    hook("gmn.relabel.shown", ())
    hook("gmn.relabel.committed", ())
    with pytest.raises(OSError, match=r"failpoint relabel\.shown"):
        hook("gmn.relabel.shown", ())
    hook("gmn.relabel.shown", ())


def test_a_served_process_says_loudly_that_it_is_to_fail_and_does(start, drawn_crops):
    served = start(failpoint="delete-crop.committed")
    assert "THIS PROCESS IS TO FAIL ON PURPOSE" in served.log.read_text()
    landed = served.enroll("default", drawn_crops[0].png).json()["results"][0]
    with pytest.raises(httpx.TransportError):
        served.http.delete(f"/v1/galleries/default/crops/{landed['crop_id']}")
    assert served.process.wait(20) == -signal.SIGKILL
    served.kill()
