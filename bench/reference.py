"""The table of settings of docs/reference.md: `python -m bench.reference` writes it.

It comes from the settings class, and stands between the page's markers `<!-- settings -->`.
"""

from __future__ import annotations

from typing import Any

from bench.tables import ROOT, replace_table
from service.settings import PREFIX, Settings
from training.evaluation.tables import Table

PAGE = ROOT / "docs" / "reference.md"
# The default of a setting that depends on the machine.
COMPUTED = {"decode_threads": "cores − 1"}


def settings_table() -> str:
    """One row per setting: its variable, its default, its description."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = COMPUTED.get(name) or _shown(field.default)
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append((f"`{PREFIX}{name.upper()}`", default, meaning))
    return Table("", ("variable", "default", "meaning"), rows).markdown()


def _shown(default: Any) -> str:
    if default in (None, (), [], ""):
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def generated(page: str) -> str:
    """The page with its table written anew."""
    return replace_table(page, "settings", settings_table())


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
