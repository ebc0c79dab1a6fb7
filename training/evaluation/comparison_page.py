"""The page of a comparison: several runs in tables, charts and a legend of what the marks mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import stdev

from training.evaluation import charts, report_tables
from training.evaluation.compare import (
    FALLBACK,
    ComparedDataset,
    ComparedRanking,
    Comparison,
    compare,
)
from training.evaluation.papers import papers_table
from training.evaluation.report import ActivationMaps, render, write_texts
from training.evaluation.runs import Group
from training.evaluation.svg import Chart
from training.evaluation.tables import Cell, Table, Value, difference

CHARTS = {"mAP": "mAP", "rank_1": "Rank-1"}
ASKED = 0.01
"""False alarms asked for at the operating point that is compared."""


def write_comparison(
    folder: Path, groups: Sequence[Group], maps: ActivationMaps | None = None
) -> None:
    """Writes `comparison.json` and `report.html` into a folder.

    Args:
        folder: made where it is missing.
        groups: as `group_runs` gives them.
        maps: activation maps to show, too.

    Raises:
        InputProblem: where the folder cannot be written.
    """
    comparison = compare(groups)
    page = comparison_page(comparison, groups, maps)
    numbers = comparison.model_dump_json(indent=2) + "\n"
    write_texts(folder, {"comparison.json": numbers, "report.html": page})


def comparison_page(
    comparison: Comparison, groups: Sequence[Group], maps: ActivationMaps | None = None
) -> str:
    """Return the page as HTML text; it loads nothing from elsewhere."""
    names = [group.name for group in groups]
    models = sum(len(group.models) for group in groups)
    seeds = f", {models} runs" if models > len(groups) else ""
    return render(
        "comparison.html",
        " · ".join(names[:4]) + (" · …" if len(names) > 4 else ""),
        f"{len(groups)} models side by side{seeds}. The first one is what the others differ from.",
        "Every figure comes from the runs named above.",
        parts=[
            {
                "dataset": dataset,
                "legend": _legend(dataset),
                "tables": [ranking_table("Ranking, %", rows), _seeds(rows), _searches(rows)],
                "charts": [_intervals(rows, metric) for metric in CHARTS],
            }
            for dataset in comparison.datasets
            for rows in [dataset.rankings]
        ],
        several=len(groups) > 1,
        settings_table=_settings(comparison, names),
        maps=maps,
        premise_table=_premise(groups),
        beside_papers=papers_table(
            # Each group's first seed, and everything measured on it.
            (
                group.name,
                group.first.report.provenance,
                [result for run in group.models[0] for result in run.report.datasets],
            )
            for group in groups
        ),
        cost_table=_cost(groups),
        origin_tables=[
            report_tables.training_data(
                {group.name: group.first.report.provenance for group in groups}
            ),
            _artefacts(comparison),
        ],
    )


def _settings(comparison: Comparison, groups: Sequence[str]) -> Table:
    return Table(
        "Settings that are not the same",
        ["setting", *groups],
        [[name, *(value or None for value in own)] for name, own in comparison.settings.items()],
        words=True,
    )


def _legend(dataset: ComparedDataset) -> str:
    """How to read the page's colours: they mark what the intervals decide, and nothing else."""
    over_people = all(row.over_people for row in dataset.rankings)
    intervals = f"Intervals are 95% over {'people and seeds' if over_people else 'queries'}."
    alarms = "False alarms are red where their whole interval lies above what was asked."
    if not any(row.differences for row in dataset.rankings):
        return f"{intervals} {alarms}"
    return (
        f"{intervals} {control(dataset.baseline, dataset.rankings)}, percentage points. Green is "
        "better and red worse, where one of the two has several seeds and the interval, over "
        "people and seeds, leaves out 0; no colour means that nothing is decided. Between two "
        "single runs the interval is over people only, and another seed may change it, so that "
        f"it has no colour. {alarms}"
    )


