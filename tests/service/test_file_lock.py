"""A critical section and the lock that it holds among processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from service.ops.critical_sections import CriticalSections, file_lock
from tests.service.locks import is_held

LONGEST_SECONDS = 30.0
TURNS = 20


def test_a_cancellation_takes_effect_while_a_section_waits_for_its_lock(tmp_path):
    path = tmp_path / "lock"
    begun = []

    async def section() -> None:
        begun.append(True)

    async def give_up() -> None:
        async with file_lock(path):
            waiting = asyncio.create_task(CriticalSections().run(section, path))
            for _ in range(TURNS):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert waiting.cancelled()
        assert not begun
        assert not await is_held(path)

    asyncio.run(give_up())


def test_a_section_that_fails_raises_and_releases_its_lock(tmp_path):
    async def section() -> None:
        raise ValueError("wrong")

    async def fail() -> None:
        with pytest.raises(ValueError, match="wrong"):
            await CriticalSections().run(section, tmp_path / "lock")
        assert not await is_held(tmp_path / "lock")

    asyncio.run(fail())


def test_the_service_waits_for_sections_of_clients_that_left_before_it_closes():
    async def stop() -> None:
        sections = CriticalSections()
        finish = asyncio.Event()
        done = []

        async def section() -> None:
            await finish.wait()
            done.append(True)

        request = asyncio.create_task(sections.run(section))
        await asyncio.sleep(0)
        request.cancel()
        closing = asyncio.create_task(sections.ended())
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert not closing.done()
        finish.set()
        await closing
        assert done

    asyncio.run(stop())


def test_waiting_for_a_lock_opens_no_more_files_however_long(tmp_path):
    path = tmp_path / "lock"

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def nothing() -> None: ...

    async def wait_and_give_up() -> None:
        async with file_lock(path):
            before = open_files()
            waiting = [
                asyncio.create_task(CriticalSections().run(nothing, path)) for _ in range(10)
            ]
            # Some ten attempts each.
            await asyncio.sleep(0.5)
            assert open_files() == before
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert open_files() == before

    asyncio.run(wait_and_give_up())


def test_a_lock_is_held_by_one_process_and_is_free_once_that_process_is_killed(tmp_path):
    path = tmp_path / "lock"
    hold = (
        "import asyncio, sys; from pathlib import Path\n"
        "from service.ops.critical_sections import CriticalSections\n"
        "async def section(): print('held', flush=True); await asyncio.sleep(600)\n"
        "asyncio.run(CriticalSections().run(section, Path(sys.argv[1])))"
    )

    async def wait() -> None:
        async def section() -> str:
            return "mine"

        other = subprocess.Popen([sys.executable, "-c", hold, path], stdout=subprocess.PIPE)
        try:
            assert other.stdout
            assert other.stdout.readline() == b"held\n"
            assert await is_held(path)
            mine = asyncio.create_task(CriticalSections().run(section, path))
            await asyncio.sleep(0.1)
            assert not mine.done()
        finally:
            other.kill()
            other.communicate()
        assert await asyncio.wait_for(mine, LONGEST_SECONDS) == "mine"

    asyncio.run(wait())
