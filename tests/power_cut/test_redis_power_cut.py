"""Redis with the shipped configuration loses nothing that it acknowledged to a power cut."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.record.keys import ApiKey
from service.record.record import Record, open_redis
from service.record.values import CropFilter, GallerySettings
from tests.power_cut.acts import Act, Shown
from tests.power_cut.cuts import cut_and_check, differences
from tests.power_cut.disk import read_recording
from tests.power_cut.recording import build_recorder, recorded
from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop
from tests.service.redis_server import RedisServer, redis_server, require_redis
from tests.waiting import eventually

pytestmark = pytest.mark.slow


def _shown(store: Record) -> Shown:
    shown: Shown = {"keys": [key.key_id for key in store.keys.all()]}
    for gallery in store.galleries.all():
        number = gallery.gallery_id
        crops = store.crops.page(number, CropFilter(), limit=999).crops
        vectors = [one.vector.tobytes() for one in store.crops.vectors(number)]
        shown[f"version of {gallery.name}"] = gallery.version
        shown[f"crops of {gallery.name}"] = [
            (crop.crop_id, crop.identity, hashlib.sha256(vector).hexdigest())
            for crop, vector in zip(crops, vectors, strict=True)
        ]
        for crop in crops:
            assert store.crops.picture(number, crop.crop_id) is not None
    return shown


class _Story:
    """Does one thing after another on a Redis that is recorded."""

    def __init__(self, server: RedisServer) -> None:
        self.acts: list[Act] = []
        self._server = server
        with contextlib.closing(open_redis(server.url)) as store:
            self._store = store
            self._tell()

    def _tell(self) -> None:
        store = self._store
        lobby = self._act("create", lambda: self._create("lobby"))
        for first in range(0, 12, 3):
            crops = [new_crop(first + n, identity=f"p{n}") for n in range(3)]
            self._act("enrol", lambda crops=crops: store.crops.enroll(lobby, EMBEDDER, crops))
        held = store.crops.page(lobby, CropFilter(), limit=9).crops
        self._act("delete", lambda: store.crops.remove(lobby, [held[0].crop_id]))
        self._act("rewrite", self._rewrite)
        self._act("forget", lambda: store.identities.forget(lobby, "p1"))
        self._act("rename", lambda: store.identities.rename(lobby, "p2", "q"))
        yard = self._act("create again", lambda: self._create("yard"))
        self._act("enrol there", lambda: store.crops.enroll(yard, EMBEDDER, [new_crop(50)]))
        self._act("delete gallery", lambda: store.galleries.delete(yard))
        key = ApiKey("door", "0" * 64, ("query",), None, "", NOON)
        self._act("key", lambda: store.keys.add(key))
        self._act("revoke", lambda: store.keys.revoke("door"))

    def _create(self, name: str) -> int:
        return self._store.galleries.create(name, EMBEDDER, GallerySettings()).gallery_id

    def _rewrite(self) -> None:
        self._server.ask("BGREWRITEAOF")
        eventually(lambda: "aof_rewrite_in_progress:0" in _persistence(self._server), 20)

    def _act(self, name: str, do: Callable[[], Any]) -> Any:
        before = _shown(self._store)
        begun = time.monotonic_ns()
        answer = do()
        acknowledged = time.monotonic_ns()
        self.acts.append(Act(name, begun, acknowledged, before, _shown(self._store)))
        return answer


def _persistence(server: RedisServer) -> str:
    info = server.ask("INFO", "persistence")
    return "\n".join(f"{name}:{value}" for name, value in info.items())


def _wrong(tmp_path: Path, few: int, *options: str) -> list[str]:
    require_redis()
    root = tmp_path / "disk"
    log = tmp_path / "log"
    root.mkdir()
    (tmp_path / "left").mkdir()
    with recorded(build_recorder(tmp_path), root, log):
        server = RedisServer(root, *options)
    try:
        acts = _Story(server).acts
    finally:
        server.kill()

    def check(left: Path, past: Act | None, under_way: Act | None) -> list[str]:
        with redis_server() as again:
            again.kill()
            shutil.rmtree(again.folder)
            shutil.copytree(left, again.folder)
            try:
                again.start()
            except pytest.fail.Exception as refused:
                return [str(refused)]
            with contextlib.closing(open_redis(again.url)) as store:
                return differences(_shown(store), past, under_way)

    return cut_and_check(
        root,
        read_recording(log),
        acts,
        check,
        tmp_path / "left",
        few,
        "power_cut_redis.json",
    )


def test_after_a_power_cut_redis_has_everything_acknowledged(tmp_path):
    wrong = _wrong(tmp_path, 30)
    assert not wrong, "\n".join(wrong)


def test_a_redis_that_does_not_sync_is_found_out(tmp_path, monkeypatch):
    """The harness can fail: everything since the start is lost."""
    monkeypatch.setattr("service.record.record.check_server", lambda _: None)
    monkeypatch.delenv("CUTS", raising=False)
    assert _wrong(tmp_path, 0, "--appendfsync", "no")
