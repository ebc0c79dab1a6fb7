"""Query: rank a gallery by likeness to one person, by image or by a crop that it holds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gmn_client.answers import QueryAnswer, RankedCrop, Timing
from model.crops.decode import CropProblem
from model.problems import InputProblem
from model.search_calibration import SearchScores
from service.engine.batcher import EmbeddedImage
from service.engine.images import QualityGate
from service.engine.networks import LoadedModel
from service.errors import UnknownCrop, UnusableImages
from service.gallery.browse import image_url
from service.gallery.enroll import quality_gate
from service.gallery.gallery import Gallery
from service.runtime import Runtime
from service.search.calibrations import SearchJudge
from service.search.confirm import Searched, confirmed
from service.search.ranking import RankedRow, RankingOptions, rank


@dataclass(frozen=True)
class Answered:
    """A query's result before it is written as a `QueryAnswer`, which takes milliseconds.

    Attributes:
        gallery: its name.
        warnings: faults of the images that were sent, and which of several were left out.
    """

    gallery: str
    searched: Searched
    timing: Timing
    warnings: tuple[str, ...] = ()

    def answer(self) -> QueryAnswer:
        """The answer as it is sent; of thousands of results to be called in a thread."""
        ranking = self.searched.ranking
        return QueryAnswer(
            gallery_version=self.searched.version,
            calibration_version=str(ranking.calibration.version),
            calibration=ranking.calibration,
            model=self.searched.model.description.artefact_fingerprint,
            scoring=ranking.scoring,
            verdict=ranking.verdict,
            warnings=list(self.warnings),
            results=[self._row(rank, one) for rank, one in enumerate(ranking.results, 1)],
            candidates_scored=ranking.candidates_scored,
            timing_ms=self.timing,
            stale=self.searched.stale,
        )

    def _row(self, rank: int, one: RankedRow) -> RankedCrop:
        label, record = one.label, one.record
        return RankedCrop(
            rank=rank,
            crop_id=label.crop_id,
            identity=label.identity,
            camera=label.camera,
            captured_at=label.captured_at,
            external_id=record.external_id if record else None,
            metadata=record.metadata if record else None,
            cosine=one.cosine,
            pair_logit=one.pair_logit,
            probability=one.probability,
            verdict=one.verdict,
            image_url=image_url(self.gallery, label.crop_id),
        )


class _Switched(InputProblem):
    """The gallery went over to another embedder between the embedding and the search.

    Nothing failed: the device thread logs no `InputProblem`, and the query is embedded again.
    """


async def query_by_images(
    runtime: Runtime,
    gallery: str,
    images: Sequence[bytes],
    options: RankingOptions,
    learn: bool = True,
) -> Answered:
    """One query by one or several images of one person; a score is the mean over the images.

    An image that cannot be used is left out, and `warnings` names it.

    Args:
        runtime: of the service.
        gallery: what is searched.
        images: whole files.
        options: what is asked.
        learn: whether the caller's searches count for the gallery's calibration.

    Raises:
        UnusableImages: where every image is.
        UnknownGallery, NeedsReindex, InvalidField, QueueFull: nothing was searched.
    """
    began = time.perf_counter()
    target, gate = runtime.galleries.get(gallery), _warning_gate(runtime)
    with runtime.admission.image_slots(len(images)):
        while True:
            model = runtime.model_of(target)
            judge = runtime.calibrations.judge(target, options.scoring)
            embedded = await model.pipeline.embed(images, gate)
            usable = [one for one in embedded if isinstance(one, EmbeddedImage)]
            refused = [one for one in embedded if isinstance(one, CropProblem)]
            if not usable:
                raise UnusableImages(refused)
            with contextlib.suppress(_Switched):
                keep = learn and len(images) == 1
                answer = await _answer(
                    runtime, target, model, judge, usable, options, began, keep=keep
                )
                break
    for one in refused:
        runtime.metrics.problems.labels(one.code).inc()
    return replace(answer, warnings=_warnings(embedded))


async def query_each(
    runtime: Runtime,
    gallery: str,
    images: Sequence[bytes],
    options: RankingOptions,
    learn: bool = True,
) -> list[Answered | CropProblem]:
    """One answer per image, in order, by one calibration; a bad image is its own problem.

    Raises:
        UnknownGallery, NeedsReindex, InvalidField, QueueFull: nothing was searched.
    """
    began = time.perf_counter()
    target, gate = runtime.galleries.get(gallery), _warning_gate(runtime)
    with runtime.admission.image_slots(len(images)):
        while True:
            model = runtime.model_of(target)
            judge = runtime.calibrations.judge(target, options.scoring)
            embedded = await model.pipeline.embed(images, gate)
            usable = [one for one in embedded if isinstance(one, EmbeddedImage)]
            with contextlib.suppress(_Switched):
                ask = partial(_answer, runtime, target, model, judge, keep=learn)
                answered = await asyncio.gather(*(ask([one], options, began) for one in usable))
                break
    answers = (
        replace(answer, warnings=_warnings([one]))
        for answer, one in zip(answered, usable, strict=True)
    )
    return [one if isinstance(one, CropProblem) else next(answers) for one in embedded]


async def query_by_crop(
    runtime: Runtime, gallery: str, crop_id: str, options: RankingOptions
) -> Answered:
    """More like a crop of this gallery, which is itself left out.

    Raises:
        UnknownGallery, UnknownCrop, NeedsReindex, InvalidField, QueueFull: nothing was
            searched.
    """
    began = time.perf_counter()
    target = runtime.galleries.get(gallery)

    def search(options: RankingOptions) -> Searched:
        started = time.perf_counter()
        index = target.index
        row = index.table.row_of(crop_id)
        if row is None:
            raise UnknownCrop(gallery, crop_id)
        label = index.table.label(row)
        wanted = replace(options.wanted, without=options.wanted.without | {label.row_id})
        if options.camera_disjoint and label.camera is not None:
            wanted = replace(wanted, exclude_cameras=(*wanted.exclude_cameras, label.camera))
        vector = index.table.vectors[row : row + 1].copy()
        model = runtime.model_of(target)
        options = replace(options, wanted=wanted)
        judge = runtime.calibrations.judge(target, options.scoring)
        found = _search(target, model, judge, vector, options, started)
        return replace(found, asked=label)

    with runtime.admission.image_slots(1):
        asked = time.perf_counter()
        searched = await confirmed(runtime, target, options, _on_device(runtime, search))
    queue = searched.began - asked
    return _finish(target, searched, decode=0.0, queue=queue, embed=0.0, began=began)


def _warning_gate(runtime: Runtime) -> QualityGate | None:
    """The gate of an enrolment, but that a query is answered whatever its images look like."""
    gate = quality_gate(runtime.settings)
    return replace(gate, refuse=False) if gate else None


def _warnings(embedded: Sequence[EmbeddedImage | CropProblem]) -> tuple[str, ...]:
    """What is poor of images, and which cannot be used; of several each is named by its place."""
    warnings: list[str] = []
    for number, one in enumerate(embedded, 1):
        image = f"image {number}: " if len(embedded) > 1 else ""
        if isinstance(one, CropProblem):
            warnings.append(f"{image}left out of the search: {one.detail}")
        else:
            warnings.extend(f"{image}{fault.detail}" for fault in one.faults)
    return tuple(warnings)


async def _answer(
    runtime: Runtime,
    target: Gallery,
    model: LoadedModel,
    judge: SearchJudge,
    images: Sequence[EmbeddedImage],
    options: RankingOptions,
    began: float,
    *,
    keep: bool,
) -> Answered:
    vectors = np.stack([image.vector for image in images])
    keep = keep and target.settings.calibration == "on"

    def search(options: RankingOptions) -> Searched:
        started = time.perf_counter()
        if target.embedder != model.embedder:
            raise _Switched
        return _search(target, model, judge, vectors, options, started, keep=keep)

    asked = time.perf_counter()
    searched = await confirmed(runtime, target, options, _on_device(runtime, search))
    people = searched.ranking.people
    if people is not None:
        scores = SearchScores(people, searched.ranking.identities, time.time())
        runtime.kept_searches.keep(target.gallery_id, judge.subject, vectors[0], scores)
    return _finish(
        target,
        searched,
        decode=max(image.decode for image in images),
        queue=max(image.queue for image in images) + searched.began - asked,
        embed=max(image.embed for image in images),
        began=began,
    )


def _on_device(
    runtime: Runtime, search: Callable[[RankingOptions], Searched]
) -> Callable[[RankingOptions], Awaitable[Searched]]:
    return lambda options: asyncio.wrap_future(runtime.device.submit(partial(search, options)))


def _search(
    target: Gallery,
    model: LoadedModel,
    judge: SearchJudge,
    vectors: NDArray[np.float32],
    options: RankingOptions,
    began: float,
    *,
    keep: bool = False,
) -> Searched:
    ranking = rank(target.index, model.networks, judge, vectors, options, keep)
    return Searched(target.version, model, ranking, began)


def _finish(
    target: Gallery,
    searched: Searched,
    *,
    decode: float,
    queue: float,
    embed: float,
    began: float,
) -> Answered:
    timing = Timing(
        decode=decode * 1e3,
        queue=queue * 1e3,
        embed=embed * 1e3,
        search=searched.ranking.search_seconds * 1e3,
        rerank=searched.ranking.rerank_seconds * 1e3,
        total=(time.perf_counter() - began) * 1e3,
    )
    return Answered(target.name, searched, timing)
