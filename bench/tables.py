"""Markdown tables, and the pages that show them between the markers `<!-- NAME -->`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.problems import InputProblem

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"


def save_drawing(name: str, svg: str) -> None:
    """Write an SVG element as the file `docs/figures/NAME.svg`."""
    # A file needs the name space that the element may leave out inside a page.
    named = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    (FIGURES / f"{name}.svg").write_text(named, encoding="utf-8")


def percent(interval: Sequence[float]) -> str:
    """Format mean and ends of an interval of shares in per cent."""
    mean, low, high = (100 * share for share in interval)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def ends(interval: Mapping[str, float]) -> list[float]:
    return [interval["mean"], interval["low"], interval["high"]]


def page_of(name: str) -> Path:
    """Find the page with a table's markers, the README or a document.

    Raises:
        InputProblem: no page has the markers.
    """
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if f"<!-- {name} -->" in page.read_text(encoding="utf-8"):
            return page
    raise InputProblem(f"no page has markers <!-- {name} --> and <!-- /{name} -->")


def replace_table(text: str, name: str, markdown: str) -> str:
    """Return the page's text with the table between two markers replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{markdown}\n{match[2]}", text)


def publish(name: str, markdown: str, kept: Any = None, folder: Path | None = None) -> None:
    """Write a table into the page that has its markers, and its figures to `folder/NAME.json`.

    Args:
        kept: the figures; None writes no file.
        folder: `docs/figures` by default.

    Raises:
        InputProblem: no page has the markers.
    """

    page = page_of(name)
    text = replace_table(page.read_text(encoding="utf-8"), name, markdown)
    page.write_text(text, encoding="utf-8")
    if kept is not None:
        folder = folder or FIGURES
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
