"""Health of cameras: their heartbeats, their crops, and alerts when they fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from gmn_client.models import HeartbeatAnswer
from service.errors import RecordUnavailable, StorageFailed
from service.ops.critical_sections import attempt
from service.record.keys import ApiKey
from service.runtime import Runtime
from service.watch.lists import announce_alert
from service.watch.tables.alerts import NotedVisit

# A camera that sends heartbeats is silent after this time without one, or a crop.
SILENT_AFTER = timedelta(minutes=5)
LOOK_EVERY_SECONDS = 10.0


async def note_heartbeat(
    runtime: Runtime, key: ApiKey, camera: str, heartbeat: Mapping[str, Any]
) -> HeartbeatAnswer:
    """Store a heartbeat of a key's camera, with an alert if the camera was silent.

    Returns:
        What is wanted of the camera's program.

    Raises:
        InvalidField: the camera is new, and the key has too many others.
        RecordUnavailable, StorageFailed: the heartbeat could not be stored now.
    """
    now = runtime.watch.contacts.clock()
    cameras = runtime.watch.cameras
    await _write(runtime, cameras.note_heartbeat, key, camera, heartbeat, now)
    return await runtime.galleries.read(cameras.answer_heartbeat, key.key_id, camera, now)


async def keep_cameras(runtime: Runtime) -> None:
    """Store what cameras sent, and raise alerts about silent ones, until cancelled."""
    try:
        while True:
            await _store_counts(runtime)
            await attempt("looking for silent cameras", _find_silent(runtime))
            await asyncio.sleep(LOOK_EVERY_SECONDS)
    finally:
        await _store_counts(runtime)


async def _store_counts(runtime: Runtime) -> None:
    now = runtime.watch.contacts.clock()
    keys = runtime.keys.valid_keys()
    # Counts that cannot be stored are dropped: they would fill the memory while the disk is full.
    for key_id, counts in runtime.watch.contacts.take_counts().items():
        if key := keys.get(key_id):
            store = _write(runtime, runtime.watch.cameras.note_sightings, key, counts, now)
            await attempt(f"counting what cameras of the key {key_id} sent", store)


async def _find_silent(runtime: Runtime) -> None:
    now = runtime.watch.contacts.clock()
    heard_before = now - SILENT_AFTER
    if runtime.watch.contacts.listening_since(now) > heard_before:
        return
    keys = runtime.keys.valid_keys()
    cameras = runtime.watch.cameras
    for key_id, camera in await runtime.galleries.read(cameras.overdue, heard_before):
        if key := keys.get(key_id):
            note = _write(runtime, cameras.note_silence, key, camera, heard_before, now)
            await attempt(f"noting that a camera of the key {key_id} is silent", note)


async def _write(runtime: Runtime, rule: Callable[..., list[NotedVisit]], *args: Any) -> None:
    try:
        alerts = await runtime.galleries.write(rule, *args)
    except (RecordUnavailable, StorageFailed):
        # The record does not have what cameras send meanwhile.
        runtime.watch.contacts.listen_anew()
        raise
    for noted in alerts:
        announce_alert(runtime.metrics, runtime.shared, noted)
