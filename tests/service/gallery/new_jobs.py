"""Jobs for tests of the record store."""

from __future__ import annotations

from datetime import datetime

from service.record.jobs import Job
from tests.service.gallery.new_crops import NOON


def new_job(job_id: str, gallery: int, created_at: datetime = NOON) -> Job:
    return Job(job_id, gallery, "import", {}, created_at=created_at, updated_at=created_at)
