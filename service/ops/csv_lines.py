"""CSV lines that spreadsheets do not interpret as formulas."""

from __future__ import annotations

import csv
import io

# Spreadsheets run text that begins like a formula, in part also after a tab or line break.
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_line(*values: object) -> str:
    """Format one line; None becomes an empty field.

    An apostrophe is put before text that a spreadsheet would run as a formula, and before text that
    already begins with one.
    """

    def safe(value: object) -> object:
        risky = isinstance(value, str) and value.startswith((*FORMULAS, "'"))
        return f"'{value}" if risky else value

    line = io.StringIO()
    csv.writer(line).writerow([safe(value) for value in values])
    return line.getvalue()
