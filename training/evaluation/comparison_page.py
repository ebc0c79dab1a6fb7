"""Several runs on one self-contained page, and the numbers in the JSON beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import stdev

from training.evaluation import figures
from training.evaluation.comparing import compare
from training.evaluation.comparison import ComparedDataset, ComparedRanking, Comparison
from training.evaluation.drawing import Drawing
from training.evaluation.files import replacing
from training.evaluation.grouping import Group
from training.evaluation.intervals import Estimate
from training.evaluation.markup import (
    NOTHING,
    charts,
    count,
    difference,
    page,
    paragraph,
    percent,
    section,
    table,
)
from training.evaluation.papers_section import Measured, papers_section
from training.evaluation.training_log import TrainingLog

COLUMNS = {"mAP": "mAP", "rank_1": "Rank-1", "mINP": "mINP"}
COMPARED = {"mAP": "Δ mAP", "rank_1": "Δ Rank-1"}


def write_comparison(folder: Path, groups: Sequence[Group], more: Sequence[str] = ()) -> None:
    """Writes `comparison.json` and `report.html` into a folder.

    Args:
        folder: made where it is missing.
        groups: as `group_runs` gives them.
        more: further sections, as HTML.

    Raises:
        InputProblem: where the folder cannot be written.
    """
    comparison = compare(groups)
    for name, content in (
        ("comparison.json", comparison.model_dump_json(indent=2) + "\n"),
        ("report.html", comparison_page(comparison, groups, more)),
    ):
        with replacing(folder / name) as beside:
            beside.write_text(content, encoding="utf-8")


def comparison_page(
    comparison: Comparison, groups: Sequence[Group], more: Sequence[str] = ()
) -> str:
    """The page as HTML text; it loads nothing from elsewhere."""
    models = sum(len(group.models) for group in groups)
    seeds = f", {models} runs" if models > len(groups) else ""
    return page(
        " · ".join(group.name for group in groups[:4]) + (" · …" if len(groups) > 4 else ""),
        f"{len(groups)} models side by side{seeds}. The first one is what the others differ from.",
        [
            *(_dataset(dataset) for dataset in comparison.datasets),
            _settings(comparison, groups),
            *more,
            _premise(groups),
            papers_section(_measured(groups)),
            _cost(groups),
            _curves(groups),
            _origins(comparison, groups),
        ],
        footer="Every figure comes from the runs named above.",
    )


def _dataset(dataset: ComparedDataset) -> str:
    rows = dataset.rankings
    parts = [
        paragraph(
            f"{escape(dataset.protocol[:1].upper() + dataset.protocol[1:])}, split "
            f"{escape(dataset.split)}: {dataset.queries:,} queries, {dataset.gallery:,} gallery "
            f"crops, {dataset.identities:,} identities."
        ),
        _ranking_table(dataset),
        _seeds_table(rows),
        _operating_points(rows),
        charts([_intervals(rows, metric, title) for metric, title in list(COLUMNS.items())[:2]]),
    ]
    return section(dataset.name, parts)


def _ranking_table(dataset: ComparedDataset) -> str:
    rows = dataset.rankings
    paired = any(row.differences for row in rows)
    best = {
        metric: max(row.metrics[metric].mean for row in rows if metric in row.metrics)
        for metric in COLUMNS
        if any(metric in row.metrics for row in rows)
    }
    header = ["model", "ranking", *COLUMNS.values(), *(COMPARED.values() if paired else ())]
    note = "95% intervals over people and seeds" if all(row.over_people for row in rows) else ""
    caption = (
        f"{note}; Δ: less {dataset.baseline}, percentage points, the same queries; coloured where "
        "one of the two has several seeds and the interval, over people and seeds, leaves out 0; "
        "between two single runs it is over people only, and another seed may change it"
        if paired
        else note or "95% intervals over queries"
    )
    return table(
        "Ranking, %",
        header,
        [
            [
                escape(row.group) + (" <small>peer</small>" if row.peer else ""),
                escape(row.ranking),
                *(_metric(row, metric, best) for metric in COLUMNS),
                *([_delta(row, metric) for metric in COMPARED] if paired else []),
            ]
            for row in rows
        ],
        caption.strip("; "),
        kind="named",
    )


def _metric(row: ComparedRanking, metric: str, best: dict[str, float]) -> str:
    if metric not in row.metrics:
        return NOTHING
    text = percent(row.metrics[metric])
    return f'<span class="best">{text}</span>' if row.metrics[metric].mean >= best[metric] else text


def _delta(row: ComparedRanking, metric: str) -> str:
    if metric not in row.differences:
        return NOTHING
    other = f" <small>to {escape(row.against)}</small>" if row.against != row.ranking else ""
    figure = row.differences[metric]
    text = difference(figure) if row.over_seeds else percent(figure, "+.1f").replace("-", "−")
    return text + other


def _seeds_table(rows: Sequence[ComparedRanking]) -> str:
    return table(
        "Seeds, %",
        ["model", "ranking", "runs", "mAP of each", "spread", "Rank-1 of each", "spread"],
        [
            [
                escape(row.group),
                escape(row.ranking),
                str(len(row.seeds["mAP"])),
                *(
                    cell
                    for metric in ("mAP", "rank_1")
                    for cell in (
                        " · ".join(f"{100 * value:.1f}" for value in row.seeds[metric]),
                        f"± {100 * stdev(row.seeds[metric]):.1f}",
                    )
                ),
            ]
            for row in rows
            if row.seeds
        ],
        "spread: one standard deviation over seeds",
        kind="named",
    )


def _operating_points(rows: Sequence[ComparedRanking]) -> str:
    return table(
        "Searches where one false alarm in a hundred was asked, %",
        ["model", "ranking", "obtained", "people found"],
        [
            [
                escape(row.group),
                escape(row.ranking),
                percent(row.false_alarm_rate, ".2f"),
                percent(row.detection_rate),
            ]
            for row in rows
            if row.false_alarm_rate is not None and row.detection_rate is not None
        ],
        "intervals over people",
        kind="named",
    )


def _intervals(rows: Sequence[ComparedRanking], metric: str, title: str) -> Drawing:
    shown: list[tuple[str, str, Estimate, Sequence[float]]] = [
        (row.group, "peer" if row.peer else row.ranking, row.metrics[metric], row.seeds[metric])
        if row.seeds
        else (row.group, "peer" if row.peer else row.ranking, row.metrics[metric], ())
        for row in rows
        if metric in row.metrics
    ]
    return figures.interval_figure(title, shown)


def _settings(comparison: Comparison, groups: Sequence[Group]) -> str:
    if len(groups) < 2:
        return ""
    found = table(
        "Settings that are not the same",
        ["setting", *(escape(group.name) for group in groups)],
        [
            [f"<code>{escape(name)}</code>", *(escape(value) or NOTHING for value in values)]
            for name, values in comparison.settings.items()
        ],
        kind="words",
    )
    return section("What differs", [found or paragraph("No setting differs.")])


def _measured(groups: Sequence[Group]) -> list[Measured]:
    """Each group's first seed and everything measured on it."""
    return [
        (
            group.name,
            group.models[0].recipe,
            [result for run in group.models[0].folders for result in run.report.datasets],
        )
        for group in groups
    ]


