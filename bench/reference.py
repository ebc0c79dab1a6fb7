"""Tables of documents that come from the service's code: `python -m bench.reference` writes them.

The settings stand in docs/reference.md, between the markers `<!-- settings -->`; what remains of a
forgotten person in docs/privacy.md, between `<!-- remains -->`.
"""

from __future__ import annotations

from typing import Any

from bench.tables import ROOT, replace_table
from service.lifecycle.forget import ALWAYS_REMAINS
from service.settings import PREFIX, Settings
from training.evaluation.tables import Table

PAGE, PRIVACY = (ROOT / "docs" / name for name in ("reference.md", "privacy.md"))
# The default of a setting that depends on the machine.
COMPUTED = {"decode_threads": "cores − 1, 2 at least"}


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
    """A page with its table written anew."""
    remains = Table("", ("where", "what remains", "until"), ALWAYS_REMAINS).markdown()
    return replace_table(replace_table(page, "settings", settings_table()), "remains", remains)


if __name__ == "__main__":
    for path in (PAGE, PRIVACY):
        path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")
