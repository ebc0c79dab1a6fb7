"""Searches to be kept, as rows of the record."""

import itertools
import time
from datetime import timedelta

from gmn_client.models import RankedCrop
from service.desk.tables import NewSearch
from service.record.schema import now_micros
from tests.service.gallery.new_crops import desk_of

WEEK = timedelta(days=7)
NUMBERS = itertools.count()


def new_search(*crop_ids, verdict="uncertain", picture=None, **changes):
    columns = {
        "query_id": f"{time.time_ns() // 1_000_000:012x}{next(NUMBERS):020x}",
        "created_at": now_micros(),
        "key_id": "k1",
        "request": "{}",
        "answer": '{"verdict": "no_match"}',
        "crop_id": None,
        "content_type": "image/png",
        **changes,
    }
    results = [
        RankedCrop(
            rank=rank,
            crop_id=crop_id,
            identity=None,
            camera=None,
            captured_at=None,
            external_id=None,
            metadata=None,
            cosine=0.5,
            pair_logit=None,
            probability=0.5,
            verdict=verdict,
            image_url="",
        )
        for rank, crop_id in enumerate(crop_ids, 1)
    ]
    return NewSearch(columns, results, picture)


def kept_ids(record, gallery_id):
    page = desk_of(record).kept.page(gallery_id, WEEK, None, 100)
    return [search["query_id"] for search in page.results]
