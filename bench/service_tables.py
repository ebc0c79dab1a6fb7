"""Tables of the service's figures: serving benches, growing galleries, and client commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from training.evaluation.svg import chart, colour_of, dash_of
from training.evaluation.tables import Table

Size = dict[str, Any]
# Each title of a column has a function that reads the column's value, and a format.
COLUMNS: dict[str, tuple[Callable[[Size], float | None], str]] = {
    "crops": (lambda size: size["crops"], ",d"),
    "enrolled/s": (lambda size: size["enrolled_per_second"], ",.0f"),
    "disk, B a crop": (lambda size: size["disk_bytes"] / size["crops"], ",.0f"),
    "RssAnon, B a crop": (lambda size: size["anonymous_bytes"] / size["crops"], ",.0f"),
    "start, s": (lambda size: size["start_seconds"], ".2f"),
    "first search, s": (lambda size: size["first_search_seconds"], ".2f"),
    "reading, s": (lambda size: size["read_seconds"], ".2f"),
    "exact, ms": (lambda size: size["flat_ms"]["all"]["p50"], ".1f"),
    "4 of 20 cameras, ms": (lambda size: size["flat_ms"]["4 of 20 cameras"]["p50"], ".1f"),
    "without 1 camera, ms": (lambda size: size["flat_ms"]["without 1 camera"]["p50"], ".1f"),
    "codes, ms": (lambda size: size.get("ann_ms", {}).get("p50"), ".1f"),
    "recall@100": (lambda size: size["recall"], ".4f"),
}
PANELS = {
    "query, ms": ("exact, ms", "4 of 20 cameras, ms", "codes, ms"),
    "bytes a crop": ("disk, B a crop", "RssAnon, B a crop"),
    "seconds": ("start, s", "reading, s"),
    "enrolled a second": ("enrolled/s",),
}


def curves_table(curves: dict[str, list[Size]]) -> str:
    """Format each size of each kind of data of `gmn bench scale` as a row."""
    rows = []
    for data, sizes in curves.items():
        for size in sizes:
            values = [(read(size), style) for read, style in COLUMNS.values()]
            cells = [None if value is None else format(value, style) for value, style in values]
            rows.append([data, *cells])
    return Table("", ("data", *COLUMNS), rows).markdown()


def drawing(curves: dict[str, list[Size]]) -> str:
    """Draw the curves as an SVG element: a panel for each measure, a line style for each data."""
    alt = "Latency, bytes, start and enrollment rate over the number of crops"
    with chart("", "", "", alt, size=(9.6, 6.2)) as canvas:
        canvas.figure.clear()
        for axes, title in zip(canvas.figure.subplots(2, 2).flat, PANELS, strict=True):
            for dash, (data, sizes) in enumerate(curves.items()):
                for colour, column in enumerate(PANELS[title]):
                    read, _ = COLUMNS[column]
                    measured = [size for size in sizes if read(size) is not None]
                    axes.plot(
                        [size["crops"] for size in measured],
                        [read(size) for size in measured],
                        marker="o",
                        label=f"{column.split(',')[0]}, {data}",
                        color=colour_of(colour),
                        linestyle=dash_of(dash),
                    )
            axes.set(xscale="log", yscale="log", xlabel="crops", ylabel=title)
            axes.legend()
    return canvas.svg


def condense_bench(printed: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a serving bench: `bundled` and `small`, or the artefact that was named."""
    details = dict(printed["details"])
    small = details.pop("small", None)
    first = details | {name: printed[name] for name in ("ratio", "spread", "reach")}
    return [{"bench": printed["bench"]} | row for row in (first, small) if row]


def bench_table(rows: list[dict[str, Any]]) -> str:
    phases = ("decode", "queue", "embed", "search", "rerank", "wall")
    figures = {
        "served/s": "served_images_per_second",
        "bare/s": "bare_crops_per_second",
        "service's CPU ms": "service_cpu_ms_per_image",
        "bare CPU ms": "bare_cpu_ms_per_crop",
        "p50 ms": "p50_ms",
        "p99 ms": "p99_ms",
    }
    lines: list[list[str | None]] = []
    for row in rows:
        low, high = row["spread"]
        service_ms = row.get("service_ms")
        share = row.get("stages_share_of_wall")
        lines.append(
            [
                row["bench"],
                row["artefact"],
                f"{row['ratio']:.2f}, {low:.2f}–{high:.2f}",
                None if row["reach"] is None else f"{row['reach']:.2f}",
                *(f"{row[name]:.1f}" for name in figures.values()),
                f"{row['p99_ms'] / row['p50_ms']:.1f}",
                f"{100 * row['client_share_of_processor']:.1f}%",
                *(f"{service_ms[name]:.1f}" if service_ms else None for name in phases),
                None if share is None else f"{share:.2f}",
            ]
        )
    titles = ("bench", "artefact", "ratio, of rounds", "aim", *figures, "p99 / p50")
    stages = (*(f"{name} ms" for name in phases), "stages of wall")
    return Table("", (*titles, "client's share", *stages), lines).markdown()


def steps_table(rows: list[dict[str, Any]]) -> str:
    """Format the answers of `gmn enroll` and `gmn query --data`, a row for each."""
    titles = ("step", "crops", "per second", "ms per query", "Rank-1", "mAP")
    lines: list[list[str | None]] = []
    for row in rows:
        if "queries" not in row:
            figures = [f"{row['enrolled']:,}", f"{row['crops_per_second']:.0f}", *[None] * 4]
        else:
            figures = [
                f"{row['queries']:,}",
                f"{row['queries_per_second']:.0f}",
                f"{row['ms_per_query']:.1f}, {row['in_flight']} in flight",
                f"{100 * row['rank_1']:.1f}",
                # The mAP of a ranking that was cut is only a lower bound.
                f"{100 * row['mAP']:.1f}" if row["whole_rankings"] else None,
                f"{row['verdicts']['match']:,}, {row['matches_right']:,}",
            ]
        lines.append([row["step"], *figures])
    return Table("", (*titles, "answered match, right"), lines).markdown()
