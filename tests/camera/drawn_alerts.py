"""Alerts as the service describes them."""

from datetime import UTC, datetime

from gmn_client.models import Alert

MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def alert(kind="visit", camera="Front door", **more):
    nothing = dict.fromkeys(
        ("detail", "track", "score", "threshold", "probability", "needed", "cohesion")
    )
    nothing |= dict.fromkeys(
        ("calibration_version", "reviewed_by", "reviewed_at", "follows", "image_url")
    )
    return Alert.model_validate(
        {
            **nothing,
            "alert_id": "a1",
            "number": 1,
            "kind": kind,
            "gallery": "wanted",
            "identity": "Ann",
            "camera": camera,
            "first_seen": MOMENT,
            "last_seen": MOMENT,
            "captured_at": MOMENT,
            "crops": 1,
            "state": "open",
            "created_at": MOMENT,
            "reference_url": None,
            **more,
        }
    )
