"""Unicode of names: their normal form, characters that they may not contain, and search by text."""

from __future__ import annotations

import unicodedata

REPLACEMENT = "\ufffd"
"""Takes the place of bytes that are not UTF-8."""
JOINERS = frozenset("\u200c\u200d")
# Scripts in which a joiner changes how the letters beside it are written. The names of their
# characters begin with these words.
JOINING_SCRIPTS = frozenset(
    {
        "ARABIC",
        "BENGALI",
        "DEVANAGARI",
        "GUJARATI",
        "GURMUKHI",
        "KANNADA",
        "KHMER",
        "MALAYALAM",
        "MONGOLIAN",
        "MYANMAR",
        "NKO",
        "ORIYA",
        "SINHALA",
        "SYRIAC",
        "TAMIL",
        "TELUGU",
    }
)
# Categories of characters that have no name.
NAMELESS = {
    "Cc": "CONTROL CHARACTER",
    "Cn": "UNASSIGNED CHARACTER",
    "Co": "PRIVATE USE CHARACTER",
    "Cs": "SURROGATE",
}
# Lower case of the Turkish capital I with a dot: an i and a combining dot above.
DOTTED_I = "i\u0307"


def nfc(text: str) -> str:
    """Return a text in Unicode normal form C, in which equal names have equal characters.

    The time grows with the square of the number of combining marks in a row, so bound the length of
    a text from outside first.
    """
    return unicodedata.normalize("NFC", text)


def fold(text: str) -> str:
    """Normalise a text for the comparison in a search by text: without case, in NFC."""
    return nfc(nfc(text).casefold().replace(DOTTED_I, "i"))


def find_unfit(text: str) -> int | None:
    """Return the position of the first character that a name may not contain, or None.

    These are characters that are not printable, U+FFFD, and joiners that are not between two
    letters or marks of a script that uses them.
    """
    if text.isprintable() and REPLACEMENT not in text:
        return None
    places = range(len(text))
    return next((position for position in places if not is_fit(text, position)), None)


def is_fit(text: str, position: int) -> bool:
    """Return whether the character at a position may stand there in a name."""
    character = text[position]
    if character in JOINERS:
        return _is_between_joining_letters(text, position)
    return character.isprintable() and character != REPLACEMENT


def describe(character: str) -> str:
    """Return the code and the name of a character, such as `U+200B ZERO WIDTH SPACE`."""
    nameless = NAMELESS.get(unicodedata.category(character), "UNNAMED CHARACTER")
    return f"U+{ord(character):04X} {unicodedata.name(character, nameless)}"


def is_space(character: str) -> bool:
    """Return whether a character is a space, such as the no-break space."""
    return unicodedata.category(character) == "Zs"


def _is_between_joining_letters(text: str, position: int) -> bool:
    if not 0 < position < len(text) - 1:
        return False
    script = _joining_script(text[position - 1])
    return script is not None and script == _joining_script(text[position + 1])


def _joining_script(character: str) -> str | None:
    """Return the script of a letter or mark that a joiner may stand beside, or None."""
    if unicodedata.category(character)[0] not in "LM":
        return None
    script, _, _ = unicodedata.name(character, "").partition(" ")
    return script if script in JOINING_SCRIPTS else None
