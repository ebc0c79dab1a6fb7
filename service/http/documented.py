"""The OpenAPI document's answers: the problems of a call with an example of each, and examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from service.errors import problem

MEDIA_TYPE = "application/problem+json"
EXAMPLES = json.loads(Path(__file__).with_name("examples.json").read_text(encoding="utf-8"))
REQUEST_ID = "5f0c2b7d9e1a4c38"
Responses = dict[int | str, dict[str, Any]]


def example(answer: str) -> dict[str, Any]:
    """The example of an answer, for a route's `responses`."""
    return {"content": {"application/json": {"example": EXAMPLES["answers"][answer]}}}


def problems(*codes: str, among: Responses | None = None) -> Responses:
    """The answers that are problems of these codes, for a route's `responses`.

    Args:
        codes: keys of `problems` in examples.json.
        among: answers that these come after, by status.
    """
    responses = dict(among or {})
    for code in codes:
        document = problem(code, **EXAMPLES["problems"][code], request_id=REQUEST_ID)
        empty = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
        answer = responses.setdefault(document.status, {"content": {MEDIA_TYPE: empty}})
        shown = answer["content"][MEDIA_TYPE]["examples"]
        shown[code] = {"value": document.model_dump(mode="json", exclude_none=True)}
        titles = (one["value"]["title"] for one in shown.values())
        answer["description"] = ", or ".join(titles) + "."
    return dict(sorted(responses.items()))
