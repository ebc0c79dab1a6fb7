"""Deliver alerts to webhooks, and repeat failed attempts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import to_json

from gmn_client.models import Alert, Delivery
from service.ops.critical_sections import log_failure, repeat_alone
from service.ops.data_directory import failpoint
from service.ops.threads import CALLER
from service.record.values import new_crop_id
from service.runtime import Runtime
from service.watch.active import ArmedLists
from service.watch.links import link_alert, signed_alert_image
from service.watch.sender import AT_ONCE, Outcome, Sender
from service.watch.tables.alerts import ChangedAlerts, origin_of
from service.watch.tables.webhooks import StoredWebhook

log = logging.getLogger(__name__)
# Seconds before each repetition; after the last one a delivery is dead.
PAUSES = (5, 30, 300, 1800, 7200, 21_600, 43_200)
JITTER = 0.2
TAKE_OVER_SECONDS = 1.0
AFTER_FAILURE_SECONDS = 5.0
# Time for which a message's signed address of a picture is valid.
SIGNED_FOR = timedelta(hours=1)


async def send_deliveries(runtime: Runtime) -> None:
    lock = runtime.record.database.work_lock("webhooks")
    wake = asyncio.get_running_loop().call_soon_threadsafe
    alerts = ChangedAlerts(lambda: wake(runtime.watch.lists.announce))
    runtime.galleries.on_commit = alerts.look
    await repeat_alone(lock, runtime.pools.locks, TAKE_OVER_SECONDS, lambda: _send_all(runtime))


async def _send_all(runtime: Runtime) -> None:
    under_way: dict[str, str | None] = {}
    unstored: defaultdict[str, list[Outcome]] = defaultdict(list)
    find_due = runtime.watch.webhooks.due
    async with asyncio.TaskGroup() as attempts:
        while True:
            # Take the event before reading the record, so that no change in between is missed.
            changed = runtime.watch.lists.changed
            now = datetime.now(UTC)
            pause: float | None = AFTER_FAILURE_SECONDS
            try:
                due, later = await runtime.galleries.read(find_due, now, dict(under_way), AT_ONCE)
                for webhook, delivery in due:
                    under_way[delivery.delivery_id] = webhook.webhook_id
                    attempts.create_task(_attempt(runtime, webhook, delivery, under_way, unstored))
                pause = (later - now).total_seconds() if later else None
            except Exception as error:
                log_failure("the search for deliveries to webhooks", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), pause)


async def _attempt(
    runtime: Runtime,
    webhook: StoredWebhook,
    delivery: Delivery,
    under_way: dict[str, str | None],
    unstored: defaultdict[str, list[Outcome]],
) -> None:
    """Attempt a delivery, and wait before it is attempted again if that cannot be stored.

    Args:
        under_way: has the webhook of each delivery; None while the delivery waits here.
        unstored: outcomes of the attempts at each delivery that could not be stored, as on a full
            disk; a delivered message is only stored again, not sent.
    """
    # Each webhook has its turn when names are looked up.
    CALLER.set(webhook.webhook_id)
    delivery_id = delivery.delivery_id
    outcomes = unstored[delivery_id]
    try:
        alert = await runtime.galleries.read(runtime.watch.alerts.get, delivery.alert_id)
        # The alert and its delivery are gone if the person was just forgotten.
        if alert:
            if not (outcomes and outcomes[-1].delivered):
                signed = _sign_image_url(runtime.watch.lists, link_alert(alert))
                body = _build_message(f"watch.{alert.kind}", alert.created_at, signed)
                outcomes.append(await runtime.watch.sender.send(webhook, delivery_id, body))
                failpoint("webhook.sent")
            await _settle(runtime, webhook, delivery, outcomes[-1])
        del unstored[delivery_id]
    except Exception:
        # The delivery stays in the record and is attempted again under its id.
        log.exception("a delivery to webhook %s was cut off", webhook.webhook_id)
        under_way[delivery_id] = None
        runtime.watch.lists.announce()
        await asyncio.sleep(_pause_seconds(delivery.attempts + len(outcomes[1:])))
    finally:
        del under_way[delivery_id]
        runtime.watch.lists.announce()


def _pause_seconds(attempts: int) -> float:
    return PAUSES[min(attempts, len(PAUSES) - 1)] * random.uniform(1.0 - JITTER, 1.0 + JITTER)


async def _settle(
    runtime: Runtime, webhook: StoredWebhook, delivery: Delivery, outcome: Outcome
) -> None:
    records = runtime.watch.webhooks
    write = runtime.galleries.write
    is_disabled = None
    if outcome.status == 410:
        disabled = {"enabled": False, "why": "it answered 410: it is gone"}
        # A webhook whose address changed during the attempt gets the message at the new one.
        is_disabled = await write(records.change, webhook.webhook_id, disabled, webhook.url)
    if is_disabled:
        await runtime.audit.done("disable_webhook", webhook_id=webhook.webhook_id)
    settled: dict[str, Any] = {"status": outcome.status, "error": outcome.error}
    if outcome.sent:
        settled["sent_to"] = origin_of(webhook.url)
    if outcome.delivered:
        settled["state"] = "done"
    elif is_disabled or delivery.attempts >= len(PAUSES):
        settled["state"] = "dead"
        log.warning("webhook %s: a delivery is dead: %s", webhook.webhook_id, outcome.error)
    else:
        seconds = max(_pause_seconds(delivery.attempts), outcome.retry_after_s)
        settled["next_at"] = datetime.now(UTC) + timedelta(seconds=seconds)
    await write(records.settle, delivery.delivery_id, settled)


async def send_test(sender: Sender, webhook: StoredWebhook) -> Outcome:
    body = _build_message("test", datetime.now(UTC), {"webhook_id": webhook.webhook_id})
    return await sender.send(webhook, new_crop_id(), body)


def _build_message(kind: str, moment: datetime, data: object) -> bytes:
    return to_json({"type": kind, "timestamp": moment, "data": data})


def _sign_image_url(watches: ArmedLists, alert: Alert) -> Alert:
    if alert.image_url is None:
        return alert
    until = datetime.now(UTC) + SIGNED_FOR
    signature = watches.sign(until, "picture", alert.alert_id)
    address = signed_alert_image(alert.alert_id, signature)
    return alert.model_copy(update={"image_url": address})
