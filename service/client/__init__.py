"""The service's client: `Client` and `AsyncClient`; needs neither torch nor numpy."""

from service.client.answers import (
    CalibrationState,
    Crop,
    Embedding,
    Embeddings,
    EnrolledImage,
    Enrolment,
    Explanation,
    ModelDescription,
    PairScore,
    RankedCrop,
    Ranking,
    Removal,
    SearchVerdict,
    Verdict,
)
from service.client.asynchronous import AsyncClient
from service.client.calls import Image, QueryOptions, Upload
from service.client.gallery_answers import (
    Forgetting,
    Gallery,
    GalleryCalibration,
    Identity,
    Relabelling,
    Remainder,
    Restoration,
    Snapshot,
)
from service.client.job_answers import Job, JobProblem, JobProgress
from service.client.problems import (
    KeyRefused,
    Problem,
    ProblemError,
    RequestRefused,
    ServiceFailed,
    ServiceUnreachable,
)
from service.client.synchronous import Client
from service.client.transport import DEFAULT_GALLERY, DEFAULT_URL, Retries

__all__ = [
    "DEFAULT_GALLERY",
    "DEFAULT_URL",
    "AsyncClient",
    "CalibrationState",
    "Client",
    "Crop",
    "Embedding",
    "Embeddings",
    "EnrolledImage",
    "Enrolment",
    "Explanation",
    "Forgetting",
    "Gallery",
    "GalleryCalibration",
    "Identity",
    "Image",
    "Job",
    "JobProblem",
    "JobProgress",
    "KeyRefused",
    "ModelDescription",
    "PairScore",
    "Problem",
    "ProblemError",
    "QueryOptions",
    "RankedCrop",
    "Ranking",
    "Relabelling",
    "Remainder",
    "Removal",
    "RequestRefused",
    "Restoration",
    "Retries",
    "SearchVerdict",
    "ServiceFailed",
    "ServiceUnreachable",
    "Snapshot",
    "Upload",
    "Verdict",
]
