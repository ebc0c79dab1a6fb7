from io import StringIO

import pytest
from rich.console import Console

from training.evaluation.intervals import Estimate
from training.evaluation.tables import Cell, Table, difference, percent

SHARE = Estimate(mean=0.5775, low=0.412, high=0.742)
RANKINGS = ("cosine", "k_reciprocal", "mnet - cosine", "cosine, multi-shot mean")


def printed(table: Table, width: int = 80) -> list[str]:
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


def test_headers_of_several_words_wrap_before_any_value_does():
    columns = ["operating point", "false alarms asked", "obtained", "people found", "threshold"]
    alarms = percent(Estimate(mean=0.2222, low=0.1389, high=0.3161), ".2f")
    found = percent(Estimate(mean=0.99, low=0.979, high=1.0))
    table = Table("Searches, %", columns, [["cosine far_1e-1", "10", alarms, found, "0.4927"]])
    *_, header, means, intervals = printed(table)
    assert header.split()[-4:] == ["asked", "obtained", "found", "threshold"]
    assert means.split() == ["cosine", "far_1e-1", "10", "22.22", "99.0", "0.4927"]
    assert intervals.split() == ["13.89…31.61", "97.9…100.0"]


def test_intervals_stand_beside_their_means_where_there_is_room():
    table = Table("", ["", "mAP"], [["cosine", SHARE]])
    assert printed(table)[-1] == "cosine  57.8 41.2…74.2"


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


def test_a_share_is_shown_in_per_cent_with_its_ends():
    assert percent(SHARE, ".2f") == Cell("57.75", "41.20 … 74.20")


def test_columns_that_a_terminal_has_no_room_for_stand_below_the_others():
    columns = ["row", "ranking", "mAP", "Δ mAP", "Rank-1", "Δ Rank-1", "paper"]
    apart = difference(Estimate(mean=-0.2, low=-0.284, high=-0.122))
    rows = [
        [name, "k_reciprocal", SHARE, apart, SHARE, apart, "78.3 / 91.2"]
        for name in ("Baseline", "GMN with a linear M-Net")
    ]
    lines = printed(Table("market1501, %", columns, rows, "the same queries", labels=2))
    words = " ".join(lines).split()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "the same queries"
    for word in ("Baseline", "41.2…74.2", "−28.4…−12.2", "78.3 / 91.2"):
        assert " ".join(words).count(word) >= 2, word
    assert words.count("ranking") == 2


def test_a_terminal_leaves_out_a_column_without_values():
    lines = printed(Table("", ["row", "mAP", "paper"], [["Baseline", SHARE, None]]))
    assert lines[0].split() == ["row", "mAP"]
