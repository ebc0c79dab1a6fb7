from io import StringIO

import pytest
from rich.console import Console

from training.evaluation.intervals import Estimate
from training.evaluation.tables import Table, difference

SHARE = Estimate(mean=0.5775, low=0.412, high=0.742)
RANKINGS = ("cosine", "k_reciprocal", "mnet - cosine", "cosine, multi-shot mean")


def printed(table, width=80):
    file = StringIO()
    Console(file=file, width=width).print(table.rich(width))
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("columns", [1, 4, 6])
def test_no_figure_and_no_ordinary_word_is_broken_at_80_columns(columns):
    names = [f"set {number}" for number in range(columns)]
    table = Table("Ranking, %", ["", *names], [[name, *[SHARE] * columns] for name in RANKINGS])
    lines = printed(table)
    words = " ".join(lines).split()
    assert max(map(len, lines)) <= 80
    assert words.count("57.8") == words.count("41.2…74.2") == columns * len(RANKINGS)
    assert all(word in words for name in RANKINGS for word in name.split())


def test_a_word_that_no_terminal_holds_is_folded_and_not_cut():
    name = "osnet_x0_25_msmt17_combineall_256x128_amsgrad_ep150_stp60_lr0.0015"
    lines = printed(Table("Ranking, %", ["", "mAP", "Rank-1"], [[name, SHARE, SHARE]]), width=50)
    assert "".join(line.split(" ")[0] for line in lines[2:]) == name


def test_a_document_has_the_interval_in_brackets_and_a_dash_for_what_is_missing():
    table = Table("", ["", "mAP", "people"], [["cosine", SHARE, 1234], ["mnet", None, None]])
    assert table.markdown().splitlines() == [
        "|  | mAP | people |",
        "|---|---|---|",
        "| cosine | 57.8 [41.2, 74.2] | 1,234 |",
        "| mnet | – | – |",
    ]


@pytest.mark.parametrize(
    ("low", "high", "better", "mark"),
    [(0.1, 0.3, 1, "good"), (0.1, 0.3, -1, "bad"), (-0.1, 0.3, 1, ""), (-0.3, -0.1, 1, "bad")],
)
def test_a_difference_is_marked_where_its_interval_leaves_out_0(low, high, better, mark):
    assert difference(Estimate(mean=(low + high) / 2, low=low, high=high), better).mark == mark
