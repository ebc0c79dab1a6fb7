"""Tables that can be printed on a terminal, shown on a page, or written as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from training.evaluation.intervals import Estimate

STYLES = {"good": "green", "bad": "red"}
NOTHING = "–"
# The number of characters between columns, and of a row's name before it is wrapped.
GAP = 2
LONGEST_NAME = 24


class Cell(NamedTuple):
    """One cell of a table.

    Attributes:
        text: the value.
        small: a text in a softer colour, such as the interval of the value.
        mark: `good` or `bad` for a coloured value, else empty.
    """

    text: str
    small: str = ""
    mark: str = ""


Value = Cell | Estimate | str | int | None
"""An estimate is shown in percent, None as a dash."""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title, note: the caption, and a hint for reading the table.
        columns: the names of the columns.
        rows: the values of each row, one for each column.
        labels: the number of columns, from the left, that name a row.
        words: whether the values are texts, which may be wrapped, instead of numbers.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    labels: int = 1
    words: bool = False

    @property
    def compact(self) -> Table:
        """The table without empty columns."""
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
        """The rows as cells."""
        return [[_cell(value) for value in row] for row in self.rows]

    def rich(self, width: int = 80) -> RenderableType:
        """Lay the table out for a terminal, without wrapping values or showing empty columns.

        If the terminal is too narrow, names are wrapped and intervals placed below their means. If
        it is still too narrow, the last columns are placed below the others.

        Args:
            width: the width of the terminal in characters.
        """
        table = self.compact
        columns = range(len(table.columns))
        for narrow in (False, True):
            between = "\n" if narrow else " "
            rows = [[_text(cell, between) for cell in row] for row in table.cells]
            widths = [table._width(number, rows, narrow) for number in columns]
            if sum(widths) <= width + GAP:
                break
        names = list(columns[: table.labels])
        parts = [names]
        for number in columns[table.labels :]:
            together = sum(widths[column] for column in (*parts[-1], number))
            if together > width + GAP and parts[-1] != names:
                parts.append(names)
            parts[-1] = [*parts[-1], number]
        shown = []
        for part in parts:
            drawn = RichTable(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
            for number in part:
                left = number < table.labels or table.words
                drawn.add_column(
                    Text(table.columns[number]),
                    justify="left" if left else "right",
                    overflow="fold",
                    width=None if table.words else widths[number] - GAP,
                )
            for row in rows:
                drawn.add_row(*(row[number] for number in part))
            shown.append(drawn)
        title = [Text(self.title, style="italic")] if self.title else []
        return Group(*title, *shown, *([Text(self.note, style="dim")] if self.note else []))

    def markdown(self) -> str:
        """Write the table as Markdown."""
        rows = [
            [f"{cell.text} [{_joined(cell, ', ')}]" if cell.small else cell.text for cell in row]
            for row in self.cells
        ]
        written = ["| " + " | ".join(row) + " |" for row in (self.columns, *rows)]
        return "\n".join([written[0], "|" + "---|" * len(self.columns), *written[1:]])

    def _width(
        self,
        number: int,
        rows: Sequence[Sequence[Text]],
        narrow: bool,
    ) -> int:
        """Return the width of a column and its gap; 0 for texts, whose width rich decides."""
        if self.words:
            return 0
        name = [self.columns[number]]
        values = [line for row in rows for line in row[number].plain.split("\n")]
        if narrow:
            name = name[0].split()
            if number < self.labels:
                values = [value[:LONGEST_NAME] for value in values]
        return GAP + max((len(text) for text in [*name, *values]), default=0)


def percent(estimate: Estimate, form: str = ".1f") -> Cell:
    """Format a share in percent, with its interval."""
    mean, low, high = (
        format(100 * value, form) for value in (estimate.mean, estimate.low, estimate.high)
    )
    return Cell(mean, f"{low} … {high}")


def difference(estimate: Estimate, better: int = 1) -> Cell:
    """Format a difference of shares in percentage points; mark it if its interval excludes 0.

    Args:
        estimate: the difference.
        better: 1 if more is better, −1 if less is.
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
    """Return a cell's small text, with `ends` between the ends of its interval."""
    return cell.small.replace(" … ", ends)
