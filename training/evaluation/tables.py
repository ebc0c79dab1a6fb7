"""The one table writer: the same rows on a terminal, on a page and in a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Literal, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from training.evaluation.intervals import Estimate

STYLES = {"good": "green", "bad": "red"}
NOTHING = "–"
GAP = 2
LONGEST_WORD = 24
"""Characters between columns, and those of a row's name that are kept on one line."""


class Cell(NamedTuple):
    """One place of a table.

    Attributes:
        text: the value.
        small: beside or below it in a softer colour, such as its interval.
        mark: `good` or `bad`, as its interval decides; empty where it decides nothing.
    """

    text: str
    small: str = ""
    mark: str = ""


Value = Cell | Estimate | str | int | None
"""An estimate is shown in per cent, None as a dash."""


@dataclass(frozen=True)
class Table:
    """Rows under columns.

    Attributes:
        title, note: the caption and how to read the table; a terminal has the note below.
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
    def compact(self) -> Table:
        """The table without the columns that have no value in any row."""
        columns = range(len(self.columns))
        filled = [any(row[number] is not None for row in self.rows) for number in columns]
        if not self.rows or all(filled):
            return self
        return replace(
            self,
            columns=list(compress(self.columns, filled)),
            rows=[list(compress(row, filled)) for row in self.rows],
            labels=sum(filled[: self.labels]),
        )

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows as they are shown."""
        return [[_cell(value) for value in row] for row in self.rows]

    def rich(self, width: int = 80) -> RenderableType:
        """Lay the table out for a terminal, without breaking words or showing empty columns.

        Where it is too narrow for lines, intervals stand below their means, then names of rows
        wrap, and at last some columns stand below the others.

        Args:
            width: of the terminal, characters.
        """
        table = self.compact
        for between, wrapped in ((" ", False), ("\n", False), ("\n", True)):
            rows = [[_text(cell, between) for cell in row] for row in table.cells]
            least = [table._least(number, rows, wrapped) for number in range(len(table.columns))]
            if sum(least) <= width + GAP:
                break
        names = [*range(table.labels)]
        parts = [[*range(table.labels)]]
        for number in range(table.labels, len(table.columns)):
            needed = sum(least[column] for column in (*parts[-1], number))
            if needed > width + GAP and parts[-1] != names:
                parts.append([*names])
            parts[-1].append(number)
        shown = [table._part(part, rows, least, width) for part in parts]
        title = [Text(self.title, style="italic")] if self.title else []
        return Group(*title, *shown, *([Text(self.note, style="dim")] if self.note else []))

    def markdown(self) -> str:
        """Return the table as Markdown."""
        rows = [
            [f"{cell.text} [{_joined(cell, ', ')}]" if cell.small else cell.text for cell in row]
            for row in self.cells
        ]
        written = ["| " + " | ".join(row) + " |" for row in (self.columns, *rows)]
        return "\n".join([written[0], "|" + "---|" * len(self.columns), *written[1:]])

    def _least(self, number: int, rows: Sequence[Sequence[Text]], wrapped: bool) -> int:
        """Return the width, with the gap, at which a column breaks no value but a text."""
        own = [row[number].plain for row in rows]
        if self.words or (wrapped and number < self.labels):
            return GAP + _longest_word([self.columns[number], *own])
        lines = [len(line) for text in own for line in text.split("\n")]
        return GAP + max(_longest_word([self.columns[number]]), *lines, 0)

    def _part(
        self, columns: Sequence[int], rows: Sequence[Sequence[Text]], least: list[int], width: int
    ) -> RichTable:
        """Return some columns, as wide as they need to be or as the terminal lets them."""
        widths = {number: least[number] - GAP for number in columns}
        full = {
            number: max(
                len(line)
                for text in (self.columns[number], *(row[number].plain for row in rows))
                for line in text.split("\n")
            )
            for number in columns
        }
        for _ in range(width + GAP - sum(least[number] for number in columns)):
            growing = [number for number in columns if widths[number] < full[number]]
            if growing:
                widths[min(growing, key=lambda number: widths[number])] += 1
        table = RichTable(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
        for number in columns:
            left = number < self.labels or self.words
            justify: Literal["left", "right"] = "left" if left else "right"
            name = Text(self.columns[number])
            table.add_column(name, justify=justify, overflow="fold", width=widths[number])
        for row in rows:
            table.add_row(*(row[number] for number in columns))
        return table


def percent(estimate: Estimate, form: str = ".1f") -> Cell:
    """Return a share in per cent, and its interval."""
    mean, low, high = (
        format(100 * value, form) for value in (estimate.mean, estimate.low, estimate.high)
    )
    return Cell(mean, f"{low} … {high}")


def difference(estimate: Estimate, better: int = 1) -> Cell:
    """Return a difference of shares in percentage points, marked where its interval leaves out 0.

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
    if not cell.small:
        return text
    return text.append((between if cell.text else "") + _joined(cell, "…"), style="dim")


def _joined(cell: Cell, ends: str) -> str:
    """Return the small text of a cell, with another sign between the ends of an interval."""
    return cell.small.replace(" … ", ends)


def _longest_word(texts: Sequence[str]) -> int:
    """Return the length of the longest word, which a line must hold."""
    return max((min(len(word), LONGEST_WORD) for text in texts for word in text.split()), default=0)
