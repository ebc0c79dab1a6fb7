"""A process that is killed at the end of an import, and the job in the next process."""

from __future__ import annotations

import contextlib
import shutil

import httpx
import pytest

from tests.outside import zip_of_crops

pytestmark = pytest.mark.slow


def _import(served, drawn_crops) -> None:
    """Send an archive; the service dies before or after it answers."""
    with contextlib.suppress(httpx.TransportError):
        served.http.post(
            "/v1/galleries/default/imports", files={"archive": ("a.zip", zip_of_crops(drawn_crops))}
        )
    served.process.wait(30)
    served.kill()


def _ended(served) -> dict:
    (job,) = served.results("/v1/jobs")
    return served.ended_job(job, 30)


def test_one_that_died_between_an_imports_last_crop_and_its_end_leaves_a_job_that_is_done(
    start, tmp_path, drawn_crops
):
    data = tmp_path / "data"
    _import(start(data_dir=data, failpoint="job.files-removed"), drawn_crops)
    again = start(data_dir=data)
    job = _ended(again)
    assert job["state"] == "done", job
    assert (job["progress"]["landed"], job["problems"]) == (len(drawn_crops), 0)
    assert again.read("/v1/galleries/default")["crops"] == len(drawn_crops)


def test_an_import_whose_files_are_gone_says_to_send_them_again(start, tmp_path, drawn_crops):
    data = tmp_path / "data"
    _import(start(data_dir=data, failpoint="job.created"), drawn_crops)
    for spool in (data / "imports").iterdir():
        shutil.rmtree(spool)
    job = _ended(start(data_dir=data))
    assert job["state"] == "failed"
    assert "send it again" in job["detail"]
