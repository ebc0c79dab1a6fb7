"""Client of the person re-identification service; needs neither torch nor numpy.

The types of its answers are in `gmn_client.models`.

Example:
    >>> from gmn_client import Client, Image
    >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
    ...     client.enroll(Image("a.jpg", identity="7"))
    ...     print(client.query("b.jpg", top_k=5).verdict)
"""

from gmn_client.client import AsyncClient, Client, Retries
from gmn_client.errors import (
    GmnError,
    InvalidInput,
    KeyRefused,
    ProblemError,
    RequestRefused,
    ServiceFailed,
    ServiceUnreachable,
)
from gmn_client.methods import QueryOptions
from gmn_client.uploads import DEFAULT_GALLERY, DEFAULT_URL, Image

__version__ = "0.7.0.dev0"

__all__ = [
    "DEFAULT_GALLERY",
    "DEFAULT_URL",
    "AsyncClient",
    "Client",
    "GmnError",
    "Image",
    "InvalidInput",
    "KeyRefused",
    "ProblemError",
    "QueryOptions",
    "RequestRefused",
    "Retries",
    "ServiceFailed",
    "ServiceUnreachable",
    "__version__",
]
