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
        options: of the command line that reaches the service, such as `--url URL`.

    Raises:
        RecordUnavailable: the record does not answer.
    """
    outdated = [gallery for gallery in runtime.galleries.all() if gallery.outdated]
    if not outdated:
        return []
    lines = [
        f"Filled by {name}, which answers until they are reindexed: {galleries}"
        if name
        else "Filled by an artefact that is not loaded, so that they are not searched until they "
        f"are reindexed, or until --previous names it: {galleries}"
        for name, galleries in _by_artefact(runtime, outdated)
    ]
    without = [gallery for gallery in outdated if await _lacks_pictures(runtime, gallery)]
    if len(without) < len(outdated):
        command = f"gmn reindex --all --wait {options}".strip()
        lines.append(f"To go over to {runtime.model.name}: {command}")
    lines += [
        "Not every picture was kept, so that only "
        + (
            f"{name} can answer; enroll anew, or stay with gmn serve --artefact {name}: {galleries}"
            if name
            else "the artefact that filled them can answer; enroll anew, or serve that artefact: "
            f"{galleries}"
        )
        for name, galleries in _by_artefact(runtime, without)
    ]
    return lines


def _by_artefact(runtime: Runtime, galleries: Iterable[Gallery]) -> list[tuple[str, str]]:
    """Artefacts and the names of the galleries they answer for; the last may be "", for none."""
    answered: dict[str, list[str]] = {}
    for gallery in galleries:
        name = "" if gallery.needs_reindex else runtime.model_of(gallery).name
        answered.setdefault(name, []).append(gallery.name)
    ordered = sorted(answered.items(), key=lambda one: not one[0])
    return [(name, ", ".join(own)) for name, own in ordered]


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
