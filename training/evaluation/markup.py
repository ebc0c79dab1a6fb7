"""Pieces of a report page: tables, charts, pictures and figures with intervals as HTML text."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from training.evaluation.drawing import Drawing
from training.evaluation.intervals import Estimate

TEMPLATE = Path(__file__).parent / "templates" / "page.html"
NOTHING = "–"


def page(title: str, summary: str, body: Iterable[str], head: str = "", footer: str = "") -> str:
    """A whole page, which loads nothing from elsewhere.

    Args:
        title, summary: as text; they are escaped here.
        body: HTML of its sections.
        head: HTML between summary and body.
        footer: HTML at the end.
    """
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        summary=escape(summary),
        head=head,
        body="\n".join(body),
        footer=footer,
    )


def section(title: str, parts: Iterable[str], anchor: str = "") -> str:
    """A part of the page under its title, which is text."""
    place = f' id="{escape(anchor)}"' if anchor else ""
    inside = "\n".join(part for part in parts if part)
    return f"<section{place}><h2>{escape(title)}</h2>\n{inside}</section>"


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    note: str = "",
    kind: str = "",
) -> str:
    """A table of HTML cells; nothing where there are no rows.

    Args:
        caption, note: as text; they are escaped here.
        header: HTML of the columns' names.
        rows: HTML of the cells; the first one of a row names it.
        kind: a class of the style sheet, such as `words`.
    """
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    if not body:
        return ""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    small = f" <small>{escape(note)}</small>" if note else ""
    return (
        f'<div class="wide" tabindex="0"><table{_class(kind)}><caption>{escape(caption)}{small}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def charts(drawings: Sequence[Drawing]) -> str:
    """Charts side by side where there is room."""
    if not drawings:
        return ""
    return f'<div class="figures">{"".join(_chart(drawing) for drawing in drawings)}</div>'


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """A row of large figures, each a value and what it is, as text."""
    inside = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name in figures
    )
    return f'<div class="tiles">{inside}</div>' if inside else ""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of HTML."""
    return f"<p{_class(kind)}>{text}</p>"


def picture(jpeg: bytes, alt: str) -> str:
    """A picture inside the page itself."""
    data = base64.b64encode(jpeg).decode("ascii")
    return f'<img alt="{escape(alt)}" src="data:image/jpeg;base64,{data}">'


def percent(figure: Estimate, form: str = ".1f") -> str:
    """A share as percent with its interval."""
    mean, low, high = (
        format(100 * value, form) for value in (figure.mean, figure.low, figure.high)
    )
    return f"{mean} <small>{low} … {high}</small>"


def difference(figure: Estimate, better: int = 1) -> str:
    """A difference of shares in percentage points, marked where its interval leaves out 0.

    Args:
        figure: the difference.
        better: 1 where more is better, −1 where less is.
    """
    text = percent(figure, "+.1f").replace("-", "−")
    if figure.low <= 0.0 <= figure.high:
        return text
    return f'<span class="{"good" if better * figure.mean > 0 else "bad"}">{text}</span>'


def count(number: float) -> str:
    """A large number in thousands, millions or billions, three digits of it."""
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.3g}"


def _chart(drawing: Drawing) -> str:
    small = f"<small>{escape(drawing.note)}</small>" if drawing.note else ""
    return f"<figure><figcaption>{escape(drawing.title)}{small}</figcaption>{drawing.svg}</figure>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
