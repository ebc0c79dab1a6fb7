"""Stored crops as the API shows them."""

from datetime import UTC, datetime

from service.gallery.browse import described_crops
from service.record.values import StoredCrop


def test_a_listing_copies_no_metadata():
    """Look for a copy, which takes seconds: a page of crops may have millions of values."""
    places = [{"x": 1}]
    crop = StoredCrop(
        slot=1,
        crop_id="c1",
        sent_sha256="00",
        sha256="00",
        created_at=datetime.now(UTC),
        metadata={"places": places},
    )
    (shown,) = described_crops(None, None, [crop], vectors=False)
    assert shown.metadata["places"] is places
