"""The service's client: `Client` and `AsyncClient`; needs neither torch nor numpy."""

from service.client.answers import (
    Crop,
    EnrolledImage,
    Enrolment,
    Explanation,
    Gallery,
    ModelDescription,
    PairScore,
    RankedCrop,
    Ranking,
    Removal,
    Verdict,
)
from service.client.asynchronous import AsyncClient
from service.client.calls import Image, QueryOptions
from service.client.problems import (
    KeyRefused,
    Problem,
    ProblemError,
    RequestRefused,
    ServiceFailed,
    ServiceUnreachable,
)
from service.client.synchronous import DEFAULT_GALLERY, DEFAULT_URL, Client
from service.client.transport import Retries

__all__ = [
    "DEFAULT_GALLERY",
    "DEFAULT_URL",
    "AsyncClient",
    "Client",
    "Crop",
    "EnrolledImage",
    "Enrolment",
    "Explanation",
    "Gallery",
    "Image",
    "KeyRefused",
    "ModelDescription",
    "PairScore",
    "Problem",
    "ProblemError",
    "QueryOptions",
    "RankedCrop",
    "Ranking",
    "Removal",
    "RequestRefused",
    "Retries",
    "ServiceFailed",
    "ServiceUnreachable",
    "Verdict",
]
