"""A process that is killed at the end of an import, and the job in the next process."""

import contextlib
import shutil

import httpx2
import pytest

from tests.outside import zip_of_crops
from tests.service.conftest import START

pytestmark = pytest.mark.slow


def test_an_import_whose_files_are_gone_says_to_send_them_again(start, tmp_path, drawn_crops):
    served = start(tmp_path, failpoint="job.created")
    files = {"archive": ("a.zip", zip_of_crops(drawn_crops))}
    # The service dies before or after it answers.
    with contextlib.suppress(httpx2.TransportError):
        served.http.post("/v1/galleries/default/imports", files=files)
    served.ended_with(30)
    for spool in (tmp_path / "imports").iterdir():
        shutil.rmtree(spool)
    again = start(tmp_path)
    job = again.ended_job(again.results("/v1/jobs")[0], 30)
    assert job["state"] == "failed", job
    assert "send it again" in job["detail"]
    assert str(tmp_path) not in job["detail"]


@pytest.mark.promise("hostile-exports")
@pytest.mark.parametrize("step", ["unpacked", "batch-landed"])
def test_an_export_whose_import_was_killed_lands_once(start, tmp_path, drawn_crops, step):
    served = start(tmp_path / "source")
    served.fill("default", drawn_crops)
    content = served.export("default")
    killed = start(tmp_path / "data", failpoint=f"import.{step}")
    killed.enrolled("default", drawn_crops[0].png, identity="Ann")
    with contextlib.suppress(httpx2.TransportError):
        killed.import_archive("default", content)
    killed.ended_with(30)
    again = start(tmp_path / "data")
    progress = again.ended_job(again.results("/v1/jobs")[0], 30)["progress"]
    assert (progress["done"], progress["landed"], progress["duplicates"]) == (24, 24, 0)
    assert again.read("/v1/galleries/default")["crops"] == 25


def test_a_folder_that_has_lost_images_since_its_import_began_is_to_be_imported_again(
    start, tmp_path, drawn_crops
):
    folder = tmp_path / "mounted" / "people"
    folder.mkdir(parents=True)
    # Batches of one image, of which the import notes four at a time.
    for number, crop in enumerate(drawn_crops[:10]):
        (folder / f"{number}.png").write_bytes(crop.png)
    settings = {"import_dir": folder.parent, "max_images_per_request": 1}
    served = start(tmp_path / "data", failpoint="import.progress-noted", **settings)
    with contextlib.suppress(httpx2.TransportError):
        served.http.post("/v1/galleries/default/imports", data={"folder": folder.name})
    served.ended_with(30)
    for number in range(4):
        (folder / f"{number}.png").unlink()
    again = start(tmp_path / "data", **settings)
    job = again.ended_job(again.results("/v1/jobs")[0], 30)
    assert job["state"] == "failed", job
    assert "import it again" in job["detail"]


def test_an_import_that_the_record_refuses_leaves_no_folder(start, tmp_path, drawn_crops):
    full = """
from service.errors import StorageFailed
from service.record.files import UnneededFiles

def add(*_):
    raise StorageFailed("full")

UnneededFiles.add = add
"""
    served = start(data_dir=tmp_path, program=full + START)
    archive = {"archive": ("a.zip", zip_of_crops(drawn_crops))}
    answer = served.http.post("/v1/galleries/default/imports", files=archive)
    assert answer.status_code == 507
    assert list((tmp_path / "imports").iterdir()) == []
