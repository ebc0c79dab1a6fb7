"""Lines of CSV that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io

# A spreadsheet runs text that begins like a formula, some of them after a tab or a line's end.
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_line(*values: object) -> str:
    """Write one line; None is empty.

    A text that a spreadsheet would run as a formula has an apostrophe before it, and so has one
    that begins with an apostrophe.
    """

    def safe(value: object) -> object:
        risky = isinstance(value, str) and value.startswith((*FORMULAS, "'"))
        return f"'{value}" if risky else value

    line = io.StringIO()
    csv.writer(line).writerow([safe(value) for value in values])
    return line.getvalue()
