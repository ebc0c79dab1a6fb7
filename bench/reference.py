"""Documents that come from the service's code: `python -m bench.reference` writes them.

The settings are in docs/reference.md, between the markers `<!-- settings -->`, the traces of a
forgotten person in docs/privacy.md, between `<!-- remains -->`, and the calls in docs/api.txt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.tables import ROOT, markdown_table, replace_table
from service.gallery.forget import ALWAYS_REMAINS
from service.http.app import create_app
from service.settings import PREFIX, Settings

PAGE = ROOT / "docs" / "reference.md"
PRIVACY = ROOT / "docs" / "privacy.md"
API = ROOT / "docs" / "api.txt"
LIMITS = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("minLength", "maxLength", "minItems", "maxItems", "pattern", "default"),
)
Schema = Mapping[str, Any]
# Defaults that depend on the machine.
COMPUTED = {"decode_threads": "cores − 1, 2 at least"}


def settings_table() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = COMPUTED.get(name) or _format_default(field.default)
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append((f"`{PREFIX}{name.upper()}`", default, meaning))
    return markdown_table(("variable", "default", "meaning"), rows)


def _format_default(default: Any) -> str:
    if default in (None, (), [], ""):
        return "none"
    if isinstance(default, bool):
        default = str(default).lower()
    return f"`{default}`"


def api_page() -> str:
    return api_text(create_app(Settings()).openapi())


def api_text(document: Mapping[str, Any]) -> str:
    """Write an OpenAPI document as calls with their statuses and inputs, and models with fields."""
    version = document["info"]["version"]
    lines = [f"version {version}"]
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            statuses = " ".join(call["responses"])
            lines.append("")
            lines.append(f"{method.upper()} {path}: {statuses}")
            for line in _input_lines(call):
                lines.append(f"  {line}")
            for line in _answer_lines(call):
                lines.append(f"  {line}")
    for name, schema in document["components"]["schemas"].items():
        lines.append("")
        lines.append(f"{name}: {_type(schema)}")
        for line in _field_lines(schema):
            lines.append(f"  {line}")
    lines.append("")
    return "\n".join(lines)


def _input_lines(call: Mapping[str, Any]) -> Iterator[str]:
    for parameter in call.get("parameters", ()):
        place = parameter["in"]
        name = parameter["name"]
        shown = _described(parameter["schema"])
        needed = " required" if parameter.get("required") else ""
        yield f"{place} {name}: {shown}{needed}"
    body = call.get("requestBody", {})
    for media, content in body.get("content", {}).items():
        shown = _described(content["schema"])
        yield f"body {media}: {shown}"


def _answer_lines(call: Mapping[str, Any]) -> Iterator[str]:
    for status, answer in call["responses"].items():
        if not status.startswith("2"):
            continue
        for media, content in answer.get("content", {}).items():
            shown = _described(content.get("schema", {}))
            yield f"answer {status} {media}: {shown}"


def _field_lines(schema: Schema) -> Iterator[str]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        needed = " required" if name in required else ""
        yield f"{name}: {_described(field)}{needed}"


def _described(schema: Schema) -> str:
    """Return a schema's type with its limits."""
    parts = [_type(schema)]
    for name in LIMITS:
        if name in schema:
            parts.append(f"{name}={schema[name]!r}")
    return " ".join(parts)


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " | ".join(_described(part) for part in schema[word])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " | ".join(repr(value) for value in values)
    name = str(schema.get("format") or schema.get("type", "any"))
    if schema.get("type") == "array":
        return f"[{_described(schema.get('items', {}))}]"
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping):
        return f"{{{_described(extra)}}}"
    return name


def generated(page: str) -> str:
    """Return the page with its tables written anew."""
    page = replace_table(page, "settings", settings_table())
    remains = markdown_table(("where", "what remains", "until"), ALWAYS_REMAINS)
    return replace_table(page, "remains", remains)


if __name__ == "__main__":
    for path in (PAGE, PRIVACY):
        path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")
    API.write_text(api_page(), encoding="utf-8")
