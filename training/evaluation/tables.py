"""The one table writer: the same rows on a terminal, on a page and in a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from training.evaluation.intervals import Estimate

STYLES = {"good": "green", "bad": "red"}
NOTHING = "–"
GAP, LONGEST_WORD = 2, 24
"""Characters between columns, and those of a row's name that are kept on one line."""


class Cell(NamedTuple):
    """What stands in one place of a table.

    Attributes:
        text: the value.
        small: beside or below it in a softer colour, such as its interval.
        mark: `good` or `bad`, as its interval decides; empty where it decides nothing.
        link: where the text leads on a page.
    """

    text: str
    small: str = ""
    mark: str = ""
    link: str = ""


Value = Cell | Estimate | str | int | None
"""An estimate is shown in per cent, None as a dash."""


@dataclass(frozen=True)
class Table:
    """Rows under columns.

    Attributes:
        title, note: what is shown, and how to read it; a terminal shows none where it is empty.
        columns: their names.
        rows: a value for each column.
        labels: how many columns at the left name a row.
        words: the values are texts, which wrap, and no numbers.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    labels: int = 1
    words: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows as they are shown."""
        return [[_cell(value) for value in row] for row in self.rows]

    def rich(self, width: int = 80) -> RenderableType:
        """For a terminal; intervals stand below their means where it is too narrow for a line.

        Args:
            width: of the terminal, characters.
        """
        rows = [[_text(cell, " ") for cell in row] for row in self.cells]
        if sum(self._whole(rows)) > width:
            rows = [[_text(cell, "\n") for cell in row] for row in self.cells]
        table = RichTable(box=None, padding=(0, GAP, 0, 0))
        for number, size in enumerate(self._widths(rows, width)):
            left = number < self.labels or self.words
            justify: Literal["left", "right"] = "left" if left else "right"
            name = Text(self.columns[number])
            table.add_column(name, justify=justify, overflow="fold", width=size)
        for row in rows:
            table.add_row(*row)
        if not self.title:
            return table
        title = Text(self.title, style="italic")
        return Group(title.append(f"  {self.note}" if self.note else "", style="dim"), table)

    def markdown(self) -> str:
        """For a document."""
        rows = [
            [f"{cell.text} [{_joined(cell, ', ')}]" if cell.small else cell.text for cell in row]
            for row in self.cells
        ]
        written = ["| " + " | ".join(row) + " |" for row in (self.columns, *rows)]
        return "\n".join([written[0], "|" + "---|" * len(self.columns), *written[1:]])

    def _whole(self, rows: Sequence[Sequence[Text]]) -> list[int]:
        """The widths, with the gaps, at which no value but a text is broken."""
        found = []
        for number, name in enumerate(self.columns):
            own = [row[number].plain for row in rows]
            lines = [line for text in own for line in text.split("\n")]
            words = _longest_word([name, *own] if self.words else [name])
            found.append(GAP + max(words, *(0 if self.words else len(line) for line in lines), 0))
        return found

    def _widths(self, rows: Sequence[Sequence[Text]], width: int) -> list[int]:
        """Each column's characters: names of rows and columns wrap where a terminal is narrow."""
        widths = [size - GAP for size in self._whole(rows)]
        if sum(widths) + GAP * len(widths) > width:
            for number in range(self.labels):
                own = [self.columns[number], *(row[number].plain for row in rows)]
                widths[number] = _longest_word(own)
        full = [
            max(len(line) for text in [name, *own] for line in str(text).split("\n"))
            for name, *own in zip(self.columns, *rows, strict=True)
        ]
        for _ in range(width - sum(widths) - GAP * len(widths)):
            growing = [number for number, size in enumerate(widths) if size < full[number]]
            if growing:
                widths[min(growing, key=lambda number: widths[number])] += 1
        return widths


def percent(estimate: Estimate, form: str = ".1f") -> Cell:
    """A share in per cent, and its interval."""
    mean, low, high = (
        format(100 * value, form) for value in (estimate.mean, estimate.low, estimate.high)
    )
    return Cell(mean, f"{low} … {high}")


def difference(estimate: Estimate, better: int = 1) -> Cell:
    """A difference of shares in percentage points, marked where its interval leaves out 0.

    Args:
        estimate: the difference.
        better: 1 where more is better, −1 where less is.
    """
    cell = percent(estimate, "+.1f")
    signed = Cell(cell.text.replace("-", "−"), cell.small.replace("-", "−"))
    if estimate.low <= 0.0 <= estimate.high:
        return signed
    return signed._replace(mark="good" if better * estimate.mean > 0 else "bad")


def _cell(value: Value) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, Estimate):
        return percent(value)
    if isinstance(value, int):
        return Cell(f"{value:,}")
    return Cell(NOTHING if value is None else value)


def _text(cell: Cell, between: str) -> Text:
    text = Text(cell.text, style=STYLES.get(cell.mark, ""))
    return text.append(between + _joined(cell, "…"), style="dim") if cell.small else text


def _joined(cell: Cell, ends: str) -> str:
    """What is small in a cell, with another sign between the ends of an interval."""
    return cell.small.replace(" … ", ends)


def _longest_word(texts: Sequence[str]) -> int:
    """The length of the longest word, which a line must hold."""
    return max((min(len(word), LONGEST_WORD) for text in texts for word in text.split()), default=0)
