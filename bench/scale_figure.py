"""The curves of `gmn bench scale` on the page of performance.

`python -m bench.scale_figure people.json clusters.json`, of what `gmn bench scale --json` printed,
keeps them in `docs/results/scale.json`, draws `docs/figures/scale.svg`, and writes the table
between the page's markers `<!-- scale -->` and `<!-- /scale -->`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.tables import FIGURES, RESULTS, publish, table
from training.evaluation.drawing import chart, colour_of, dash_of

Size = dict[str, Any]
# Columns of the table, by title: what is in them, and its format.
COLUMNS: dict[str, tuple[Callable[[Size], float | None], str]] = {
    "crops": (lambda one: one["crops"], ",d"),
    "enrolled/s": (lambda one: one["enrolled_per_second"], ",.0f"),
    "disk, B a crop": (lambda one: one["disk_bytes"] / one["crops"], ",.0f"),
    "RssAnon, B a crop": (lambda one: one["anonymous_bytes"] / one["crops"], ",.0f"),
    "start, s": (lambda one: one["start_seconds"], ".2f"),
    "first search, s": (lambda one: one["first_search_seconds"], ".2f"),
    "reading, s": (lambda one: one["read_seconds"], ".2f"),
    "exact, ms": (lambda one: one["flat_ms"]["all"]["p50"], ".1f"),
    "4 of 20 cameras, ms": (lambda one: one["flat_ms"]["4 of 20 cameras"]["p50"], ".1f"),
    "without 1 camera, ms": (lambda one: one["flat_ms"]["without 1 camera"]["p50"], ".1f"),
    "8-bit, ms": (lambda one: one.get("ann_ms", {}).get("p50"), ".1f"),
    "recall@100": (lambda one: one["recall"], ".4f"),
}
PANELS = {
    "query, ms": ("exact, ms", "4 of 20 cameras, ms", "8-bit, ms"),
    "bytes a crop": ("disk, B a crop", "RssAnon, B a crop"),
    "seconds": ("start, s", "reading, s"),
    "enrolled a second": ("enrolled/s",),
}


def markdown(curves: dict[str, list[Size]]) -> str:
    """A row for each size of each data."""
    rows = []
    for data, sizes in curves.items():
        for size in sizes:
            cells = [(of(size), form) for of, form in COLUMNS.values()]
            found = [None if value is None else format(value, form) for value, form in cells]
            rows.append([data, *found])
    return table(("data", *COLUMNS), rows)


def drawing(curves: dict[str, list[Size]]) -> str:
    """The figure: a panel for each measure, a line style for each data."""
    alt = "Latency, bytes, start and enrollment rate over the number of crops"
    with chart("", "", "", alt, size=(9.6, 6.2)) as canvas:
        canvas.figure.clear()
        for axes, title in zip(canvas.figure.subplots(2, 2).flat, PANELS, strict=True):
            for dash, (data, sizes) in enumerate(curves.items()):
                for colour, column in enumerate(PANELS[title]):
                    drawn = {one["crops"]: COLUMNS[column][0](one) for one in sizes}
                    drawn = {crops: value for crops, value in drawn.items() if value is not None}
                    style = {"color": colour_of(colour), "linestyle": dash_of(dash)}
                    label = f"{column.split(',')[0]}, {data}"
                    axes.plot([*drawn], [*drawn.values()], marker="o", label=label, **style)
            axes.set(xscale="log", yscale="log", xlabel="crops", ylabel=title)
            axes.legend()
    # Inside a page the element needs no name space, as a file it does.
    return canvas.drawing.svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)


def main(sources: list[Path]) -> None:
    """Writes table and figure from what the bench printed."""
    printed = [json.loads(source.read_text(encoding="utf-8"))["details"] for source in sources]
    curves = {one["data"]: one["sizes"] for one in printed}
    (FIGURES / "scale.svg").write_text(drawing(curves), encoding="utf-8")
    publish("scale", markdown(curves), curves, RESULTS)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
