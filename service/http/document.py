"""Completes the OpenAPI document: errors, files, and the first examples of form fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gmn_client.models import Problem

EXAMPLES = Path(__file__).with_name("examples.json")
FILE = {"type": "string", "format": "binary"}
# The call that changes nothing where its form is left out; every other form is needed.
WITHOUT_A_BODY = ("/v1/galleries/{gallery}", "patch")
# The guard reads this parameter, and not a route's function.
GALLERY = {
    "name": "gallery",
    "in": "path",
    "required": True,
    "schema": {
        "type": "string",
        "description": "A gallery's name.",
        "examples": ["default"],
        "title": "Gallery",
    },
    "description": "A gallery's name.",
}
# How many images a form needs. The calls check it, in words that say what to do, and not the forms.
IMAGES: dict[str, dict[str, int]] = {
    "EnrollForm": {"minItems": 1},
    "ImagesForm": {"minItems": 1},
    "PairForm": {"minItems": 2, "maxItems": 2},
}


def complete_document(document: dict[str, Any]) -> None:
    """Completes an OpenAPI document.

    Args:
        document: as FastAPI makes it; changed in place.
    """
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    # Referred to by every error, which no return type mentions.
    schemas["Problem"] = Problem.model_json_schema(mode="serialization")
    for name, example in json.loads(EXAMPLES.read_text(encoding="utf-8")).items():
        schemas[name]["example"] = example
    for form, how_many in IMAGES.items():
        schemas[form]["required"] = ["images"]
        schemas[form]["properties"]["images"] |= how_many
        schemas[form]["properties"]["images"].pop("default", None)
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            if "{gallery}" in path:
                call.setdefault("parameters", []).insert(0, GALLERY)
            if "requestBody" in call:
                call["requestBody"]["required"] = (path, method) != WITHOUT_A_BODY
                (content,) = call["requestBody"]["content"].values()
                _complete_form(schemas[content["schema"]["$ref"].rpartition("/")[2]])


def _complete_form(form: dict[str, Any]) -> None:
    """Makes files file pickers in `/docs`, and leaves empty what may be left out.

    `/docs` starts a field with its first example or its default, and with made-up text where there
    is neither. It takes for a file what has the format `binary`, which FastAPI leaves out.
    """
    fields = form["properties"]
    for name, field in fields.items():
        if name == "archive":
            fields[name] = {**FILE, "description": field["description"]}
        elif name == "images":
            field |= {"items": FILE, "examples": [[""] * field.get("minItems", 1)]}
        elif "anyOf" in field:
            # A form has no null: such a field is left out.
            field |= field.pop("anyOf")[0]
            _start_empty(field, "")
        elif field["type"] == "array":
            _start_empty(field, [])
            _start_empty(field["items"], "")
        elif field["type"] == "string" and "default" not in field:
            _start_empty(field, "")
        if "enum" in field:
            # An empty field counts as one that was not sent.
            field["enum"] = list(dict.fromkeys([*field["enum"], ""]))
    if "images" in fields:
        form["properties"] = {"images": fields.pop("images"), **fields}


def _start_empty(schema: dict[str, Any], empty: Any) -> None:
    examples = schema.setdefault("examples", [])
    if empty not in examples:
        examples.insert(0, empty)
