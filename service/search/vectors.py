"""Queries by a vector in place of images: its text, and the embedder that it has to be of."""

from __future__ import annotations

import base64
import json

import numpy as np
from numpy.typing import NDArray

from service.engine.networks import LoadedModel
from service.errors import InvalidField
from service.search.options import QueryOptions

# Ten times what the largest features need; a longer text would keep the event loop.
MOST_CHARACTERS = 512 * 1024


def sent_vector(options: QueryOptions, gallery: str, model: LoadedModel) -> NDArray[np.float32]:
    """The vector of a query, `(1, d)`.

    Args:
        gallery: the name of the one that is searched.
        model: whose vectors it holds.

    Raises:
        InvalidField: for a text that is no vector, or a vector of another embedder.
    """
    vector, own = _read(options.vector or ""), model.embedder
    sent_as = options.embedding_fingerprint
    if sent_as is None:
        raise InvalidField(
            "embedding_fingerprint: is missing; send the one that the vector was answered with"
        )
    dimension = model.networks.dimension
    if sent_as != own or vector.shape != (dimension,):
        raise InvalidField(
            f"vector, embedding_fingerprint: a vector of {len(vector)} dimensions is sent as of "
            f"embedder {sent_as[:12]!r}, and gallery {gallery!r} holds those of {own[:12]!r} "
            f"({model.name}, {dimension} dimensions), which others cannot be compared with; send "
            "the image, or a vector that this gallery or POST /v1/embeddings answers"
        )
    return vector[None]


def _read(text: str) -> NDArray[np.float32]:
    vector = np.zeros(0, np.float32)
    try:
        if len(text) > MOST_CHARACTERS:
            raise ValueError
        with np.errstate(over="ignore"):
            if text.lstrip().startswith("["):
                vector = np.array(json.loads(text), np.float32)
            else:
                vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except (ValueError, TypeError, RecursionError):
        pass
    if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
        raise InvalidField(
            f"vector: {text[:40]!r} is no vector; send a JSON array of finite numbers that are not "
            "all 0, or their float32 bytes, little-endian, in base64"
        )
    return vector.astype(np.float32)
