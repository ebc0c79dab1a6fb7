"""One lock for tasks and processes."""

from __future__ import annotations

import asyncio

from service.file_lock import FileLock, held_file


def test_it_is_held_by_one_at_a_time_whichever_process_asks(tmp_path):
    path = tmp_path / "lock"
    # Two of them stand for two processes: the system tells them apart by how the file was opened.
    one, other = FileLock(path), FileLock(path)
    held: list[str] = []

    async def hold(lock: FileLock, name: str) -> None:
        for _ in range(3):
            async with lock:
                held.append(name)
                await asyncio.sleep(0.01)
                assert held.pop() == name
                assert not held

    async def all_of_them() -> None:
        await asyncio.gather(hold(one, "a"), hold(one, "b"), hold(other, "c"))

    asyncio.run(all_of_them())


def test_whoever_gives_up_waiting_holds_nothing(tmp_path):
    path = tmp_path / "lock"

    async def give_up() -> None:
        with held_file(path) as free:
            assert free
            waiting = asyncio.create_task(FileLock(path).__aenter__())
            await asyncio.sleep(0.02)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            with held_file(path) as twice:
                assert not twice
        with held_file(path) as again:
            assert again

    asyncio.run(give_up())
