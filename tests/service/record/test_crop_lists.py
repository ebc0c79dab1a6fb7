"""Listings of crops by every filter and order, page by page."""

import itertools
from datetime import timedelta

import pytest

from service.record import crop_rows
from service.record.values import ListFilter
from tests.service.gallery.new_crops import NOON, enroll, listed, new_crop, only


@pytest.fixture
def crops(record, gallery):
    """Twelve crops, not enrolled in the order of their capture; every third has no name."""
    names = (None, "a", "b")
    cameras = ("east", "west")
    tracks = (None, "1", "2", "3")
    drawn = (
        new_crop(number, names[number % 3], cameras[number % 2], track=tracks[number % 4])
        for number in range(12)
    )
    enroll(record, gallery, *drawn)
    for place, crop in enumerate(listed(record, gallery)):
        captured = None if place == 7 else NOON - timedelta(hours=place * 5 % 12)
        record.crops.change(gallery, only(crop.crop_id), {"captured_at": captured})
    return listed(record, gallery)


def _pages(record, gallery, wanted, order, limit):
    found = []
    after = ""
    while after is not None:
        page = record.crops.page(gallery, wanted, after, limit, order)
        assert len(page.crops) <= limit
        found += page.crops
        after = page.cursor
    return found


TIMES = {"captured_after": NOON - timedelta(hours=8), "captured_before": NOON - timedelta(hours=2)}
FILTERS = [
    {},
    {"named": False},
    {"named": True},
    {"identities": {"a"}},
    {"identities": {"a", "b"}},
    {"cameras": {"west"}},
    {"cameras": {"west", "east"}, "track": "1"},
    {"track": "1"},
    TIMES,
    {"named": False, "cameras": {"east"}, **TIMES},
    {"identities": {"b"}, **TIMES},
    {"captured_after": NOON - timedelta(hours=3)},
]


def _passes(
    crop,
    identities=(),
    cameras=(),
    named=None,
    captured_after=None,
    captured_before=None,
    track=None,
):
    captured = crop.captured_at
    if captured_after and (captured is None or captured < captured_after):
        return False
    if captured_before and (captured is None or captured > captured_before):
        return False
    if named is not None and named != (crop.identity is not None):
        return False
    return (
        (not identities or crop.identity in identities)
        and (not cameras or crop.camera in cameras)
        and (track is None or crop.track == track)
    )


@pytest.mark.parametrize("few", [False, True])
def test_each_filter_and_order_lists_every_crop_once(record, gallery, crops, few, monkeypatch):
    if few:
        # As in a large gallery of which few crops pass: pages end before they are full.
        monkeypatch.setattr(crop_rows, "MOST_SCANNED", 3)
    for given, order in itertools.product(FILTERS, ("enrolled", "captured", "-captured")):
        wanted = ListFilter(**given)
        passing = [crop for crop in crops if _passes(crop, **given)]
        assert record.crops.slots(gallery, wanted) == [crop.slot for crop in passing]
        if order != "enrolled":
            passing.sort(key=lambda crop: (crop.captured_at or crop.created_at, crop.slot))
        expected = passing[::-1] if order == "-captured" else passing
        for limit in (1, 3, 50):
            assert _pages(record, gallery, wanted, order, limit) == expected, (given, order, limit)


def test_a_filter_that_none_passes_ends_a_page_after_a_bounded_number(record, gallery, monkeypatch):
    monkeypatch.setattr(crop_rows, "MOST_SCANNED", 4)
    enroll(record, gallery, *(new_crop(number) for number in range(10)))
    none = ListFilter(captured_after=NOON + timedelta(days=1))
    page = record.crops.page(gallery, none, limit=1)
    assert (page.crops, page.cursor) == ([], "4")
