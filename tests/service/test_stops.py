"""A service that is asked to stop amid long work ends within seconds; a start goes on with it."""

import pytest

from tests.service.conftest import START
from tests.waiting import eventually

pytestmark = pytest.mark.promise("stops")

URL = "/v1/galleries/default"
ENTRIES = 600
# Each entry takes a tenth of a second, all of them longer than a stop may.
SLOW_UNPACKING = """
import time
from model.crops import unpack
unpack_one = unpack._unpack
def unpack_slowly(*given):
    time.sleep(0.1)
    return unpack_one(*given)
unpack._unpack = unpack_slowly
"""
SLOW_READING = """
import time
from service.jobs import import_files
parse = import_files.parse_labels
def parse_slowly(*given):
    time.sleep(0.1)
    return parse(*given)
import_files.parse_labels = parse_slowly
"""
# What still runs is waited for a second, and not 25 and then 5.
SLOW_EXPORTS = """
import time
from service import runtime
from service.commands import processes
from service.store import export_rows as exports
processes.DRAIN_SECONDS = 1
runtime.LAST_WORK_SECONDS = 1.0
def add_slowly(*_):
    for _ in range(90):
        time.sleep(1)
        heartbeat()
from service.ops.threads import heartbeat
exports._add_file = add_slowly
"""


def _begin(served):
    return served.import_zip("default", {f"{number}.png": b"no image" for number in range(ENTRIES)})


def _unpacked(data_dir, job):
    return len(list((data_dir / "imports" / job["job_id"]).glob("files/*")))


@pytest.mark.parametrize(
    ("slow", "files"), [(SLOW_UNPACKING, 2), (SLOW_READING, ENTRIES)], ids=["unpacked", "read"]
)
def test_an_import_does_not_delay_a_stop_while_it_is(slow, files, start, tmp_path):
    served = start(tmp_path, program=slow + START)
    job = _begin(served)
    eventually(lambda: _unpacked(tmp_path, job) >= files)
    assert served.stop() == 0
    assert "cut off" not in served.log.read_text()
    again = start(tmp_path)
    ended = again.ended_job(again.job(job["job_id"]))
    assert ended["state"] == "done"
    assert ended["progress"]["refused"] == ENTRIES


def test_an_import_is_cancelled_while_its_files_are_read(start, tmp_path):
    served = start(tmp_path, program=SLOW_READING + START)
    job = _begin(served)
    eventually(lambda: _unpacked(tmp_path, job) == ENTRIES)
    served.http.delete(f"/v1/jobs/{job['job_id']}")
    assert served.ended_job(served.job(job["job_id"]), seconds=30)["state"] == "cancelled"
    eventually(lambda: not (tmp_path / "imports" / job["job_id"]).exists())


@pytest.mark.promise("cut-off-exports")
def test_an_export_whose_client_left_does_not_delay_a_stop_and_leaves_nothing(
    start, tmp_path, images
):
    served = start(tmp_path, program=SLOW_EXPORTS + START)
    served.enrolled("default", images[0])
    with served.sent(served.http.build_request("POST", f"{URL}/exports")):
        eventually(lambda: list(tmp_path.glob("exports/*/*")))
    assert served.stop() == 0
    assert not list(tmp_path.glob("exports/*/*"))
    again = start(tmp_path)
    assert again.results(f"{URL}/exports") == []
    assert again.export("default")
