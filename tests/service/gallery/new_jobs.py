"""Jobs for tests of the record store."""

from service.record.jobs import Job
from tests.service.gallery.new_crops import NOON


def new_job(job_id, gallery, created_at=NOON, key_id="key", **said):
    return Job(job_id, gallery, "import", {}, created_at, created_at, key_id, **said)
