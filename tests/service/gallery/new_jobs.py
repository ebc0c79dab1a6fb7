"""Jobs for tests of the record store."""

from service.record.jobs import Job
from tests.service.gallery.new_crops import NOON


def new_job(job_id, gallery, created_at=NOON, **said):
    times = {"created_at": created_at, "updated_at": created_at}
    return Job(job_id, gallery, "import", {}, **times, **said)
