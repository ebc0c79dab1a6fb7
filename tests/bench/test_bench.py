"""`gmn bench` answers a ratio of two measured sides, and refuses a name that does not exist."""

import gmn
from bench.result import alternate, compare


def test_the_ratio_is_the_median_over_rounds_with_their_range():
    result = compare("serve", [(8.0, 10.0), (9.0, 10.0), (4.0, 10.0)], 0.8, {"n": 3})
    assert result == ("serve", 0.8, (0.4, 0.9), 0.8, {"n": 3})
    assert result.text == "n 3"


def test_the_turns_of_both_sides_go_to_and_fro_after_a_round_that_warms_up(monkeypatch):
    monkeypatch.setattr("bench.result.ROUNDS", 2)
    calls = []

    def side(name):
        calls.append(name)
        return len(calls)

    assert alternate(lambda: side("ours"), lambda: side("theirs")) == [(4, 3), (5, 6)]
    assert calls == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_a_bench_that_does_not_exist_is_bad_input(capsys):
    assert gmn.run(["bench", "nonsense"]) == 2
    assert "not one of 'embed', 'enroll', 'query', 'serve'" in capsys.readouterr().err
