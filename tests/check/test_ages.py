"""Dependencies without a release for long are named, and so are reasons that are out of date."""

import tomllib
from datetime import UTC, datetime, timedelta

from tests.check.ages import OLD_AFTER, REASONS, direct_dependencies, judge

NOW = datetime(2026, 11, 1, tzinfo=UTC)
NEW = NOW - timedelta(days=30)
OLD = NOW - OLD_AFTER - timedelta(days=1)


def test_an_old_dependency_needs_a_reason():
    assert judge({"a": NEW, "b": OLD}, {"b": "complete"}, NOW) == []
    (wrong,) = judge({"a": NEW, "b": OLD}, {}, NOW)
    assert wrong.startswith(f"b: its last release is of {OLD:%Y-%m-%d}")


def test_a_reason_without_an_old_dependency_is_out_of_date():
    wrong = judge({"a": NEW}, {"a": "complete", "gone": "complete"}, NOW)
    assert [line.partition(":")[0] for line in wrong] == ["a", "gone"]


def test_each_reason_is_of_a_dependency():
    reasons = tomllib.loads(REASONS.read_text())
    assert reasons.keys() <= set(direct_dependencies())
    assert all(reasons.values())
