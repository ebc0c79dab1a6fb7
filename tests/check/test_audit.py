"""The audit of what is installed does not take silence for health."""

from __future__ import annotations

import json
import re

from tests.check.audit import REQUIREMENTS, judge

WELL = {"name": "a", "version": "1", "vulns": []}
ILL = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


def judged(*packages: dict) -> tuple[bool, str]:
    return judge(json.dumps({"dependencies": packages}))


def test_packages_of_which_nothing_is_known_are_well() -> None:
    assert judged(WELL, WELL) == (True, "2 packages, no known vulnerability")


def test_a_vulnerable_package_is_named_with_the_version_that_mends_it() -> None:
    well, said = judged(WELL, ILL, UNKNOWN)
    assert not well
    assert "b 2: CVE-1, mended in 3" in said


def test_where_nobody_could_be_asked_it_says_so_and_fails() -> None:
    for well, said in (judged(WELL, UNKNOWN), judged(UNKNOWN), judge(""), judge("{}")):
        assert not well
        assert said.startswith("NOT AUDITED")


def test_every_package_is_pinned_to_one_version() -> None:
    lines = REQUIREMENTS.read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [one for one in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9a-z.!]+", one)] == []
    names = [one.partition("==")[0].lower() for one in pins]
    assert len(names) == len(set(names))
