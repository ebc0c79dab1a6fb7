"""Runs calls side by side, a few at a time, and hands on what they answer in their order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")


async def in_order(
    calls: Iterable[Callable[[], Coroutine[Any, Any, Result]]], at_once: int
) -> AsyncGenerator[Result, None]:
    """Yields each call's answer, in the order of the calls.

    Args:
        calls: taken one by one, at most `at_once` ahead of what was yielded.
        at_once: how many run at a time.

    Raises:
        BaseException: what the first call that fails raises, in its turn; those under way are
            cancelled. So they are where the generator is closed early.
    """
    running: deque[asyncio.Task[Result]] = deque()
    try:
        for call in calls:
            running.append(asyncio.create_task(call()))
            if len(running) == at_once:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