def ranking_table(
    title: str,
    rows: Sequence[ComparedRanking],
    note: str = "",
    papers: Mapping[str, str] | None = None,
) -> Table:
    """Rankings with their differences to the baseline, and a paper's figures by their group."""
    return Table(
        title,
        ["model", "ranking", "mAP", "Δ mAP", "Rank-1", "Δ Rank-1", "mINP", "paper"],
        [
            [
                Cell(row.group, "peer" if row.peer else ""),
                row.ranking,
                *(row.metrics["mAP"], _delta(row, "mAP")),
                *(row.metrics["rank_1"], _delta(row, "rank_1")),
                row.metrics.get("mINP"),
                (papers or {}).get(row.group),
            ]
            for row in rows
        ],
        note,
        labels=2,
    )


def _delta(row: ComparedRanking, metric: str) -> Value:
    """Return a ranking's difference to the baseline, marked where several seeds decide it."""
    if metric not in row.differences:
        return None
    cell = difference(row.differences[metric])
    return cell if row.over_seeds else cell._replace(mark="")


def control(baseline: str, rows: Sequence[ComparedRanking]) -> str:
    """Return what the differences of some rankings are to."""
    own = sorted({row.ranking for row in rows if row.against not in ("", row.ranking)})
    others = f" ({', '.join(own)} less its {FALLBACK})" if own else ""
    return f"Δ: less {baseline}{others}, the same queries"


def _seeds(rows: Sequence[ComparedRanking]) -> Table:
    return Table(
        "Seeds, %",
        ["model", "ranking", "runs", "mAP of each", "spread", "Rank-1 of each", "spread"],
        [
            [
                *(row.group, row.ranking, len(row.seeds["mAP"])),
                *(
                    shown
                    for values in (row.seeds["mAP"], row.seeds["rank_1"])
                    for shown in (
                        " · ".join(f"{100 * value:.1f}" for value in values),
                        f"± {100 * stdev(values):.1f}",
                    )
                ),
            ]
            for row in rows
            if row.seeds
        ],
        "spread: one standard deviation over seeds",
        labels=2,
    )


def _searches(rows: Sequence[ComparedRanking]) -> Table:
    return Table(
        "Searches where one false alarm in a hundred was asked, %",
        ["model", "ranking", "obtained", "people found"],
        [
            [
                row.group,
                row.ranking,
                report_tables.obtained(row.false_alarm_rate, ASKED),
                row.detection_rate,
            ]
            for row in rows
            if row.false_alarm_rate is not None
        ],
        "intervals over people",
        labels=2,
    )


def _intervals(rows: Sequence[ComparedRanking], metric: str) -> Chart:
    return charts.intervals(
        CHARTS[metric],
        [
            (row.group, "peer" if row.peer else row.ranking, own, row.seeds.get(metric, ()))
            for row in rows
            for own in [row.metrics[metric]]
        ],
    )


def _premise(groups: Sequence[Group]) -> Table:
    return Table(
        "Domain gap",
        [
            *("model", "domains", "classifier, instances, %", "classifier, pairs, %"),
            *("difference", "MMD², instances", "MMD², pairs"),
        ],
        [
            [
                group.name,
                " – ".join(gap.domains),
                gap.instance.classifier,
                gap.pair.classifier,
                difference(gap.classifier_difference, -1),
                *(
                    Cell(f"{space.mmd:.4f}", f"chance {space.mmd_by_chance:.4f}")
                    for space in (gap.instance, gap.pair)
                ),
            ]
            for group in groups
            for model in group.models
            for run in model
            if run.report.premise is not None
            for gap in run.report.premise.gaps
        ],
        "50% is chance; a difference below 0 means yes",
        labels=2,
    )


def _cost(groups: Sequence[Group]) -> Table:
    found = {}
    for group in groups:
        runs = [run for model in group.models for run in model]
        costs = [run.report.cost for run in runs if run.report.cost]
        if costs:
            found[group.name] = costs[-1]
    return report_tables.networks(found)


def _artefacts(comparison: Comparison) -> Table:
    return Table(
        "Artefacts",
        ["run", "seed", "made", "folders", "artefact", "commit"],
        [
            [
                run.name,
                None if run.seed is None else str(run.seed),
                run.created_at[:16].replace("T", " "),
                ", ".join(run.folders),
                run.artefact_fingerprint[:12],
                run.commit and run.commit[:10],
            ]
            for run in comparison.runs
        ],
        words=True,
    )
