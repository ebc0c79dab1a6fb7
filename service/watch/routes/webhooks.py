"""`/v1/webhooks`: addresses to which alerts are sent, and the deliveries to them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx2
from fastapi import Path, Query, Request, Response
from pydantic import Field

from gmn_client import models
from service.errors import InvalidField, UnknownDelivery, UnknownWebhook
from service.http.fields import Id, Name
from service.http.forms import Cursor, Form, GalleryName, Limit, Sent
from service.http.guard import guarded_router, needs
from service.http.problems import problems, write_list
from service.runtime import Call
from service.watch.sender import BOTH_SECRETS_FOR, MAX_URL, new_secret
from service.watch.tables.webhooks import StoredWebhook
from service.watch.webhooks import send_test

router = guarded_router("/v1/webhooks", "webhooks")
Administrator = Annotated[Call, needs("admin")]
WebhookId = Annotated[Id, Path(description="A webhook's id.")]
DeliveryId = Annotated[Id, Path(description="A delivery's id.")]
Url = Annotated[str, Field(min_length=1, max_length=MAX_URL)]


class NewWebhookForm(Form):
    """An address to which alerts are sent."""

    url: Url = Field(examples=["https://desk.example/alerts"])
    """An address that begins with https, or with http for this machine itself and for the receivers
    that GMN_WEBHOOK_PRIVATE lists."""
    gallery: GalleryName | None = None
    """Send alerts of this list only; default: of all lists that the key may access."""
    note: Name = ""
    """Name of its owner or purpose."""
    never_empty = frozenset({"gallery"})


class WebhookChangesForm(Form):
    """Changes of a webhook; omitted fields stay unchanged."""

    url: Url | None = None
    """The new address, also for waiting deliveries."""
    enabled: bool | None = None
    """If false, nothing is sent, and new alerts are not queued."""
    note: Name | None = None
    """Name of its owner or purpose."""


@router.post("", status_code=201, responses=problems("unknown_gallery"))
async def create_webhook(call: Administrator, form: Sent[NewWebhookForm]) -> models.NewWebhook:
    """Creates a webhook; the answer has its secret, which is not shown again.

    Messages and signatures follow standardwebhooks.com. There may be twenty webhooks of each
    gallery, and twenty of all galleries together.
    """
    runtime = call.runtime
    gallery_id = await call.gallery_id(form.gallery)
    await runtime.watch.sender.require_usable(form.url, call.caller.gallery is None)
    fields = {
        "url": form.url,
        "secret": new_secret(),
        "note": form.note,
        "key_id": call.caller.key_id,
    }
    webhook = await runtime.galleries.write(runtime.watch.webhooks.create, gallery_id, fields)
    await _audit(call, "create_webhook", webhook)
    return webhook


@router.get("")
async def list_webhooks(call: Administrator) -> models.Webhooks:
    """Lists the webhooks without their secrets, the oldest first."""
    webhooks = await call.runtime.galleries.read(call.runtime.watch.webhooks.all)
    return models.Webhooks(
        results=[webhook for webhook in webhooks.values() if call.caller.may_see(webhook.gallery)]
    )


@router.get("/deliveries", response_model=models.Deliveries, responses=problems("unknown_webhook"))
async def list_deliveries(
    request: Request,
    call: Administrator,
    state: Annotated[models.DeliveryState | None, Query(description="Only in this state.")] = None,
    webhook_id: Annotated[Id | None, Query(description="Only to this webhook.")] = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Response:
    """Lists the deliveries of alerts, the newest first; failed ones have `state=dead`."""
    runtime = call.runtime
    if webhook_id:
        await _find(call, webhook_id)
    gallery_id = await call.gallery_id()
    deliveries = await runtime.galleries.read(
        runtime.watch.webhooks.deliveries, state, webhook_id, gallery_id, cursor, limit + 1
    )
    next_cursor = deliveries[limit - 1].delivery_id if len(deliveries) > limit else None
    page = models.Deliveries(results=deliveries[:limit], next_cursor=next_cursor)
    return await write_list(request, page)


@router.post("/deliveries/{delivery_id}/retry")
async def retry_delivery(call: Administrator, delivery_id: DeliveryId) -> models.Delivery:
    """Restarts a dead delivery under its id, with the same number of attempts as at first."""
    runtime = call.runtime
    records = runtime.watch.webhooks
    delivery = await runtime.galleries.read(records.delivery, delivery_id)
    if delivery is None or delivery.webhook_id is None:
        raise UnknownDelivery(delivery_id)
    await _find(call, delivery.webhook_id)
    retried = await runtime.galleries.write(records.retry, delivery_id)
    await runtime.audit.done("retry_delivery", delivery_id=delivery_id)
    return retried or delivery


@router.patch("/{webhook_id}")
async def change_webhook(
    call: Administrator, webhook_id: WebhookId, form: Sent[WebhookChangesForm]
) -> models.Webhook:
    """Changes the address or note of a webhook, or disables or enables it."""
    await _find(call, webhook_id)
    changes = form.model_dump(exclude_none=True)
    if not changes:
        raise InvalidField("url, enabled, note: nothing is to be changed; send one of them")
    if form.url:
        await call.runtime.watch.sender.require_usable(form.url, call.caller.gallery is None)
    if form.enabled is not None:
        changes["why"] = None if form.enabled else f"the key {call.caller.key_id} stopped it"
    return await _change(call, webhook_id, changes, "change_webhook")


@router.post("/{webhook_id}/rotate")
async def rotate_webhook(call: Administrator, webhook_id: WebhookId) -> models.NewWebhook:
    """Creates a new secret of a webhook; for a day, the former one signs messages too."""
    former = await _find(call, webhook_id)
    changes = {
        "secret": new_secret(),
        "former_secret": former.secret,
        "former_until": datetime.now(UTC) + BOTH_SECRETS_FOR,
    }
    return await _change(call, webhook_id, changes, "rotate_webhook")


@router.post("/{webhook_id}/test")
async def test_webhook(call: Administrator, webhook_id: WebhookId) -> models.TestedWebhook:
    """Sends a signed message of type `test` once, and answers the outcome."""
    webhook = await _find(call, webhook_id)
    outcome = await send_test(call.runtime.watch.sender, webhook)
    await _audit(call, "test_webhook", webhook)
    return models.TestedWebhook.model_validate(outcome)


@router.delete("/{webhook_id}", status_code=204)
async def delete_webhook(call: Administrator, webhook_id: WebhookId) -> None:
    """Deletes a webhook and its waiting deliveries."""
    await _find(call, webhook_id)
    runtime = call.runtime
    await runtime.audited.run(
        "delete_webhook",
        lambda _: runtime.galleries.write(runtime.watch.webhooks.delete, webhook_id),
        webhook_id=webhook_id,
    )


async def _change(
    call: Call, webhook_id: str, changes: Mapping[str, Any], event: str
) -> StoredWebhook:
    runtime = call.runtime
    webhook = await runtime.galleries.write(runtime.watch.webhooks.change, webhook_id, changes)
    if webhook is None:
        raise UnknownWebhook(webhook_id)
    await _audit(call, event, webhook)
    return webhook


async def _find(call: Call, webhook_id: str) -> StoredWebhook:
    """Return a webhook; raise `UnknownWebhook` also for one that the key may not see."""
    webhooks = await call.runtime.galleries.read(call.runtime.watch.webhooks.all)
    webhook = webhooks.get(webhook_id)
    if webhook is None or not call.caller.may_see(webhook.gallery):
        raise UnknownWebhook(webhook_id)
    return webhook


async def _audit(call: Call, event: str, webhook: StoredWebhook) -> None:
    # The path of the URL may contain a secret.
    await call.runtime.audit.done(
        event, webhook_id=webhook.webhook_id, host=httpx2.URL(webhook.url).host
    )
