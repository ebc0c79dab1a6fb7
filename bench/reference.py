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
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "pattern",
    "default",
)
Schema = Mapping[str, Any]
# Defaults that depend on the machine.
COMPUTED = {"decode_threads": "cores − 1, 2 at least"}


def settings_table() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = COMPUTED.get(name) or _format_default(field.default)
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        variable = f"`{PREFIX}{name.upper()}`"
        rows.append({"variable": variable, "default": default, "meaning": meaning})
    return markdown_table(rows)


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
    lines = [f"version {document['info']['version']}"]
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            statuses = " ".join(call["responses"])
            lines += ["", f"{method.upper()} {path}: {statuses}", *_call_lines(call)]
    for name, schema in document["components"]["schemas"].items():
        lines += ["", f"{name}: {_type(schema)}", *_field_lines(schema)]
    return "\n".join(lines) + "\n"


def _call_lines(call: Mapping[str, Any]) -> Iterator[str]:
    for parameter in call.get("parameters", ()):
        shown = _described(parameter["schema"], parameter.get("required"))
        yield f"  {parameter['in']} {parameter['name']}: {shown}"
    for media, content in call.get("requestBody", {}).get("content", {}).items():
        yield f"  body {media}: {_described(content['schema'])}"
    for status, answer in call["responses"].items():
        if status.startswith("2"):
            for media, content in answer.get("content", {}).items():
                yield f"  answer {status} {media}: {_described(content.get('schema', {}))}"


def _field_lines(schema: Schema) -> Iterator[str]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        yield f"  {name}: {_described(field, name in required)}"


def _described(schema: Schema, required: bool | None = False) -> str:
    """Return a schema's type with its limits, and the word "required" if it is."""
    limits = [f"{name}={schema[name]!r}" for name in LIMITS if name in schema]
    return " ".join([_type(schema), *limits, *(["required"] if required else [])])


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " | ".join(_described(part) for part in schema[word])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " | ".join(repr(value) for value in values)
    if schema.get("type") == "array":
        return f"[{_described(schema.get('items', {}))}]"
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping):
        return f"{{{_described(extra)}}}"
    return str(schema.get("format") or schema.get("type", "any"))


def generated(page: str) -> str:
    """Return the page with its tables written anew."""
    page = replace_table(page, "settings", settings_table())
    remains = markdown_table(
        {"where": where, "what remains": what, "until": until}
        for where, what, until in ALWAYS_REMAINS
    )
    return replace_table(page, "remains", remains)


if __name__ == "__main__":
    for path in (PAGE, PRIVACY):
        path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")
    API.write_text(api_page(), encoding="utf-8")
