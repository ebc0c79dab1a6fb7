"""The audit of installed packages does not take a missing answer for a good one."""

import json

from tests.check.audit import judge

WELL = {"name": "a", "version": "1", "vulns": []}
ILL = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


def judged(*packages):
    return judge(json.dumps({"dependencies": packages}))


def test_packages_of_which_nothing_is_known_are_well():
    assert judged(WELL, WELL) == (True, "2 packages, no known vulnerability")


def test_a_vulnerable_package_is_named_with_the_version_that_mends_it():
    well, said = judged(WELL, ILL, UNKNOWN)
    assert not well
    assert "b 2: CVE-1, mended in 3" in said


def test_where_nobody_could_be_asked_it_says_so_and_fails():
    for well, said in (judged(WELL, UNKNOWN), judged(UNKNOWN), judge(""), judge("{}")):
        assert not well
        assert said.startswith("NOT AUDITED")
