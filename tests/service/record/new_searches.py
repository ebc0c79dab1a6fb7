"""Searches to be kept, as rows of the record."""

import itertools
import json
import time
from datetime import timedelta

from service.record.schema import now_micros

WEEK = timedelta(days=7)
NUMBERS = itertools.count()


def new_search(*crop_ids, verdict="uncertain", **columns):
    return {
        "query_id": f"{time.time_ns() // 1_000_000:012x}{next(NUMBERS):020x}",
        "created_at": now_micros(),
        "key_id": "k1",
        "request": "{}",
        "answer": '{"verdict": "no_match"}',
        "results": json.dumps([[crop_id, 0.5, None, 0.5, verdict] for crop_id in crop_ids]),
        "crop_id": None,
        "content_type": "image/png",
        **columns,
    }


def kept_ids(record, gallery_id):
    page = record.kept.page(gallery_id, WEEK, None, 100)
    return [search["query_id"] for search in page.results]
