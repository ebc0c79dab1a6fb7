"""A few requests at a time, answers in the order of the questions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Question = TypeVar("Question")
Reply = TypeVar("Reply")


def in_flight(
    ask: Callable[[Question], Reply], questions: Iterable[Question], at_once: int
) -> Iterator[Reply]:
    """Calls `ask` in threads, at most `at_once` at a time; `questions` are drawn as they go out.

    Raises:
        Exception: the first that `ask` raised; questions not yet asked are dropped.
    """
    waiting: deque[Future[Reply]] = deque()
    with ThreadPoolExecutor(at_once) as threads:
        try:
            for question in questions:
                if len(waiting) >= at_once:
                    yield waiting.popleft().result()
                waiting.append(threads.submit(ask, question))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
