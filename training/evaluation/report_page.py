"""The evaluation's report: one self-contained HTML page, and the JSON beside it."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from string import Template

from training.evaluation import figures
from training.evaluation.files import replacing
from training.evaluation.results import DatasetResult, EvaluationReport, Figure, ScoringResult

TEMPLATE = Path(__file__).parent / "templates" / "report.html"
METRIC_NAMES = {
    "mAP": "mAP (step)",
    "mAP_trapezoid": "mAP (trapezoid)",
    "mINP": "mINP",
    "rank_1": "Rank-1",
    "rank_5": "Rank-5",
    "rank_10": "Rank-10",
}


def write_report(folder: Path, report: EvaluationReport) -> None:
    """Writes `report.json` and `report.html` into a folder, which is made where it is missing.

    Raises:
        InputProblem: where the folder cannot be written.
    """
    for name, content in (
        ("report.json", report.model_dump_json(indent=2) + "\n"),
        ("report.html", report_page(report)),
    ):
        with replacing(folder / name) as beside:
            beside.write_text(content, encoding="utf-8")


def report_page(report: EvaluationReport) -> str:
    """The page as HTML text; it loads nothing from elsewhere and shows no person."""
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    summary = f"{report.created_at}, split {report.split}, {machine}"
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        artefact=escape(report.artefact),
        summary=escape(summary),
        body="\n".join(_dataset(result) for result in report.datasets),
        provenance=_provenance(report),
    )


def _dataset(result: DatasetResult) -> str:
    protocol = result.protocol[:1].upper() + result.protocol[1:]
    parts = [
        f"<h2>{escape(result.name)}</h2>",
        f'<p class="note">{escape(result.spec)}. {escape(result.terms)}</p>',
        f"<p>{escape(protocol)}: {result.queries:,} queries, "
        f"{result.gallery:,} gallery crops, {result.identities:,} identities; "
        f"{result.not_counted:,} queries have no true match under another camera and are not "
        "counted. Intervals are 95% bootstrap over queries.</p>",
    ]
    if result.used_to_calibrate:
        parts.append(
            '<p class="note">The artefact was calibrated on held-out people: false-alarm rates and '
            "calibration errors of these same people are better than those of others.</p>"
        )
    if result.seen_in_training:
        parts.append(
            '<p class="warning">The artefact was trained on this set: some of these people may '
            "have been in its training. <code>--split held-out</code> measures the others.</p>"
        )
    parts.append(_metrics_table(result))
    parts.append(_differences_table(result))
    parts.append(_operating_points_table(result))
    drawings = [figures.cmc_figure(result)]
    if result.scorings:
        drawings.append(figures.detection_figure(result))
    if result.rerank_depths:
        drawings.append(figures.depth_figure(result))
    drawings += [
        figures.distribution_figure(name, scoring, scoring.distribution)
        for name, scoring in result.scorings.items()
        if scoring.distribution
    ]
    inside = "\n".join(f"<figure>{drawing}</figure>" for drawing in drawings)
    parts.append(f'<div class="figures">{inside}</div>')
    times = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in result.seconds.items())
    parts.append(f'<p class="note">Time: {escape(times)}.</p>')
    return "\n".join(parts)


def _metrics_table(result: DatasetResult) -> str:
    rows: list[tuple[str, ScoringResult]] = [
        *result.scorings.items(),
        *((f"{name} (peer, cosine)", peer) for name, peer in result.peers.items()),
    ]
    return _table(
        "Ranking, %",
        ["scoring", *METRIC_NAMES.values(), "calibration error"],
        [
            [
                escape(name),
                *(_percent(scoring.metrics[metric]) for metric in METRIC_NAMES),
                "–"
                if scoring.expected_calibration_error is None
                else f"{100 * scoring.expected_calibration_error:.1f}",
            ]
            for name, scoring in rows
        ],
    )


def _differences_table(result: DatasetResult) -> str:
    if not result.differences:
        return ""
    return _table(
        "Difference to cosine over the same queries, percentage points",
        ["", *METRIC_NAMES.values()],
        [
            [escape(name), *(_percent(values[metric], "+.1f") for metric in METRIC_NAMES)]
            for name, values in result.differences.items()
        ],
    )


def _operating_points_table(result: DatasetResult) -> str:
    rows = [
        [
            f"{escape(name)} {escape(point.name)}",
            f"{100 * point.asked:g}",
            _percent(point.false_alarm_rate),
            _percent(point.detection_rate),
            f"{point.threshold:.4g}",
        ]
        for name, scoring in result.scorings.items()
        for point in scoring.operating_points
    ]
    if not rows:
        return ""
    header = ["operating point", "false alarms asked", "obtained", "people found", "threshold"]
    return _table("Searches, %; intervals over people", header, rows)


def _provenance(report: EvaluationReport) -> str:
    provenance = report.provenance
    data = _table(
        "Training data",
        ["set", "crops", "identities", "cameras", "terms"],
        [
            [
                escape(data.name),
                f"{data.crops:,}",
                f"{data.identities:,}",
                f"{data.cameras:,}",
                escape(data.terms),
            ]
            for data in provenance.data
        ],
    )
    about = {
        "artefact_fingerprint": report.artefact_fingerprint,
        "embedding_fingerprint": report.embedding_fingerprint,
        "architecture": report.architecture,
        "calibrated_on": report.calibration_data,
    } | provenance.model_dump(mode="json", exclude={"data"})
    text = escape(json.dumps(about, indent=2, ensure_ascii=False))
    return f"<p>{escape(provenance.terms)}</p>{data}<pre>{text}</pre>"


def _table(title: str, header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<h3>{title}</h3><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _percent(figure: Figure, form: str = ".1f") -> str:
    mean, low, high = (
        format(100 * value, form) for value in (figure.mean, figure.low, figure.high)
    )
    return f"{mean} <small>{low} … {high}</small>"
