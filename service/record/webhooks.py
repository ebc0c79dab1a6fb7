"""Webhooks, and the deliveries of alerts to them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict

from gmn_client.models import Delivery, DeliveryState
from service.errors import InvalidField
from service.record.database import RecordPart, transactional
from service.record.galleries import require_entry
from service.record.schema import DELIVERIES, WEBHOOKS, as_micros, as_moment
from service.record.transaction import AMONG, Reader, Transaction, as_json

MOST_WEBHOOKS = 20


class WebhookFields(TypedDict, total=False):
    """Changes of a webhook; fields that are left out stay."""

    url: str
    enabled: bool
    why: str | None
    note: str
    secret: str
    former_secret: str | None
    former_until: datetime | None


@dataclass(frozen=True, kw_only=True)
class StoredWebhook:
    """A webhook as stored; without a `gallery_id` it gets the alerts of every list."""

    webhook_id: str
    gallery_id: int | None
    url: str
    secret: str
    former_secret: str | None = None
    former_until: datetime | None = None
    enabled: bool = True
    why: str | None = None
    note: str
    key_id: str
    dropped: int = 0
    created_at: datetime
    waiting: int = 0
    dead: int = 0


@dataclass(frozen=True)
class DueDelivery:
    """A delivery that is to be tried now, of the alert with this number."""

    delivery_id: str
    webhook: StoredWebhook
    number: int
    attempts: int


class Webhooks(RecordPart):
    """The webhooks, and what waits to be sent to them."""

    @transactional
    def create(self, transaction: Transaction, webhook: StoredWebhook) -> None:
        """Keep a new webhook.

        Raises:
            UnknownGallery: its gallery was deleted.
            InvalidField: there are as many as may be.
        """
        if webhook.gallery_id is not None:
            require_entry(transaction, webhook.gallery_id)
        if transaction.value("SELECT count(*) FROM webhooks") >= MOST_WEBHOOKS:
            raise InvalidField(f"url: there are {MOST_WEBHOOKS} webhooks, the most; delete one")
        values = {name: getattr(webhook, name) for name in WEBHOOKS.columns}
        transaction.insert(WEBHOOKS, _as_columns(values))

    def all(self) -> list[StoredWebhook]:
        with self._database.read() as reader:
            return _read(reader, "ORDER BY created_at, webhook_id")

    def get(self, webhook_id: str) -> StoredWebhook | None:
        with self._database.read() as reader:
            return next(iter(_read(reader, "WHERE webhook_id = ?", webhook_id)), None)

    @transactional
    def change(
        self, transaction: Transaction, webhook_id: str, fields: WebhookFields
    ) -> StoredWebhook | None:
        """Change fields of a webhook; None where it is not there."""
        values = _as_columns(fields)
        settings = ", ".join(f"{name} = ?" for name in values)
        transaction.change(
            f"UPDATE webhooks SET {settings} WHERE webhook_id = ?", (*values.values(), webhook_id)
        )
        # The former address and secret leave the log too.
        transaction.removes = True
        return next(iter(_read(transaction, "WHERE webhook_id = ?", webhook_id)), None)

    @transactional
    def delete(self, transaction: Transaction, webhook_id: str) -> bool:
        """Remove a webhook with its unsent deliveries; the others tell who knows of an alert."""
        unsent = "DELETE FROM deliveries WHERE webhook_id = ? AND sent_to IS NULL"
        transaction.change(unsent, (webhook_id,))
        given_up = "UPDATE deliveries SET state = 'dead' WHERE webhook_id = ? AND state = 'waiting'"
        transaction.change(given_up, (webhook_id,))
        transaction.removes = True
        deleted = "DELETE FROM webhooks WHERE webhook_id = ?"
        return transaction.change(deleted, (webhook_id,)) > 0

    def due(self, now: datetime, limit: int, under_way: Collection[str] = ()) -> list[DueDelivery]:
        """Return up to `limit` deliveries of each enabled webhook that are to be tried now.

        Args:
            under_way: ids of deliveries that are left out.
        """
        rest = (
            "WHERE webhook_id = ? AND state = 'waiting' AND next_at <= ? "
            f"AND delivery_id NOT IN {AMONG} ORDER BY next_at, delivery_id LIMIT ?"
        )
        left_out = as_json(under_way)
        with self._database.read() as reader:
            return [
                DueDelivery(row["delivery_id"], webhook, row["number"], row["attempts"])
                for webhook in _read(reader, "WHERE enabled")
                for row in reader.rows(
                    DELIVERIES, rest, (webhook.webhook_id, as_micros(now), left_out, limit)
                )
            ]

    @transactional
    def settle(
        self,
        transaction: Transaction,
        delivery_id: str,
        state: DeliveryState,
        sent_to: str | None,
        status: int | None,
        error: str | None,
        next_at: datetime | None = None,
    ) -> None:
        """Note the outcome of an attempt.

        Args:
            sent_to: the address, where anything may have been sent.
            next_at: of the next attempt, while it waits.
        """
        transaction.change(
            "UPDATE deliveries SET state = ?, attempts = attempts + 1, status = ?, error = ?, "
            "sent_to = coalesce(?, sent_to), next_at = coalesce(?, next_at) WHERE delivery_id = ?",
            (state, status, error, sent_to, as_micros(next_at), delivery_id),
        )

    def delivery(self, delivery_id: str) -> Delivery | None:
        return next(iter(_deliveries(self._reader, "delivery_id = ?", [delivery_id], 1)), None)

    def deliveries(
        self,
        state: DeliveryState | None,
        webhook_id: str | None,
        gallery_id: int | None,
        before: str | None,
        limit: int,
    ) -> list[Delivery]:
        """Return up to `limit` deliveries that are older than one; the newest first."""
        conditions = {
            "deliveries.state = ?": state,
            "webhook_id = ?": webhook_id,
            "alerts.gallery_id = ?": gallery_id,
            "delivery_id < ?": before,
        }
        asked = {text: value for text, value in conditions.items() if value is not None}
        where = " AND ".join(["TRUE", *asked])
        return _deliveries(self._reader, where, [*asked.values()], limit)

    @transactional
    def retry(self, transaction: Transaction, delivery_id: str, now: datetime) -> bool:
        """Begin a dead delivery anew; False where there is none, or its webhook was deleted."""
        again = (
            "UPDATE deliveries SET state = 'waiting', attempts = 0, next_at = ? "
            "WHERE delivery_id = ? AND state = 'dead' AND webhook_id IS NOT NULL"
        )
        return transaction.change(again, (as_micros(now), delivery_id)) > 0

    def count_by_state(self) -> dict[DeliveryState, int]:
        counted = self._reader.execute("SELECT state, count(*) FROM deliveries GROUP BY state")
        return dict(counted.fetchall())


def _read(reader: Reader, rest: str, *values: str) -> list[StoredWebhook]:
    rows = reader.rows(WEBHOOKS, rest, values)
    counted = reader.execute(
        "SELECT webhook_id, state, count(*) FROM deliveries WHERE state != 'done' "
        f"AND webhook_id IN {AMONG} GROUP BY webhook_id, state",
        (as_json(row["webhook_id"] for row in rows),),
    )
    counts = {(webhook_id, state): count for webhook_id, state, count in counted}
    webhooks = []
    for row in rows:
        fields = {name: row[name] for name in WEBHOOKS.columns}
        for state in ("waiting", "dead"):
            fields[state] = counts.get((row["webhook_id"], state), 0)
        fields["enabled"] = bool(row["enabled"])
        for name in ("former_until", "created_at"):
            fields[name] = as_moment(row[name])
        webhooks.append(StoredWebhook(**fields))
    return webhooks


def _as_columns(fields: Any) -> dict[str, Any]:
    return {
        name: as_micros(value) if isinstance(value, datetime) else value
        for name, value in fields.items()
    }


def _deliveries(reader: Reader, where: str, values: list[Any], limit: int) -> list[Delivery]:
    names = ", ".join(f"deliveries.{name}" for name in DELIVERIES.columns)
    found = reader.execute(
        f"SELECT {names}, alert_id FROM deliveries JOIN alerts USING (number) WHERE {where} "
        "ORDER BY delivery_id DESC LIMIT ?",
        (*values, limit),
    )
    return [
        Delivery.model_validate(
            {
                **row,
                "next_at": as_moment(row["next_at"]) if row["state"] == "waiting" else None,
                "created_at": as_moment(row["created_at"]),
            }
        )
        for row in found
    ]
