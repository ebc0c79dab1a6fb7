"""The client for programs that run an event loop; the same calls as `Client`, awaited."""

from __future__ import annotations

from service.client.answers import ModelDescription
from service.client.asynchronous.crops import AsyncCropCalls
from service.client.asynchronous.galleries import AsyncGalleryCalls
from service.client.asynchronous.jobs import AsyncJobCalls
from service.client.calls import model_calls
from service.client.problems import ProblemError, ServiceUnreachable
from service.client.transport import Retries


class AsyncClient(AsyncCropCalls, AsyncGalleryCalls, AsyncJobCalls):
    """Talks to one service from an event loop; tasks may share it.

    Use it in an `async with` block, or call `close()`. Arguments, answers and errors are those of
    `Client`.
    """

    async def model(self) -> ModelDescription:
        """The served artefact's own description."""
        return await self._send(model_calls.describe())

    async def ready(self) -> bool:
        """Whether the service takes requests now; False also where nothing answers."""
        try:
            await self._send(model_calls.ready(), Retries(attempts=1))
        except (ProblemError, ServiceUnreachable):
            return False
        return True
