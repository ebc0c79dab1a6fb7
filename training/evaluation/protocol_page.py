"""The page and the JSON of a protocol, beside a folder with the report of each of its sets."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from training.evaluation.files import make_folder, replacing
from training.evaluation.markup import NOTHING, difference, page, paragraph, percent, section, table
from training.evaluation.pictures import SearchPictures
from training.evaluation.protocol_report import ProtocolReport
from training.evaluation.report_page import METRIC_NAMES, write_report

AVERAGE = "average"


def write_protocol_report(
    folder: Path, report: ProtocolReport, pictures: Sequence[SearchPictures] = ()
) -> None:
    """Writes `protocol.html`, `protocol.json`, and each set's report into a folder of its name.

    Args:
        folder: made where it is missing.
        report: what to write.
        pictures: of every set's rank lists; without them no page shows a person.

    Raises:
        InputProblem: where the folder cannot be written.
    """
    for number, own in enumerate(report.reports):
        place = folder / own.datasets[0].name
        make_folder(place)
        write_report(place, own, pictures[number : number + 1])
    for name, content in (
        ("protocol.json", report.model_dump_json(indent=2) + "\n"),
        ("protocol.html", protocol_page(report)),
    ):
        with replacing(folder / name) as beside:
            beside.write_text(content, encoding="utf-8")


def protocol_page(report: ProtocolReport) -> str:
    """The page as HTML text; every set's name leads to its own report."""
    remarks = [paragraph(escape(remark), "warning") for remark in report.remarks]
    return page(
        f"Protocol {report.protocol}",
        f"{report.title}; {report.created_at}",
        [
            section("Every domain unseen", [*remarks, *_tables(report)]),
            section("Beside the papers", [_published_table(report)]) if report.published else "",
        ],
        footer="An average weighs every set the same; its interval resamples people within each.",
    )


def _tables(report: ProtocolReport) -> list[str]:
    """A table per ranking, sets as rows; then the differences on average."""
    names = [name for name in report.averages if name in report.reports[0].datasets[0].scorings]
    tables = []
    for name in names:
        rows = [
            [
                f'<a href="{escape(result.name)}/report.html">{escape(result.name)}</a>',
                escape(own.artefact),
                *(percent(result.scorings[name].metrics[metric]) for metric in METRIC_NAMES),
            ]
            for own in report.reports
            for result in own.datasets
        ]
        rows.append(
            [AVERAGE, "", *(percent(report.averages[name][metric]) for metric in METRIC_NAMES)]
        )
        header = ["tested on", "artefact", *METRIC_NAMES.values()]
        tables.append(table(f"{name}, %", header, rows))
    differences = [
        [escape(name), *(difference(figures[metric]) for metric in METRIC_NAMES)]
        for name, figures in report.differences.items()
    ]
    header = ["", *METRIC_NAMES.values()]
    caption = "Average difference over the same queries, percentage points"
    return [*tables, table(caption, header, differences)]


def _published_table(report: ProtocolReport) -> str:
    sets = [own.datasets[0].name for own in report.reports]
    sets += sorted({name for row in report.published for name in row.results} - {*sets, AVERAGE})
    columns = [*sets, AVERAGE]
    rows = []
    for row in report.published:
        cells = [
            f"{found.mAP:.1f} / {found.rank_1:.1f}" if found else NOTHING
            for found in (row.results.get(name) for name in columns)
        ]
        rows.append([escape(row.row), *cells, escape(row.source)])
    for name, average in report.averages.items():
        own = {
            result.name: result.scorings[name].metrics
            for one in report.reports
            for result in one.datasets
            if name in result.scorings
        }
        found = {**own, AVERAGE: average}
        cells = [
            f"{100 * found[column]['mAP'].mean:.1f} / {100 * found[column]['rank_1'].mean:.1f}"
            if column in found
            else NOTHING
            for column in columns
        ]
        rows.append([f"<b>{escape(name)}, this run</b>", *cells, ""])
    return table("mAP / Rank-1, %", ["", *map(escape, columns), "source"], rows)
