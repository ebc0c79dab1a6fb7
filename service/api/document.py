"""What FastAPI cannot say of the calls: errors, links, and what of a body may be left out."""

from __future__ import annotations

from typing import Any

from service.api.links import link_calls
from service.api.schemas.base import Problem

# Calls whose fields may all be query parameters; the others need an image.
WITHOUT_A_BODY = (
    ("/v1/galleries", "post"),
    ("/v1/galleries/{gallery}", "patch"),
    ("/v1/galleries/{gallery}/identities/{identity}", "patch"),
    ("/v1/galleries/{gallery}/imports", "post"),
    ("/v1/galleries/{gallery}/queries", "post"),
)
# Of forms that need images, how many. It is checked where they are read, in words that say what to
# do, and not by the forms themselves.
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
    schemas["Problem"] = Problem.model_json_schema()
    for path, method in WITHOUT_A_BODY:
        document["paths"][path][method]["requestBody"]["required"] = False
    for form, how_many in IMAGES.items():
        schemas[form]["required"] = ["images"]
        images = schemas[form]["properties"]["images"]
        images |= how_many
        images.pop("default", None)
    link_calls(document)
