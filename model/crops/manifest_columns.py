"""The columns of a manifest, and guesses at the column that an unknown name means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from model.crops.names import shown
from model.problems import InputProblem

COLUMNS = ("path", "identity", "camera", "captured_at", "external_id", "metadata", "track", "split")
# Columns that only the manifest of an export has. The exports of 0.6 do not have the last one.
EXPORTED = ("crop_id", "sha256", "quality", "created_at", "set_aside", "sent_sha256")
EXPORTED_BEFORE = EXPORTED[:-1]
# Training and evaluation need these of every crop.
LABELLED = ("path", "identity", "camera")
# Other common names of the required columns, without spaces and the like.
OTHER_NAMES = {
    "path": ("imagepath", "imgpath", "filepath", "file", "filename", "image", "imagename", "img"),
    "identity": ("pid", "personid", "person", "id", "identityid", "label", "name", "personname"),
    "camera": ("camid", "cameraid", "cam", "cameraname", "camname"),
}
# Each row takes time for each column of the header.
MAX_COLUMNS = 1_000
# Spreadsheet programs of some countries write these in place of commas.
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# Programs put these around the name of a column; white space of any kind is stripped as well.
AROUND_NAMES = "\ufeff\u200b\"'“”„‘’`"


def read_header(header: Sequence[str], required: Collection[str]) -> list[str]:
    """Return the names of columns, stripped of spaces, quotes and the like.

    Raises:
        InputProblem: the header would lose a known column; the message does not name the line.
    """
    names = [_strip_name(name) for name in header]
    if len(names) > MAX_COLUMNS:
        raise InputProblem(
            f"has {len(names):,} columns, over the limit of {MAX_COLUMNS:,}; leave out those that "
            "are not known"
        )
    _require_commas(names)
    repeated = [name for name, count in Counter(names).items() if count > 1 and name in COLUMNS]
    if repeated:
        raise InputProblem(
            f"the column {repeated[0]} occurs twice; keep one of the two, or rename the other"
        )
    for name in names:
        meant = _similar_column(name, names)
        if meant is not None:
            raise InputProblem(
                f"there is no column {shown(name)!r}; did you mean {meant}? Rename the column to "
                f"{meant}, or to something else if it is not meant"
            )
    missing = [name for name in required if name not in names]
    if missing:
        others = [name for name in COLUMNS if name not in required]
        raise InputProblem(
            f"the header lacks {', '.join(missing)}; it must be "
            f"{','.join(required)}[,{','.join(others)}]{_suggest_names(missing, names)}"
        )
    return names


def _suggest_names(missing: Sequence[str], names: Sequence[str]) -> str:
    """Name the columns that are probably the missing ones, as the end of a sentence."""
    suggestions = []
    for column in missing:
        meant = next(
            (name for name in names if _letters(name) in OTHER_NAMES.get(column, ())), None
        )
        if meant is not None:
            suggestions.append(f"{shown(meant)!r} looks like {column}")
    if not suggestions:
        return ""
    return f"; {', '.join(suggestions)}: rename {'it' if len(suggestions) == 1 else 'them'}"


def _strip_name(name: str) -> str:
    stripped = name.strip()
    while (inner := stripped.strip(AROUND_NAMES).strip()) != stripped:
        stripped = inner
    return stripped


def _require_commas(names: Sequence[str]) -> None:
    """Raise `InputProblem` if a line does not begin with names of columns and commas."""
    first = names[0] if names else ""
    if first.casefold().startswith("sep="):
        raise InputProblem(
            "is a note on the separator for spreadsheet programs; remove this line, separate the "
            "columns by commas, and begin with their names"
        )
    known = {_letters(column) for column in COLUMNS}
    for separator, title in SEPARATORS.items():
        parts = [part for name in names if separator in name for part in name.split(separator)]
        if "path" not in names and known & {_letters(part) for part in parts}:
            raise InputProblem(
                f"the columns are separated by {title}; save the file with commas, which "
                'spreadsheet programs call "CSV (comma delimited)"'
            )


def _similar_column(name: str, names: Collection[str]) -> str | None:
    """Return the known column that another name probably means, or None."""
    if name in COLUMNS:
        return None
    letters = _letters(name)
    for column in COLUMNS:
        if letters == _letters(column):
            return column
    for column in COLUMNS:
        if column not in names and _is_misspelt(letters, column):
            return column
    return None


def _letters(name: str) -> str:
    """Return a name in lower case without spaces, underscores, hyphens and the like."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _is_misspelt(letters: str, column: str) -> bool:
    """Return whether few letters are inserted, left out, replaced or swapped with the next one."""
    right = _letters(column)
    # Longer names leave room for more mistakes before they resemble other words.
    allowed = len(column) // 4
    if abs(len(letters) - len(right)) > allowed:
        return False
    # A row has the edits from the first letters of one name to all beginnings of the other.
    rows = [list(range(len(right) + 1))]
    for row, letter in enumerate(letters, 1):
        above = rows[-1]
        current = [row]
        for place, other in enumerate(right, 1):
            edits = min(above[place] + 1, current[-1] + 1, above[place - 1] + (letter != other))
            if row > 1 and place > 1 and letters[row - 2] == other and right[place - 2] == letter:
                edits = min(edits, rows[-2][place - 2] + 1)
            current.append(edits)
        rows.append(current)
    return rows[-1][-1] <= allowed
