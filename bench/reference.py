"""The generated parts of docs/reference.md: `python -m bench.reference` writes them.

The settings come from the settings class, the calls from docs/openapi.json; both stand between the
page's markers `<!-- settings -->` and `<!-- calls -->`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from bench.tables import ROOT, replace_table
from service.settings import PREFIX, Settings

PAGE = ROOT / "docs" / "reference.md"
OPENAPI = ROOT / "docs" / "openapi.json"
# The default of a setting that depends on the machine.
COMPUTED = {"decode_threads": "cores − 1"}


def settings_table() -> str:
    """One row per setting: its variable, its default, its description."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = COMPUTED.get(name) or _shown(field.default)
        lines.append(f"| `{PREFIX}{name.upper()}` | {default} | {_line(field.description)} |")
    return "\n".join(lines)


def calls(document: dict[str, Any]) -> str:
    """One section per call of an OpenAPI document: description, inputs, statuses."""
    return "\n\n".join(
        "\n".join(_call(f"{method.upper()} {path}", call, document))
        for path, methods in document["paths"].items()
        for method, call in methods.items()
    )


def _call(title: str, call: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    yield f"### {title}\n"
    for paragraph in call["description"].split("\n\n"):
        yield textwrap.fill(_line(paragraph), 112) + "\n"
    if rows := list(_inputs(call, document)):
        yield "| input | in | default | meaning |\n|---|---|---|---|"
        yield "\n".join(rows) + "\n"
    yield f"Statuses: {', '.join(call['responses'])}."


def _inputs(call: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    for given in call.get("parameters", []):
        place, required = given["in"], given.get("required", False)
        yield _input(given["name"], place, given["schema"] | given, required)
    for content in call.get("requestBody", {}).get("content", {}).values():
        name = content["schema"]["$ref"].rpartition("/")[2]
        form = document["components"]["schemas"][name]
        for field, schema in form.get("properties", {}).items():
            yield _input(field, "form", schema, field in form.get("required", []))


def _input(name: str, place: str, schema: dict[str, Any], required: bool) -> str:
    default = "required" if required else _shown(schema.get("default"))
    meaning = _line(schema.get("description"))
    if values := [one for one in schema.get("enum", ()) if one]:
        meaning += f" {', '.join(f'`{one}`' for one in values)}."
    if most := schema.get("maximum"):
        meaning += f" At most {int(most):,}."
    return f"| `{name}` | {place} | {default} | {meaning.strip()} |"


def _shown(default: Any) -> str:
    if default in (None, (), [], ""):
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def generated(page: str) -> str:
    """The page with both of its generated parts written anew."""
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    page = replace_table(page, "settings", settings_table())
    return replace_table(page, "calls", calls(document))


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
