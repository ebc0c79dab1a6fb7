"""Webhooks, and the deliveries of alerts to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from gmn_client.models import Delivery, DeliveryState, NewWebhook
from service.errors import InvalidField
from service.record.database import RecordPart, transactional
from service.record.galleries import require_entry
from service.record.schema import as_moment, now_micros
from service.record.transaction import Transaction, all_of, settings_of
from service.record.values import new_crop_id
from service.watch.tables.alerts import WAITING_OF_WEBHOOK, note_change

# Upper bound on the webhooks of one gallery, and on those of all galleries.
MOST_WEBHOOKS = 20
OF_WEBHOOKS = """,
name AS gallery,
(SELECT count(*) FROM deliveries
    WHERE deliveries.webhook_id = webhooks.webhook_id AND state = 'waiting') AS waiting,
(SELECT count(*) FROM deliveries
    WHERE deliveries.webhook_id = webhooks.webhook_id AND state = 'dead') AS dead
"""


class StoredWebhook(NewWebhook):
    """A webhook with its secrets; one without a gallery gets the alerts of all lists."""

    former_secret: str | None = Field(repr=False)


class Webhooks(RecordPart):
    """The webhooks and their deliveries."""

    @transactional
    def create(
        self,
        transaction: Transaction,
        gallery_id: int | None,
        fields: Mapping[str, str],
    ) -> StoredWebhook:
        """Store a new webhook.

        Args:
            fields: `url`, `secret`, `note` and `key_id`.

        Raises:
            UnknownGallery: its gallery was deleted.
            InvalidField: the gallery, or all of them together, has the largest number of webhooks.
        """
        if gallery_id is not None:
            require_entry(transaction, gallery_id)
        webhooks_of_gallery = (
            "SELECT count(*) FROM webhooks WHERE coalesce(gallery_id, 0) = coalesce(?, 0)"
        )
        if transaction.value(webhooks_of_gallery, (gallery_id,)) >= MOST_WEBHOOKS:
            raise InvalidField(
                f"url: there are {MOST_WEBHOOKS} webhooks of this list, or of all lists, the most; "
                "delete one"
            )
        webhook_id = new_crop_id()
        values = {
            **fields,
            "webhook_id": webhook_id,
            "gallery_id": gallery_id,
            "enabled": True,
            "dropped": 0,
            "created_at": now_micros(),
        }
        transaction.insert("webhooks", values)
        return self.all()[webhook_id]

    def all(self) -> dict[str, StoredWebhook]:
        # A webhook of a gallery that is being deleted must not look like one of all lists.
        clauses = (
            "LEFT JOIN galleries USING (gallery_id) WHERE webhooks.gallery_id IS NULL "
            "OR name IS NOT NULL ORDER BY webhooks.created_at, webhook_id"
        )
        rows = self._reader.rows("webhooks", clauses, (), OF_WEBHOOKS)
        return {row["webhook_id"]: StoredWebhook.model_validate(row) for row in rows}

    @transactional
    def change(
        self,
        transaction: Transaction,
        webhook_id: str,
        values: Mapping[str, Any],
        only_at: str | None = None,
    ) -> StoredWebhook | None:
        """Change a webhook; return None if it is gone, or not at the address `only_at`."""
        statement = (
            f"UPDATE webhooks SET {settings_of(values)} "
            "WHERE webhook_id = :webhook_id AND url = coalesce(:only_at, url)"
        )
        named = {**values, "webhook_id": webhook_id, "only_at": only_at}
        if not transaction.change(statement, named):
            return None
        note_change(transaction)
        return self.all().get(webhook_id)

    @transactional
    def delete(self, transaction: Transaction, webhook_id: str) -> None:
        """Remove a webhook and its unsent deliveries; sent ones show who knows of an alert."""
        webhook = (webhook_id,)
        transaction.change(
            "DELETE FROM deliveries WHERE webhook_id = ? AND sent_to IS NULL", webhook
        )
        transaction.change(
            "UPDATE deliveries SET state = 'dead' WHERE webhook_id = ? AND state = 'waiting'",
            webhook,
        )
        transaction.change("DELETE FROM webhooks WHERE webhook_id = ?", webhook)

    def due(
        self, now: datetime, under_way: Mapping[str, str | None], at_once: int
    ) -> tuple[list[tuple[StoredWebhook, Delivery]], datetime | None]:
        """Return the deliveries to attempt now, and the time of the next later one.

        Args:
            under_way: deliveries that are left out, with the webhooks that they occupy.
            at_once: largest number of concurrent attempts of one webhook.
        """
        busy = Counter(under_way.values())
        ready = (
            "webhook_id = ? AND deliveries.state = 'waiting' AND next_at <= ? "
            f"AND NOT {self._reader.dialect.among('delivery_id')} "
            "ORDER BY next_at, delivery_id LIMIT ?"
        )
        later = (
            "SELECT min(next_at) FROM deliveries JOIN webhooks USING (webhook_id) "
            "WHERE enabled = 1 AND state = 'waiting' AND next_at > ?"
        )
        with self._database.read() as reader:
            due = []
            for webhook in self.all().values():
                if webhook.enabled:
                    free = at_once - busy[webhook.webhook_id]
                    values = [webhook.webhook_id, now, list(under_way), free]
                    due += [(webhook, delivery) for delivery in self._select(ready, values)]
            next_at = reader.value(later, (now,))
        return due, next_at and as_moment(next_at)

    @transactional
    def settle(
        self,
        transaction: Transaction,
        delivery_id: str,
        outcome: Mapping[str, Any],
    ) -> None:
        """Count an attempt and store its outcome, given by the names of its columns."""
        transaction.change(
            f"UPDATE deliveries SET attempts = attempts + 1, {settings_of(outcome)} "
            "WHERE delivery_id = :delivery_id",
            {**outcome, "delivery_id": delivery_id},
        )

    def delivery(self, delivery_id: str) -> Delivery | None:
        return next(iter(self._select("delivery_id = ?", [delivery_id])), None)

    def deliveries(
        self,
        state: DeliveryState | None,
        webhook_id: str | None,
        gallery_id: int | None,
        before: str | None,
        limit: int,
    ) -> list[Delivery]:
        conditions = {
            "deliveries.state = ?": state,
            "webhook_id = ?": webhook_id,
            "number IN (SELECT number FROM alerts WHERE gallery_id = ?)": gallery_id,
            # An error names the network address of a webhook, which may be of all galleries.
            "(webhook_id IS NULL OR webhook_id IN "
            "(SELECT webhook_id FROM webhooks WHERE gallery_id = ?))": gallery_id,
            "delivery_id < ?": before,
        }
        wanted, values = all_of(conditions)
        condition = f"{wanted} ORDER BY delivery_id DESC LIMIT ?"
        return self._select(condition, [*values, limit])

    @transactional
    def retry(self, transaction: Transaction, delivery_id: str) -> Delivery | None:
        """Restart a dead delivery whose webhook still exists; return None if it is gone.

        Raises:
            InvalidField: the largest number of deliveries waits for the webhook.
        """
        delivery = self.delivery(delivery_id)
        if delivery and delivery.state == "dead" and delivery.webhook_id:
            waiting = "SELECT count(*) FROM deliveries WHERE webhook_id = ? AND state = 'waiting'"
            if transaction.value(waiting, (delivery.webhook_id,)) >= WAITING_OF_WEBHOOK:
                raise InvalidField(
                    f"delivery_id: {WAITING_OF_WEBHOOK} messages wait for its webhook, the most; "
                    "send the request again when fewer do"
                )
            transaction.change(
                "UPDATE deliveries SET state = 'waiting', attempts = 0, next_at = ? "
                "WHERE delivery_id = ?",
                (now_micros(), delivery_id),
            )
            note_change(transaction)
        return self.delivery(delivery_id)

    def count_by_state(self) -> dict[DeliveryState, int]:
        counted = self._reader.tuples("SELECT state, count(*) FROM deliveries GROUP BY state")
        return dict(counted)

    def _select(self, condition: str, values: list[Any]) -> list[Delivery]:
        clauses = (
            "JOIN alerts USING (number) JOIN galleries USING (gallery_id) "
            f"WHERE name IS NOT NULL AND {condition}"
        )
        deliveries = []
        for delivery in self._reader.rows("deliveries", clauses, values, ", alert_id"):
            if delivery["state"] != "waiting":
                delivery["next_at"] = None
            deliveries.append(Delivery.model_validate(delivery))
        return deliveries
