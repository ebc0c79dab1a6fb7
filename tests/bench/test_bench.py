"""`gmn bench` answers a ratio of two measured sides, and refuses a name that does not exist."""

from __future__ import annotations

import pytest

import gmn
from bench.result import compare


def test_the_ratio_is_the_median_over_rounds_with_their_range() -> None:
    result = compare("serve", [8.0, 9.0, 4.0], [10.0, 10.0, 10.0], reach=0.8, details={"n": 3})
    assert (result.ratio, result.spread, result.reached) == (0.8, (0.4, 0.9), True)
    answer = result.model_dump()
    assert set(answer) == {"bench", "ratio", "spread", "reach", "reached", "details", "machine"}
    assert result.machine["cores"] >= 1


def test_a_bench_that_falls_short_says_so() -> None:
    assert not compare("serve", [7.0], [10.0], reach=0.8, details={}).reached


def test_a_bench_without_an_aim_neither_reaches_nor_misses_it() -> None:
    result = compare("embed", [7.0], [10.0], reach=None, details={})
    assert (result.ratio, result.reach, result.reached) == (0.7, None, None)


def test_a_bench_that_does_not_exist_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert gmn.run(["bench", "nonsense"]) == 2
    assert "not one of 'embed', 'enroll', 'query', 'serve'" in capsys.readouterr().err
