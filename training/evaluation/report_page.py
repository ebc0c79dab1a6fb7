"""The report of one evaluation: one self-contained HTML page, and the JSON beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from training.evaluation import figures
from training.evaluation.files import replacing
from training.evaluation.markup import (
    NOTHING,
    charts,
    difference,
    page,
    paragraph,
    percent,
    section,
    table,
    tiles,
)
from training.evaluation.papers_section import papers_section
from training.evaluation.pictures import SearchPictures
from training.evaluation.query_values import FILE_NAME as QUERY_VALUES
from training.evaluation.query_values import write_query_values
from training.evaluation.report_sections import (
    artefact_section,
    cost_section,
    premise_section,
    rank_lists_part,
    training_section,
)
from training.evaluation.results import DatasetResult, EvaluationReport, ScoringResult
from training.evaluation.training_log import FILE_NAME as TRAINING_LOG
from training.evaluation.training_log import TrainingLog, read_training_log

METRIC_NAMES = {
    "mAP": "mAP (step)",
    "mAP_trapezoid": "mAP (trapezoid)",
    "mINP": "mINP",
    "rank_1": "Rank-1",
    "rank_5": "Rank-5",
    "rank_10": "Rank-10",
}


def write_report(
    folder: Path, report: EvaluationReport, pictures: Sequence[SearchPictures] = ()
) -> None:
    """Writes `report.json`, `queries.npz` and `report.html` into a folder.

    Args:
        folder: made where it is missing; a training log that lies in it is drawn too.
        report: what to write.
        pictures: of each data set's rank lists; without them the page shows no person.

    Raises:
        InputProblem: where the folder cannot be written.
    """
    log = read_training_log(folder / TRAINING_LOG)
    values = [result.query_values for result in report.datasets]
    if any(own is not None for own in values):
        write_query_values(folder / QUERY_VALUES, values)
    for name, content in (
        ("report.json", report.model_dump_json(indent=2) + "\n"),
        ("report.html", report_page(report, pictures, log)),
    ):
        with replacing(folder / name) as beside:
            beside.write_text(content, encoding="utf-8")


def report_page(
    report: EvaluationReport,
    pictures: Sequence[SearchPictures] = (),
    log: TrainingLog | None = None,
    more: Sequence[str] = (),
) -> str:
    """The page as HTML text; it loads nothing from elsewhere.

    Args:
        report: what to show.
        pictures: of each data set's rank lists, in order; without them no person is shown.
        log: of the training, where it is known.
        more: further sections, as HTML.
    """
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    body = [
        dataset_section(result, pictures[number] if number < len(pictures) else SearchPictures())
        for number, result in enumerate(report.datasets)
    ]
    body += [
        premise_section(report.premise),
        *more,
        papers_section([(report.artefact, report.provenance.recipe, report.datasets)]),
        cost_section(report.cost),
        training_section(log, report.checkpoint),
        artefact_section(report),
    ]
    return page(
        f"Evaluation of {'/'.join(Path(report.artefact).parts[-2:])}",
        f"{report.created_at}, split {report.split}, {machine}",
        body,
        head=tiles(_headline(report)),
        footer="Every figure comes from the run that this page reports.",
    )


def dataset_section(result: DatasetResult, pictures: SearchPictures) -> str:
    """Everything measured on one data set."""
    protocol = result.protocol[:1].upper() + result.protocol[1:]
    version = f" ({escape(result.version)})" if result.version else ""
    parts = [
        paragraph(f"{escape(result.spec)}{version}. {escape(result.terms)}", "note"),
        paragraph(
            f"{escape(protocol)}: {result.queries:,} queries, {result.gallery:,} gallery crops, "
            f"{result.identities:,} identities; {result.not_counted:,} queries have no true match "
            "under another camera and are not counted. Intervals are 95% bootstrap over queries "
            "unless stated otherwise."
        ),
        *_warnings(result),
        _metrics_table("Ranking, %", {**result.scorings, **_peers(result)}),
        _differences_table(result),
        _operating_points_table(result),
        _half_enrolled_table(result),
        _verification_table(result),
        _multi_shot_table(result),
        charts(
            [
                figures.cmc_figure(result),
                *([figures.detection_figure(result)] if result.scorings else []),
                *([figures.depth_figure(result)] if result.rerank_depths else []),
                *(
                    figures.distribution_figure(name, scoring, scoring.distribution)
                    for name, scoring in result.scorings.items()
                    if scoring.distribution
                ),
            ]
        ),
        rank_lists_part(result.rank_lists, pictures),
    ]
    times = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in result.seconds.items())
    if times:
        parts.append(paragraph(f"Time: {escape(times)}.", "note"))
    return section(result.name, parts)


def _headline(report: EvaluationReport) -> list[tuple[str, str]]:
    """Each data set's main figures by its last scoring, which is the richest that was asked."""
    found = []
    for result in report.datasets[:3]:
        if not result.scorings:
            continue
        name, scoring = list(result.scorings.items())[-1]
        found += [
            (f"{100 * scoring.metrics['mAP'].mean:.1f}%", f"mAP, {name}, {result.name}"),
            (f"{100 * scoring.metrics['rank_1'].mean:.1f}%", f"Rank-1, {name}, {result.name}"),
        ]
    return found


