"""Listings of crops by every filter and order, page by page."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from service.record import crop_lists
from service.record.values import CropFilter
from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop, only


def _scan_at_most(monkeypatch, rows: int) -> None:
    monkeypatch.setattr(crop_lists, "MOST_SCANNED", rows)


@pytest.fixture
def crops(store, gallery):
    """Twelve crops, not enrolled in the order of their capture; every third has no name."""
    labels = [
        (number, (None, "a", "b")[number % 3], ("east", "west")[number % 2]) for number in range(12)
    ]
    store.crops.enroll(gallery, EMBEDDER, [new_crop(*label) for label in labels])
    listed = store.crops.page(gallery, CropFilter()).crops
    for place, crop in enumerate(listed):
        captured = None if place == 7 else NOON - timedelta(hours=place * 5 % 12)
        store.crops.change(gallery, only(crop.crop_id), {"captured_at": captured})
    return store.crops.page(gallery, CropFilter()).crops


def _pages(store, gallery, wanted, order, limit):
    found = []
    after = ""
    while after is not None:
        page = store.crops.page(gallery, wanted, after, limit, order)
        assert len(page.crops) <= limit
        found += page.crops
        after = page.cursor
    return found


TIMES = {"captured_after": NOON - timedelta(hours=8), "captured_before": NOON - timedelta(hours=2)}
FILTERS = [
    {},
    {"unnamed": True},
    {"identity": "a"},
    {"camera": "west"},
    TIMES,
    {"unnamed": True, "camera": "east", **TIMES},
    {"identity": "b", **TIMES},
    {"captured_after": NOON - timedelta(hours=3)},
]


def _passes(crop, unnamed=False, captured_after=None, captured_before=None, **labels):
    captured = crop.captured_at
    if captured_after and (captured is None or captured < captured_after):
        return False
    if captured_before and (captured is None or captured > captured_before):
        return False
    has_labels = all(getattr(crop, name) == label for name, label in labels.items())
    return has_labels and not (unnamed and crop.identity)


@pytest.mark.parametrize("few", [False, True])
def test_each_filter_and_order_lists_every_crop_once(store, gallery, crops, few, monkeypatch):
    if few:
        # As in a large gallery of which few crops pass: pages end before they are full.
        _scan_at_most(monkeypatch, 3)
    for given, order in itertools.product(FILTERS, ("enrolled", "captured", "-captured")):
        wanted = CropFilter(**given)
        passing = [crop for crop in crops if _passes(crop, **given)]
        assert store.crops.slots(gallery, wanted) == [crop.row_id for crop in passing]
        if order != "enrolled":
            passing.sort(key=lambda one: (one.captured_at or one.created_at, one.row_id))
        expected = passing[::-1] if order == "-captured" else passing
        for limit in (1, 3, 50):
            assert _pages(store, gallery, wanted, order, limit) == expected, (given, order, limit)


def test_a_filter_that_none_passes_ends_a_page_after_a_bounded_number(store, gallery, monkeypatch):
    _scan_at_most(monkeypatch, 4)
    store.crops.enroll(gallery, EMBEDDER, [new_crop(number) for number in range(10)])
    none = CropFilter(captured_after=NOON + timedelta(days=1))
    page = store.crops.page(gallery, none, limit=1)
    assert (page.crops, page.cursor) == ([], "4")
