"""Calls that compare: queries against a gallery, and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypedDict

from model.problems import InputProblem
from service.client.answers import Embeddings, PairScore, Ranking
from service.client.calls.call import Call, given, path_to
from service.client.calls.images import ImageSource, named_bytes

Scoring = Literal["mnet", "cosine", "fused"]


class QueryOptions(TypedDict, total=False):
    """What a query may ask for; the service's defaults hold for what is left out.

    Attributes:
        top_k: how many results.
        rerank_depth: how many of them, from the top, M-Net scores.
        scoring: `mnet`, `cosine` or `fused`, as far as the artefact offers it.
        group_by: `crop`, or `identity` to count each person once.
        cameras, exclude_cameras: only, or not, crops of these cameras.
        captured_after, captured_before: only crops of this time, with time zone.
        operating_point: such as `far_1e-2`.
        camera: which camera took the images that are sent.
        camera_disjoint: whether to leave out the query's own camera.
        min_version: the gallery's version that the answer must show at least.
        purpose: why it is asked, kept in the service's audit log; up to 256 characters.
    """

    top_k: int
    rerank_depth: int
    scoring: Scoring
    group_by: Literal["crop", "identity"]
    cameras: Sequence[str]
    exclude_cameras: Sequence[str]
    captured_after: datetime
    captured_before: datetime
    operating_point: str
    camera: str
    camera_disjoint: bool
    min_version: int
    purpose: str


def query(gallery: str, images: Sequence[ImageSource], options: QueryOptions) -> Call[Ranking]:
    """One query; several images are one multi-shot query."""
    return Call(
        "POST",
        path_to("galleries", gallery, "queries"),
        Ranking,
        fields=given(options),
        images=_read(images),
        repeatable=True,
    )


def query_like(gallery: str, crop_id: str, options: QueryOptions) -> Call[Ranking]:
    """One query by a crop that is in the gallery already."""
    fields = {**given(options), "crop_id": crop_id}
    return Call(
        "POST", path_to("galleries", gallery, "queries"), Ranking, fields=fields, repeatable=True
    )


def pairs(
    first: ImageSource,
    second: ImageSource,
    explain: bool,
    scoring: Scoring | None,
    operating_point: str | None,
    gallery: str | None,
) -> Call[PairScore]:
    """Compares two images."""
    return Call(
        "POST",
        path_to("pairs"),
        PairScore,
        fields=given(
            {
                "explain": explain or None,
                "scoring": scoring,
                "operating_point": operating_point,
                "gallery": gallery,
            }
        ),
        images=_read([first, second]),
        repeatable=True,
    )


def embeddings(images: Sequence[ImageSource]) -> Call[Embeddings]:
    """The features of images, nothing stored."""
    return Call("POST", path_to("embeddings"), Embeddings, images=_read(images), repeatable=True)


def _read(images: Sequence[ImageSource]) -> tuple[tuple[str, bytes], ...]:
    if not images:
        raise InputProblem("query: no image was given; give at least one")
    return tuple(named_bytes(source) for source in images)