def _warnings(result: DatasetResult) -> list[str]:
    found = []
    if result.used_to_calibrate:
        found.append(
            paragraph(
                "The artefact was calibrated on these people: their false-alarm rates and "
                "calibration errors are better than those of others.",
                "note",
            )
        )
    if result.seen_in_training:
        found.append(
            paragraph(
                f"{escape(result.seen_sentence)} <code>--split held-out</code> measures people "
                "that its training held out.",
                "warning",
            )
        )
    notes = {
        scoring.note: name
        for name, scoring in {**result.scorings, **result.peers}.items()
        if scoring.note
    }
    found += [paragraph(f"{escape(name)}: {escape(note)}", "note") for note, name in notes.items()]
    return found


def _peers(result: DatasetResult) -> dict[str, ScoringResult]:
    return {f"{name} (peer, cosine)": peer for name, peer in result.peers.items()}


def _metrics_table(caption: str, rows: dict[str, ScoringResult], note: str = "") -> str:
    wider = any(scoring.over_identities for scoring in rows.values())
    header = ["ranking", *METRIC_NAMES.values()]
    header += ["mAP over people"] if wider else []
    return table(
        caption,
        [*header, "calibration error"],
        [
            [
                escape(name),
                *(percent(scoring.metrics[metric]) for metric in METRIC_NAMES),
                *([_over_people(scoring)] if wider else []),
                NOTHING
                if scoring.expected_calibration_error is None
                else f"{100 * scoring.expected_calibration_error:.1f}",
            ]
            for name, scoring in rows.items()
        ],
        note,
    )


def _over_people(scoring: ScoringResult) -> str:
    """mAP's interval over identities alone; its mean stands beside it already."""
    figure = scoring.over_identities.get("mAP")
    return f"<small>{100 * figure.low:.1f} … {100 * figure.high:.1f}</small>" if figure else NOTHING


def _differences_table(result: DatasetResult) -> str:
    return table(
        "Differences over the same queries, percentage points",
        ["", *METRIC_NAMES.values()],
        [
            [escape(name), *(difference(values[metric]) for metric in METRIC_NAMES)]
            for name, values in result.differences.items()
        ],
        "intervals over people; coloured where they leave out 0",
    )


def _operating_points_table(result: DatasetResult) -> str:
    return table(
        "Searches, %",
        ["operating point", "false alarms asked", "obtained", "people found", "threshold"],
        [
            [
                f"{escape(name)} {escape(point.name)}",
                f"{100 * point.asked:g}",
                percent(point.false_alarm_rate, ".2f"),
                percent(point.detection_rate),
                f"{point.threshold:.4g}",
            ]
            for name, scoring in result.scorings.items()
            for point in scoring.operating_points
        ],
        "intervals over people",
    )


def _half_enrolled_table(result: DatasetResult) -> str:
    named = {**result.scorings, **_peers(result)}
    return table(
        "Searches with half of the people enrolled, %",
        ["ranking", "people enrolled", "people found"],
        [
            [
                escape(name),
                f"{own.half_enrolled.enrolled:,}",
                percent(own.half_enrolled.detection_rate),
            ]
            for name, own in named.items()
            if own.half_enrolled
        ],
        "at the best threshold for 1 false alarm in 100 searches; intervals over people",
    )


def _verification_table(result: DatasetResult) -> str:
    return table(
        "Comparing two crops, %: TAR@FAR",
        ["ranking", "false accepts asked", "obtained", "true accepts", "threshold"],
        [
            [
                escape(name),
                f"{100 * point.asked:g}",
                f"{100 * point.false_accept_rate:.2g}",
                percent(point.true_accept_rate),
                f"{point.threshold:.4g}",
            ]
            for name, scoring in result.scorings.items()
            for point in scoring.verification
        ],
        "intervals over people",
    )


def _multi_shot_table(result: DatasetResult) -> str:
    if result.multi_shot is None:
        return ""
    shot = result.multi_shot
    return _metrics_table(
        f"Several crops a query ({shot.how}), %",
        shot.scorings,
        f"{shot.queries:,} queries of {shot.crops_per_query:.1f} crops on average",
    )
