"""Upgrades: galleries that another artefact filled, which one answers for them, and what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING

from model.artefact import artefact_name, read_description, shipped_artefacts
from service.gallery.gallery import Gallery
from service.record.records import CropFilter, GalleryRecord

if TYPE_CHECKING:
    from service.runtime import Runtime

CROPS_PER_PAGE = 1000


def shipped_fillers(galleries: Iterable[GalleryRecord], loaded: Collection[str]) -> list[str]:
    """Names of the shipped artefacts that galleries were filled by and that are not loaded.

    Args:
        galleries: every gallery of the record.
        loaded: fingerprints of the loaded embedders.
    """
    wanted = {one.embedding_fingerprint for one in galleries if one.crops} - set(loaded)
    if not wanted:
        return []
    fillers = {
        read_description(file).embedding_fingerprint: artefact_name(file)
        for file in shipped_artefacts().values()
    }
    return [name for embedder, name in fillers.items() if embedder in wanted]


async def upgrade_advice(runtime: Runtime, options: str = "") -> list[str]:
    """Sentences about the galleries that another artefact than the served one filled.

    Args:
        runtime: of the service.
        options: of the command line that reaches the service, such as `--url URL`.

    Raises:
        RecordUnavailable: the record does not answer.
    """
    outdated = [gallery for gallery in runtime.galleries.all() if gallery.outdated]
    if not outdated:
        return []
    lines = []
    for name, galleries in _by_artefact(runtime, outdated).items():
        lines.append(f"Filled by {name}, which answers until they are reindexed: {galleries}")
    unanswered = [gallery.name for gallery in outdated if gallery.needs_reindex]
    if unanswered:
        lines.append(
            "Filled by an artefact that is not loaded, so that they are not searched until they "
            f"are reindexed, or until --previous names it: {', '.join(unanswered)}"
        )
    without = [gallery for gallery in outdated if await _lacks_pictures(runtime, gallery)]
    if len(without) < len(outdated):
        command = f"gmn reindex --all --wait {options}".strip()
        lines.append(f"To go over to {runtime.model.name}: {command}")
    for name, galleries in _by_artefact(runtime, without).items():
        lines.append(
            f"Not every picture was kept, so that only {name} can answer; enroll anew, or stay "
            f"with gmn serve --artefact {name}: {galleries}"
        )
    unknown = [gallery.name for gallery in without if gallery.needs_reindex]
    if unknown:
        lines.append(
            "Not every picture was kept, so that only the artefact that filled them can answer; "
            f"enroll anew, or serve that artefact: {', '.join(unknown)}"
        )
    return lines


def _by_artefact(runtime: Runtime, galleries: Iterable[Gallery]) -> dict[str, str]:
    """The names of galleries, comma-separated, by the loaded artefact that answers for them."""
    answered: dict[str, list[str]] = {}
    for gallery in galleries:
        if not gallery.needs_reindex:
            answered.setdefault(runtime.model_of(gallery).name, []).append(gallery.name)
    return {name: ", ".join(own) for name, own in answered.items()}


async def _lacks_pictures(runtime: Runtime, gallery: Gallery) -> bool:
    """Whether the picture of any crop was not kept."""
    crops, after = runtime.record.crops, 0
    while True:
        page = await runtime.galleries.read(
            partial(crops.page, gallery.gallery_id, CropFilter(), after, CROPS_PER_PAGE)
        )
        if not page:
            return False
        if any(crop.content_type is None for crop in page):
            return True
        after = page[-1].row_id
