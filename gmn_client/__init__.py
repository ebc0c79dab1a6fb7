"""Client of the person re-identification service; needs neither torch nor numpy.

The types of its answers are in `gmn_client.models`.

Example:
    >>> from gmn_client import Client, Image
    >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
    ...     client.enroll([Image("a.jpg", identity="7")])
    ...     print(client.query("b.jpg", top_k=5).verdict)
"""

from gmn_client.client import AsyncClient as AsyncClient
from gmn_client.client import Client as Client
from gmn_client.client import Retries as Retries
from gmn_client.errors import GmnError as GmnError
from gmn_client.errors import InvalidInput as InvalidInput
from gmn_client.errors import KeyRefused as KeyRefused
from gmn_client.errors import ProblemError as ProblemError
from gmn_client.errors import RequestRefused as RequestRefused
from gmn_client.errors import ServiceFailed as ServiceFailed
from gmn_client.errors import ServiceUnreachable as ServiceUnreachable
from gmn_client.methods import QueryOptions as QueryOptions
from gmn_client.uploads import DEFAULT_GALLERY as DEFAULT_GALLERY
from gmn_client.uploads import DEFAULT_URL as DEFAULT_URL
from gmn_client.uploads import Image as Image