def _premise(groups: Sequence[Group]) -> str:
    rows = []
    for group in groups:
        premises = [run.report.premise for model in group.models for run in model.folders]
        rows += [
            [
                escape(group.name),
                escape(" – ".join(gap.domains)),
                percent(gap.instance.classifier),
                percent(gap.pair.classifier),
                difference(gap.classifier_difference, -1),
                f"{gap.instance.mmd:.4f} <small>chance {gap.instance.mmd_by_chance:.4f}</small>",
                f"{gap.pair.mmd:.4f} <small>chance {gap.pair.mmd_by_chance:.4f}</small>",
            ]
            for premise in premises
            if premise is not None
            for gap in premise.gaps
        ]
    if not rows:
        return ""
    header = [
        "model",
        "domains",
        "classifier, instances, %",
        "classifier, pairs, %",
        "difference",
        "MMD², instances",
        "MMD², pairs",
    ]
    return section(
        "The premise: is the domain gap smaller in pair space?",
        [table("Domain gap", header, rows, "50% is chance; a difference below 0 means yes")],
    )


def _cost(groups: Sequence[Group]) -> str:
    rows = []
    for group in groups:
        runs = [run for model in group.models for run in model.folders]
        cost = next((run.report.cost for run in reversed(runs) if run.report.cost), None)
        speeds = [run.log.crops_per_second for run in runs if run.log.crops_per_second]
        if cost is None and not speeds:
            continue
        rows.append(
            [
                escape(group.name),
                count(cost.embedder_parameters) if cost else NOTHING,
                count(cost.embedder_multiply_adds) if cost else NOTHING,
                count(cost.metric_network_parameters) if cost else NOTHING,
                f"{speeds[-1]:,.0f}" if speeds else NOTHING,
                f"{cost.crops_per_second:,.0f}" if cost and cost.crops_per_second else NOTHING,
            ]
        )
    header = [
        "model",
        "embedder, parameters",
        "multiply-adds a crop",
        "M-Net, parameters",
        "training, crops/s",
        "embedding, crops/s",
    ]
    found = table("Networks and speed", header, rows, "speeds as measured in each run")
    return section("Cost", [found]) if rows else ""


def _curves(groups: Sequence[Group]) -> str:
    logs: dict[str, TrainingLog] = {}
    for group in groups:
        for model in group.models:
            found = [run.log for run in model.folders if run.log.losses]
            if found:
                logs[model.name] = found[0]
    drawings = []
    for kind, what in (("losses", "loss"), ("gradient_norms", "gradient norm")):
        terms = dict.fromkeys(term for log in logs.values() for term in getattr(log, kind))
        for term in terms:
            series = {
                name: getattr(log, kind)[term]
                for name, log in logs.items()
                if term in getattr(log, kind)
            }
            title = f"{term}: {what}"
            drawings.append(figures.curve_figure(title, what, series, f"{title} over the epochs"))
    if not drawings:
        return ""
    return section(
        "Training",
        [
            paragraph("Norms are of each term's gradient at the embedding.", "note"),
            charts(drawings),
        ],
    )


def _origins(comparison: Comparison, groups: Sequence[Group]) -> str:
    data = [
        [
            escape(group.name),
            escape(one.name),
            f"{one.crops:,}",
            f"{one.identities:,}",
            f"{one.cameras:,}",
            escape(one.terms),
        ]
        for group in groups
        for one in group.models[0].folders[0].report.provenance.data
    ]
    return section(
        "Runs and their data",
        [
            table(
                "Training data",
                ["model", "set", "crops", "identities", "cameras", "terms"],
                data,
                kind="words",
            ),
            table(
                "Artefacts",
                ["run", "seed", "made", "folders", "artefact", "commit"],
                [
                    [
                        escape(run.name),
                        NOTHING if run.seed is None else str(run.seed),
                        escape(run.created_at[:16].replace("T", " ")),
                        escape(", ".join(run.folders)),
                        f"<code>{escape(run.artefact_fingerprint[:12])}</code>",
                        f"<code>{escape((run.commit or NOTHING)[:10])}</code>",
                    ]
                    for run in comparison.runs
                ],
                kind="words",
            ),
        ],
    )
