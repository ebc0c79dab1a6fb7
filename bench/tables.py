"""Formats tables, and writes them into pages between markers `<!-- NAME -->`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.problems import InputProblem

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
Row = Mapping[str, Any]


def markdown_table(rows: Iterable[Row]) -> str:
    """Format a line for each row and a column for each title, with a dash for a missing value."""
    rows = list(rows)
    titles = list(dict.fromkeys(title for row in rows for title in row))
    lines = [titles, *([_text(row.get(title)) for title in titles] for row in rows)]
    written = [f"| {' | '.join(line)} |" for line in lines]
    written.insert(1, "|" + "---|" * len(titles))
    return "\n".join(written)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else str(value)


def fill(
    templates: Mapping[str, str],
    figures: Row,
) -> dict[str, Any]:
    """Fill templates such as `{p50_ms:.1f}`, with None where a figure is missing or None."""
    row: dict[str, Any] = {}
    for title, template in templates.items():
        try:
            row[title] = template.format_map(figures)
        except (KeyError, TypeError):
            row[title] = None
    return row


def pivot(
    figures: Iterable[Row],
    names: Mapping[str, str],
    title: str,
    cell: str,
) -> str:
    """Format a table with a line for each name, and the figures of one name side by side.

    Args:
        figures: figures of each cell.
        names: titles and templates of the columns that name a line.
        title, cell: templates of the title of a cell's column and of its text.
    """
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for cells in figures:
        name = fill(names, cells)
        line = lines.setdefault(tuple(name.values()), name)
        line |= fill({title.format_map(cells): cell}, cells)
    return markdown_table(lines.values())


def percent(interval: Sequence[float], sign: str = "") -> str:
    """Format mean and ends of an interval of shares in per cent, with signs if `sign` is "+"."""
    mean, low, high = (f"{100 * share:{sign}.1f}" for share in interval)
    return f"{mean} [{low}, {high}]"


def page_of(name: str) -> Path:
    """Return the page with the markers of a table: the README or a document.

    Raises:
        InputProblem: no page has the markers.
    """
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if f"<!-- {name} -->" in page.read_text(encoding="utf-8"):
            return page
    raise InputProblem(f"no page has markers <!-- {name} --> and <!-- /{name} -->")


def replace_table(
    text: str,
    name: str,
    markdown: str,
) -> str:
    """Replace the table between two markers in the text of a page."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{markdown}\n{match[2]}", text)


def publish(
    name: str,
    markdown: str,
    kept: Any = None,
) -> None:
    """Write a table into the page that has its markers, and its figures to a file.

    Args:
        kept: figures for `docs/figures/NAME.json`; None writes no file.

    Raises:
        InputProblem: no page has the markers.
    """
    page = page_of(name)
    text = page.read_text(encoding="utf-8")
    page.write_text(replace_table(text, name, markdown), encoding="utf-8")
    if kept is not None:
        (FIGURES / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
