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
    """Writes an SVG element as the file `docs/figures/NAME.svg`."""
    # Inside a page the element needs no name space, as a file it does.
    named = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    (FIGURES / f"{name}.svg").write_text(named, encoding="utf-8")


def percent(interval: Sequence[float]) -> str:
    """Mean and ends of an interval of shares, in per cent."""
    mean, low, high = (100 * value for value in interval)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def ends(interval: Mapping[str, float]) -> list[float]:
    """Mean and ends of a report's interval."""
    return [interval[end] for end in ("mean", "low", "high")]


def page_of(name: str) -> Path:
    """The page that has a table's markers: the README or one of the documents.

    Raises:
        InputProblem: when none has.
    """
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if f"<!-- {name} -->" in page.read_text(encoding="utf-8"):
            return page
    raise InputProblem(f"no page has markers <!-- {name} --> and <!-- /{name} -->")


def replace_table(text: str, name: str, markdown: str) -> str:
    """A page with the table between its two markers replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}{markdown}\n{found[2]}", text)


def publish(name: str, markdown: str, kept: Any = None, folder: Path | None = None) -> None:
    """Writes a table into the page that has its markers, and its figures to `folder/NAME.json`.

    Args:
        kept: the figures; None keeps none.
        folder: `docs/figures` unless given.

    Raises:
        InputProblem: when no page has the markers.
    """
    page = page_of(name)
    text = replace_table(page.read_text(encoding="utf-8"), name, markdown)
    page.write_text(text, encoding="utf-8")
    if kept is not None:
        folder = folder or FIGURES
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
