"""The client for programs and scripts that wait."""

from __future__ import annotations

from service.client.answers import ModelDescription
from service.client.calls import model_calls
from service.client.problems import ProblemError, ServiceUnreachable
from service.client.synchronous.crops import CropCalls
from service.client.synchronous.galleries import GalleryCalls
from service.client.synchronous.jobs import JobCalls
from service.client.transport import Retries


class Client(CropCalls, GalleryCalls, JobCalls):
    """Talks to one service; several threads may share it.

    Use it in a `with` block, or call `close()`.

    Example:
        >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
        ...     client.enroll([Image("a.jpg", identity="7")])
        ...     print(client.query("b.jpg", top_k=5).verdict)

    Args:
        url: where the service is.
        api_key: sent as a bearer token.
        gallery: the gallery that calls mean unless they name another.
        timeout: seconds that an answer may take; what may take minutes, such as a restore, has ten.
        retries: what to do about 429 and 503, and about an answer that was lost where asking for it
            again changes nothing twice.
        transport: how requests travel; httpx's own unless given.

    Every call raises `RequestRefused` for a 4xx answer, `ServiceFailed` for a 5xx one or a 429 that
    outlasted the retries, and `ServiceUnreachable` where no such service answers.
    """

    def model(self) -> ModelDescription:
        """The served artefact's own description."""
        return self._send(model_calls.describe())

    def ready(self) -> bool:
        """Whether the service takes requests now; False also where nothing answers."""
        try:
            self._send(model_calls.ready(), Retries(attempts=1))
        except (ProblemError, ServiceUnreachable):
            return False
        return True
