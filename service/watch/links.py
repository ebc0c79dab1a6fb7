"""Alerts with the addresses of their pictures."""

from __future__ import annotations

from gmn_client.models import Alert
from service.links import crop_image
from service.watch.tables.alerts import StoredAlert


def alert_image(alert_id: str) -> str:
    return f"/v1/alerts/{alert_id}/image"


def signed_alert_image(alert_id: str, signature: str) -> str:
    return f"/v1/alerts/{alert_id}/signed-image?signature={signature}"


def link_alert(alert: StoredAlert) -> Alert:
    reference_url = None
    if alert.crop_id is not None:
        reference_url = crop_image(alert.gallery, alert.crop_id)
    image_url = alert_image(alert.alert_id) if alert.has_picture else None
    return alert.model_copy(update={"image_url": image_url, "reference_url": reference_url})
