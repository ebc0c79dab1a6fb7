"""The files whose tests run on both engines."""

from tests.engines import QUICK, SERVICE, SLOW


def test_each_file_that_runs_on_both_engines_is_there():
    assert [name for name in (*QUICK, *SLOW) if not (SERVICE / name).is_file()] == []
