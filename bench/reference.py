"""Writes the documents that are generated from the service's code: `python -m bench.reference`.

The settings are in docs/settings.md, between the markers `<!-- settings -->`, the traces of a
forgotten person in docs/privacy.md, between `<!-- remains -->`, the calls in docs/api.txt, and
those of the Python client in docs/python.md, between `<!-- python-client -->`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.python_client import calls_page
from bench.tables import ROOT, markdown_table, publish
from service.app import create_app
from service.remainders import ALWAYS_REMAINS
from service.settings import PREFIX, Settings

API = ROOT / "docs" / "api.txt"
LIMITS = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
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
    """Write the calls with their statuses, inputs and answers, and the models with their fields."""
    document = create_app(Settings()).openapi()
    lines = [f"version {document['info']['version']}"]
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            statuses = " ".join(call["responses"])
            lines += ["", f"{method.upper()} {path}: {statuses}", *_call_lines(call)]
    for name, schema in document["components"]["schemas"].items():
        lines += ["", f"{name}: {_format_type(schema)}"]
        for field, field_schema in schema.get("properties", {}).items():
            is_required = field in schema.get("required", ())
            lines.append(f"  {field}: {_format_schema(field_schema, is_required)}")
    return "\n".join(lines) + "\n"


def _call_lines(call: Mapping[str, Any]) -> Iterator[str]:
    for parameter in call.get("parameters", ()):
        schema = _format_schema(parameter["schema"], parameter.get("required", False))
        yield f"  {parameter['in']} {parameter['name']}: {schema}"
    bodies = {"body": call.get("requestBody", {})}
    for status, answer in call["responses"].items():
        if status.startswith("2"):
            bodies[f"answer {status}"] = answer
    for name, body in bodies.items():
        for media, content in body.get("content", {}).items():
            yield f"  {name} {media}: {_format_schema(content.get('schema', {}))}"


def _format_schema(schema: Schema, is_required: bool = False) -> str:
    """Return a schema's type with its limits, and the word "required" if it is."""
    words = [_format_type(schema)]
    words += [f"{name}={schema[name]!r}" for name in LIMITS if name in schema]
    if is_required:
        words.append("required")
    return " ".join(words)


def _format_type(schema: Schema) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(_format_schema(part) for part in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(repr(value) for value in schema["enum"])
    if "const" in schema:
        return repr(schema["const"])
    if "items" in schema:
        return f"[{_format_schema(schema['items'])}]"
    values = schema.get("additionalProperties")
    if isinstance(values, Mapping):
        return f"{{{_format_schema(values)}}}"
    return str(schema.get("format") or schema.get("type", "any"))


def remains_table() -> str:
    return markdown_table(
        {"where": where, "what remains": what, "until": until}
        for where, what, until in ALWAYS_REMAINS
    )


TABLES = {"settings": settings_table, "remains": remains_table, "python-client": calls_page}

if __name__ == "__main__":
    for name, table in TABLES.items():
        publish(name, table())
    API.write_text(api_page(), encoding="utf-8")
