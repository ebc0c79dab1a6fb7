"""The HTTP interface as a text: a line for each call and each field, which a review can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LIMITS = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("minLength", "maxLength", "minItems", "maxItems", "pattern", "default"),
)
Schema = Mapping[str, Any]


def api_text(document: Mapping[str, Any]) -> str:
    """Write an OpenAPI document as calls with their statuses and inputs, and models with fields."""
    lines = [f"version {document['info']['version']}"]
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            lines += ["", f"{method.upper()} {path}: {' '.join(call['responses'])}"]
            lines += [f"  {line}" for line in _input_lines(call)]
            lines += [f"  {line}" for line in _answer_lines(call)]
    for name, schema in document["components"]["schemas"].items():
        lines += ["", f"{name}: {_type(schema)}"]
        lines += [f"  {line}" for line in _field_lines(schema)]
    return "\n".join(lines) + "\n"


def _input_lines(call: Mapping[str, Any]) -> Iterator[str]:
    for parameter in call.get("parameters", ()):
        needed = " required" if parameter.get("required") else ""
        shown = _described(parameter["schema"])
        yield f"{parameter['in']} {parameter['name']}: {shown}{needed}"
    for media, content in call.get("requestBody", {}).get("content", {}).items():
        yield f"body {media}: {_described(content['schema'])}"


def _answer_lines(call: Mapping[str, Any]) -> Iterator[str]:
    for status, answer in call["responses"].items():
        for media, content in answer.get("content", {}).items():
            if status.startswith("2"):
                yield f"answer {status} {media}: {_described(content.get('schema', {}))}"


def _field_lines(schema: Schema) -> Iterator[str]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        needed = " required" if name in required else ""
        yield f"{name}: {_described(field)}{needed}"


def _described(schema: Schema) -> str:
    """Return a schema's type with its limits."""
    limits = [f"{name}={schema[name]!r}" for name in LIMITS if name in schema]
    return " ".join([_type(schema), *limits])


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
