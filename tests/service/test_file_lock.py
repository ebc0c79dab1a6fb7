"""A critical section and the lock that it holds among processes."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from service.ops.critical_sections import CriticalSections, file_lock
from tests.service.locks import is_held

LONGEST_SECONDS = 30.0
TURNS = 20


async def test_sections_that_wait_for_a_lock_open_no_files_and_are_not_begun_once_cancelled(
    tmp_path,
):
    path = tmp_path / "lock"
    begun = []

    def open_files():
        """Count the open files of the lock: threads of other tests have their own."""
        opened = Path("/proc/self/fd").iterdir()
        return sum(os.path.realpath(file) == str(path.resolve()) for file in opened)

    async def section():
        begun.append(True)

    async with file_lock(path):
        before = open_files()
        waiting = [asyncio.create_task(CriticalSections().run(section(), path)) for _ in range(10)]
        # Some ten attempts each.
        await asyncio.sleep(0.5)
        assert open_files() == before
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert all(task.cancelled() for task in waiting)
        assert open_files() == before
    assert not begun
    assert not await is_held(path)


async def test_the_service_waits_for_sections_of_clients_that_left_before_it_closes():
    sections = CriticalSections()
    finish = asyncio.Event()
    request = asyncio.create_task(sections.run(finish.wait()))
    await asyncio.sleep(0)
    request.cancel()
    closing = asyncio.create_task(sections.ended())
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert not closing.done()
    finish.set()
    await asyncio.wait_for(closing, LONGEST_SECONDS)
    await asyncio.gather(request, return_exceptions=True)


async def test_a_lock_is_held_by_one_process_and_is_free_once_that_process_is_killed(tmp_path):
    path = tmp_path / "lock"
    hold = (
        "import asyncio, sys; from pathlib import Path\n"
        "from service.ops.critical_sections import CriticalSections\n"
        "async def section(): print('held', flush=True); await asyncio.sleep(600)\n"
        "asyncio.run(CriticalSections().run(section(), Path(sys.argv[1])))"
    )

    async def section():
        return "mine"

    other = subprocess.Popen([sys.executable, "-c", hold, path], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        assert await is_held(path)
        mine = asyncio.create_task(CriticalSections().run(section(), path))
        await asyncio.sleep(0.1)
        assert not mine.done()
    finally:
        other.kill()
        other.communicate()
    assert await asyncio.wait_for(mine, LONGEST_SECONDS) == "mine"
