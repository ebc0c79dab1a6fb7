"""Comparison of two images: score, probability, verdict, and contributions of regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gmn_client.models import CalibrationState, Explanation, PairScore
from model.arrays import Array, Floats, Pixels
from model.calibration import PAIR_OPERATING_POINTS, SEARCH_OPERATING_POINTS, Scoring
from model.centring import CameraMeans
from model.crops.decode import CropProblem
from model.explanation import CELLS, COLUMNS, ROWS, explain, variants
from service.engine.admission import PER_IMAGE, Admission
from service.engine.device import DeviceThread, EmbeddedImage, retry_out_of_memory
from service.engine.networks import LoadedModel
from service.errors import InvalidField, UnusableImages
from service.gallery.registry import GalleryRegistry
from service.index.centring import centre_features
from service.ops.metrics import Metrics
from service.search.calibration import GalleryCalibrations, Judge
from service.search.means import StoredMeans
from service.search.options import PairOptions

VARIANTS = 1 + CELLS
# Other requests' work runs between two passes, each of about 50 ms on a CPU.
VARIANTS_PER_PASS = 3


@dataclass(frozen=True)
class PairScoring:
    """Scores pairs of features.

    Attributes:
        model: the model that made the features.
        means: means of the gallery by which pairs are judged; None without centring.
    """

    model: LoadedModel
    means: StoredMeans | None

    def score(self, feature: Floats, others: Floats) -> dict[Scoring, Floats]:
        """Compute all scores `(n,)` of a feature `(d,)` with others `(n, d)`, on the device thread.

        Cosines are those of vectors without the mean of the whole gallery: a pair has no camera.
        """
        p = self._compared(feature[None])[0]
        # The square root of the product is the same in either order of the two images.
        cosines = [p @ q / np.sqrt((p @ p) * (q @ q)) for q in self._compared(others)]
        scores: dict[Scoring, Floats] = {"cosine": np.clip(cosines, -1.0, 1.0).astype(np.float32)}
        if "mnet" in self.model.description.scorings:
            scores["mnet"] = self.model.networks.pair_scores(feature[None], others)
        return scores

    def _compared(self, features: Floats) -> Array:
        if self.means is None:
            return features.astype(np.float64)
        of_gallery = CameraMeans(self.means.named.gallery, {})
        return centre_features(features, np.zeros(len(features), np.int32), of_gallery)


@dataclass(frozen=True)
class PairComparison:
    """Compares two images.

    Attributes:
        models: the loaded models by the fingerprint of their embedder, the served one first.
    """

    models: Mapping[str, LoadedModel]
    galleries: GalleryRegistry
    calibrations: GalleryCalibrations
    device: DeviceThread
    admission: Admission
    metrics: Metrics

    async def compare(self, first: bytes, second: bytes, options: PairOptions) -> PairScore:
        """Compare two images; the result does not depend on their order.

        Raises:
            InvalidField: the operating point does not fit the kind of comparison, or the artefact
                does not offer the scoring.
            UnusableImages: an image cannot be embedded.
            UnknownGallery, NeedsReindex: the gallery's calibration cannot be used.
            QueueFull, TooCostly: nothing was compared.
        """
        gallery = None
        model = next(iter(self.models.values()))
        if options.gallery is not None:
            gallery = await self.galleries.find(options.gallery)
            model = self.models[gallery.embedder]
        scoring = options.scoring or model.description.default_scoring
        model.require_scoring(scoring)
        point = _choose_operating_point(options)
        # The calibration is fixed before the images are embedded, as in a search.
        current = self.calibrations.current(gallery, scoring) if gallery else None
        cost = model.pipeline.cost([first, second])
        if options.explain:
            cost += 2 * VARIANTS * PER_IMAGE
        self.admission.require_affordable(cost, "images, explain", "smaller images")
        async with self.admission.admit(cost):
            embedded = await model.pipeline.embed([first, second])
            vectors = [image.vector for image in embedded if isinstance(image, EmbeddedImage)]
            if len(vectors) < 2:
                raise UnusableImages(embedded)
            score_pairs = PairScoring(model, current.means if current else None)
            scores = await self.device.run(score_pairs.score, vectors[0], vectors[1][None])
            explanation = None
            if options.explain:
                explanation = await self.explain(score_pairs, [first, second], scoring)
        score = float(scores[scoring][0])
        if gallery and current:
            level = current.published.level if current.published else None
            identities = await self.galleries.read(gallery.index.identities)
            judge = current.judge(point, identities.total, level, crops=gallery.crops)
        else:
            pairs = model.description.calibration.scorings[scoring]
            uncertain = pairs.pair_threshold(max(PAIR_OPERATING_POINTS.values()))
            match = pairs.pair_threshold(PAIR_OPERATING_POINTS[point])
            state = CalibrationState(state="artefact", version=model.calibration_version)
            judge = Judge(match, uncertain, pairs.probability, state)
        return PairScore(
            cosine=float(scores["cosine"][0]),
            logit=float(scores["mnet"][0]) if "mnet" in scores else None,
            probability=float(judge.probability(np.array(score))),
            verdict=judge.verdict(score),
            needed=judge.needed,
            judged_as="search" if gallery else "pair",
            calibration_version=str(judge.state.version),
            model=model.description.artefact_fingerprint,
            calibration=judge.state if gallery else None,
            explanation=explanation,
        )

    async def explain(
        self, score_pairs: PairScoring, images: Sequence[bytes], scoring: Scoring
    ) -> Explanation:
        """Hide each region of both images in turn and score the remainder.

        Each pass embeds variants of one image and has a fixed size, so that the results do not
        depend on other requests. No further pass starts once the task is cancelled. The caller's
        images have been admitted.

        Args:
            score_pairs: computes the scores.
            images: two images that could be embedded.
            scoring: the scoring that is explained.

        Raises:
            UnusableImages: the model has no finite vector for a variant.
        """
        model = score_pairs.model
        crops = [await model.pipeline.resize(image) for image in images]
        features = [await self._embed_variants(model, crop) for crop in crops]
        usable = [bool(np.isfinite(feature).all()) for feature in features]
        if not all(usable):
            problem = CropProblem(
                "not_embedded",
                "the model gives no finite vector for a part of it; ask without explain",
            )
            raise UnusableImages([None if good else problem for good in usable])

        def scores(feature: Floats, others: Floats) -> Floats:
            return score_pairs.score(feature, others)[scoring]

        explanation = await self.device.run(explain, features[0], features[1], scores)
        return Explanation(
            scoring=scoring,
            score=explanation.score,
            grid=(ROWS, COLUMNS),
            first=explanation.first.tolist(),
            second=explanation.second.tolist(),
        )

    async def _embed_variants(self, model: LoadedModel, crop: Pixels) -> Floats:
        parts: list[Floats] = []
        for start in range(0, VARIANTS, VARIANTS_PER_PASS):
            numbers = range(start, start + VARIANTS_PER_PASS)
            batch = await model.pipeline.threads.run(variants, crop, numbers)
            embedding = self.device.run(retry_out_of_memory, model.networks.runtime.embed, batch)
            parts.append(await embedding)
            self.metrics.images_embedded.inc(len(batch))
        return np.concatenate(parts)[:VARIANTS]


def _choose_operating_point(options: PairOptions) -> str:
    if options.gallery is None:
        offered = PAIR_OPERATING_POINTS
        default = "pair_far_1e-3"
        judged = "a pair; send a gallery for those of searches"
    else:
        offered = SEARCH_OPERATING_POINTS
        default = "far_1e-2"
        judged = "a search"
    point = options.operating_point or default
    if point not in offered:
        raise InvalidField(
            f"operating_point: {point} is not one of {', '.join(offered)}, which judge {judged}"
        )
    return point
