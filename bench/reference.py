"""Documents that come from the service's code: `python -m bench.reference` writes them.

The settings are in docs/reference.md, between the markers `<!-- settings -->`, the traces of a
forgotten person in docs/privacy.md, between `<!-- remains -->`, and the calls in docs/api.txt.
"""

from __future__ import annotations

from typing import Any

from bench.api_text import api_text
from bench.tables import ROOT, replace_table
from service.gallery.forget import ALWAYS_REMAINS
from service.http.app import create_app
from service.settings import PREFIX, Settings
from training.evaluation.tables import Table

PAGE = ROOT / "docs" / "reference.md"
PRIVACY = ROOT / "docs" / "privacy.md"
API = ROOT / "docs" / "api.txt"
# Defaults that depend on the machine.
COMPUTED = {"decode_threads": "cores − 1, 2 at least"}


def settings_table() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = COMPUTED.get(name) or _format_default(field.default)
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append((f"`{PREFIX}{name.upper()}`", default, meaning))
    return Table("", ("variable", "default", "meaning"), rows).markdown()


def _format_default(default: Any) -> str:
    if default in (None, (), [], ""):
        return "none"
    if isinstance(default, bool):
        default = str(default).lower()
    return f"`{default}`"


def api_page() -> str:
    return api_text(create_app(Settings()).openapi())


def generated(page: str) -> str:
    """Return the page with its tables written anew."""
    page = replace_table(page, "settings", settings_table())
    remains = Table("", ("where", "what remains", "until"), ALWAYS_REMAINS).markdown()
    return replace_table(page, "remains", remains)


if __name__ == "__main__":
    for path in (PAGE, PRIVACY):
        path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")
    API.write_text(api_page(), encoding="utf-8")
