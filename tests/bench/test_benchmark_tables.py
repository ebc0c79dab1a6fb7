"""Rows of a benchmark in a document."""

from __future__ import annotations

from bench.figures import condense_benchmark, table

FIGURE = {"mean": 0.5, "low": 0.4, "high": 0.6}
METRICS = {"mAP": FIGURE, "rank_1": FIGURE}


def test_a_row_has_the_ranking_that_its_table_names_and_the_difference_to_the_first_row() -> None:
    baseline = {"group": "Baseline", "ranking": "cosine", "metrics": METRICS, "differences": {}}
    loss = {name: {"mean": -0.02, "low": -0.04, "high": 0.01} for name in METRICS}
    gmn = {"group": "GMN", "ranking": "mnet", "metrics": METRICS, "differences": loss}
    rankings = [baseline, gmn | {"ranking": "cosine"}, gmn]
    names = [{"name": "Baseline", "scoring": "cosine"}, {"name": "GMN", "scoring": "mnet"}]
    report = {
        "table": {"rows": names},
        "datasets": [{"name": "street", "rankings": rankings}],
        "runs": {"Baseline": ["a"], "GMN": ["b", "c"]},
    }
    assert table("small-gmn", list(condense_benchmark(report))).splitlines() == [
        "| data | row | ranking | seeds | Rank-1 | Δ Rank-1 | mAP | Δ mAP |",
        "|---|---|---|---|---|---|---|---|",
        "| street | Baseline | cosine | 1 | 50.0 [40.0, 60.0] | – | 50.0 [40.0, 60.0] | – |",
        "| street | GMN | mnet | 2 | 50.0 [40.0, 60.0] | −2.0 [−4.0, +1.0] "
        "| 50.0 [40.0, 60.0] | −2.0 [−4.0, +1.0] |",
    ]
