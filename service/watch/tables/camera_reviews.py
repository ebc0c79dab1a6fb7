"""Reviewed alerts of a watch list by camera, which move its threshold there."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

from service.record.transaction import Reader, Transaction, upsert
from service.record.values import Sender

# Upper bound on the reviewed alerts of a list that are read, the newest ones.
MOST_REVIEWS = 10_000
REVIEWED = """
WHERE gallery_id = ? AND number >= ? AND score_kind = ? AND state != 'open'
ORDER BY number DESC LIMIT ?
"""


class CameraReviews:
    """The scores of one camera's reviewed alerts.

    Attributes:
        are_ignored: they move no threshold.
    """

    def __init__(self, are_ignored: bool = False) -> None:
        self.rejected: list[float] = []
        self.confirmed: list[float] = []
        self.are_ignored = are_ignored


def read_reviews(
    reader: Reader, gallery_id: int, armed_at: datetime, score_kind: str
) -> dict[Sender, CameraReviews]:
    """Return the reviews of a list by camera, and the cameras whose reviews are ignored.

    Args:
        armed_at: alerts of an earlier arming are left out.
        score_kind: identifies comparable scores.
    """
    reviews: defaultdict[Sender, CameraReviews] = defaultdict(CameraReviews)
    for row in reader.rows("ignored_reviews", "WHERE gallery_id = ?", (gallery_id,)):
        reviews[Sender(row["key_id"], row["camera"] or None)].are_ignored = True
    values = (gallery_id, armed_at, score_kind, MOST_REVIEWS)
    for row in reader.rows("alerts", REVIEWED, values):
        of_camera = reviews[Sender(row["key_id"], row["camera"])]
        scores = of_camera.confirmed if row["state"] == "confirmed" else of_camera.rejected
        scores.append(row["score"])
    return dict(reviews)


def ignore_reviews(
    transaction: Transaction, gallery_id: int, sender: Sender, are_ignored: bool
) -> None:
    values = {
        "gallery_id": gallery_id,
        "key_id": sender.key_id,
        "camera": sender.camera or "",
    }
    if are_ignored:
        transaction.insert("ignored_reviews", values, instead=True)
    else:
        transaction.change(
            "DELETE FROM ignored_reviews "
            "WHERE gallery_id = :gallery_id AND key_id = :key_id AND camera = :camera",
            values,
        )
    count_change(transaction, gallery_id)


def count_change(transaction: Transaction, gallery_id: int) -> None:
    transaction.change(
        upsert(
            "review_changes",
            ("gallery_id", "changes"),
            "VALUES (?, 1)",
            "changes = review_changes.changes + 1",
        ),
        (gallery_id,),
    )
