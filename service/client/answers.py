"""What the service answers, as typed models; fields that a newer service adds are passed by."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from service.client.problems import Problem

Item = TypeVar("Item")
Verdict = Literal["match", "uncertain", "no_match"]
SearchVerdict = Verdict | Literal["nothing_searched"]


class Answer(BaseModel):
    """Base of every answer: immutable, and tolerant of fields it does not know.

    Attributes:
        flags: fields that a header tells, by its name: whether it says `true`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    flags: ClassVar[Mapping[str, str]] = {}


class EnrolledImage(Answer):
    """What became of one image of an enrolment.

    Attributes:
        crop_id: the stored crop; None where `problem` says why the image was refused.
        identity, camera: as stored; None where unknown.
        duplicate: the same bytes were there already, and `crop_id` is the older crop's.
        warnings: what to look at, such as the same picture under another identity.
        problem: why this image was refused.
    """

    crop_id: str | None = None
    identity: str | None = None
    camera: str | None = None
    duplicate: bool = False
    warnings: list[Any] = []
    problem: Problem | None = None


class Enrolment(Answer):
    """One entry per image, in the order they were sent.

    Attributes:
        gallery_version: the gallery's version once they had landed; None where none did.
        replayed: the same request happened before, and this is what was answered then.
    """

    flags = {"replayed": "Idempotent-Replayed"}

    gallery_version: int | None = None
    results: list[EnrolledImage]
    replayed: bool = False


class CalibrationState(Answer):
    """What verdicts and probabilities are made by.

    Attributes:
        state: `artefact`, `own` (fitted to the gallery's own searches), `frozen` or `off`.
        reason: why they are the artefact's (`few_searches`, `few_identities`, `shallow_search`) or
            less certain (`extrapolated`); None for neither.
        searches: how many they are fitted to, or are kept before the first fit.
        version: changes whenever verdicts may; None where nothing is loaded for the gallery.
        date: of the fit.
    """

    state: str
    reason: str | None = None
    searches: int = 0
    version: str | None = None
    date: datetime | None = None


class RankedCrop(Answer):
    """One row of a ranking.

    Attributes:
        rank: from 1.
        cosine: similarity of the two features, −1 to 1.
        pair_logit: M-Net's score, higher means the same person; None beyond `rerank_depth`.
        probability: of one person at even odds, 0 to 1, rising with the score alone; None where the
            row was not scored.
        verdict: what the operating point makes of this row's score: an interval of `probability`.
        external_id, metadata: as enrolled; None in an answer that is `stale` too.
    """

    rank: int
    crop_id: str
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    external_id: str | None = None
    metadata: dict[str, Any] | None = None
    cosine: float
    pair_logit: float | None = None
    probability: float | None = None
    verdict: Verdict | None = None
    image_url: str | None = None


class Ranking(Answer):
    """The answer to one query.

    Attributes:
        scoring: what orders the results; None from an older service.
        verdict: whether the best row reaches the operating point's threshold for this gallery;
            `nothing_searched` where no crop passed the filter, as in an empty gallery.
        calibration: what verdicts and probabilities are made by.
        warnings: what is poor of the images that were sent, and which of several were left out.
        candidates_scored: how many rows M-Net scored.
        timing_ms: milliseconds of each stage, by its name, and of the whole as `total`.
        stale: the service answered from memory, as its record did not answer.
    """

    gallery_version: int
    calibration_version: int | str | None = None
    calibration: CalibrationState | None = None
    model: str | dict[str, Any] | None = None
    scoring: str | None = None
    verdict: SearchVerdict
    warnings: list[str] = []
    results: list[RankedCrop]
    candidates_scored: int = 0
    timing_ms: dict[str, float] = {}
    stale: bool = False


class Crop(Answer):
    """A stored crop, without its picture.

    Attributes:
        sha256: of the file as it was sent.
        content_type, image_url: of its picture; None where that was not kept.
        created_at: when it was enrolled.
    """

    crop_id: str
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    external_id: str | None = None
    metadata: dict[str, Any] | None = None
    sha256: str | None = None
    content_type: str | None = None
    created_at: datetime | None = None
    image_url: str | None = None


class Page(Answer, Generic[Item]):
    """One page of a listing; `next_cursor` is None on the last."""

    results: list[Item]
    next_cursor: str | None = None


class Removal(Answer):
    """How many crops a deletion removed, from `gallery_version` on; None where it went too."""

    gallery_version: int | None = None
    removed: int = 0


class Explanation(Answer):
    """What each region of two images did to their score.

    Attributes:
        scoring: which score.
        score: of the pair.
        grid: rows and columns of equal cells that each image, upright, is divided into.
        first, second: how much higher the score is than with that cell of that image hidden, a row
            for each row of cells from the top; positive spoke for one person, negative for two.
    """

    scoring: str
    score: float
    grid: tuple[int, int]
    first: list[list[float]]
    second: list[list[float]]


class Embedding(Answer):
    """One image's feature, not of unit length, or why it has none."""

    embedding: tuple[float, ...] | None = None
    problem: Problem | None = None


class Embeddings(Answer):
    """Features of images, in order.

    Attributes:
        embedding_fingerprint: of the embedder; only features of the same one can be compared.
        dimension: d, numbers in a feature.
    """

    embedding_fingerprint: str
    dimension: int
    results: tuple[Embedding, ...]


class PairScore(Answer):
    """How alike two images are.

    Attributes:
        cosine: −1 to 1.
        logit: M-Net's score, higher means the same person; None where the artefact has no M-Net.
        probability: of one person at even odds, 0 to 1.
        judged_as: `pair`, or with a gallery `search`: as a result of a search of it.
        calibration: the gallery's; None for a pair.
        explanation: which regions spoke for and against, in the score's units; None unless asked.
    """

    cosine: float
    logit: float | None = None
    probability: float
    verdict: Verdict
    judged_as: str = "pair"
    calibration: CalibrationState | None = None
    explanation: Explanation | None = None


class ModelDescription(Answer):
    """The served artefact's own description, with every field that the service gives.

    Attributes:
        artefact: its name.
        provenance: what its weights come from: `terms`, `data`, and more.
        previous: artefacts that answer for galleries until they are reindexed.
        scorings: those that the artefact offers.
        default_scoring: what ranks where none is asked for.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    embedding_fingerprint: str
    artefact_fingerprint: str
    artefact: str | None = None
    provenance: dict[str, Any] = {}
    previous: tuple[str, ...] = ()
    scorings: tuple[str, ...] = ()
    default_scoring: str | None = None
    device: str | None = None
    runtime: str | None = None
    dtype: str | None = None
    crops_per_second: dict[str, float] = {}
