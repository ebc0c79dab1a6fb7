"""Several real processes on one record: two services, also on two machines, and one of two."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from uvicorn.config import STARTUP_FAILURE

from tests.engines import database_url
from tests.outside import crop_ids, zip_of_crops
from tests.service.conftest import START, Served, files, served_environment
from tests.service.gallery.new_crops import is_on_disk
from tests.waiting import eventually

WRITERS = 4
ENROLLED_BY_EACH = 6
LIVES = 12


def _start_two(start, *settings):
    with ThreadPoolExecutor(2) as both:
        starting = [both.submit(start, housekeeping_seconds=0.5, **given) for given in settings]
        return [future.result() for future in starting]


@pytest.fixture(scope="module")
def services(start, data_dir):
    return _start_two(start, *[{"data_dir": data_dir}] * 2)


@pytest.fixture(scope="module")
def machines(start, tmp_path_factory):
    """Return services of two machines, which share a record in PostgreSQL and no directory."""
    folders = [tmp_path_factory.mktemp("machine") for _ in "ab"]
    url = database_url(folders[0])
    return _start_two(start, *[{"data_dir": path, "database_url": url} for path in folders])


@pytest.fixture
def both(request, engine):
    """Return two services on one record: of one directory, or with PostgreSQL of two machines."""
    return request.getfixturevalue("services" if engine == "sqlite" else "machines")


@pytest.mark.promise("kept-searches")
def test_a_search_that_one_keeps_the_other_opens_reviews_and_forgets_at_once(both, images):
    one, other = both
    gallery = one.create("searched")
    crop_id = one.enrolled(gallery, images[0], identity="Ann")[0]
    kept = one.query(gallery, images[0], keep=True, keep_picture=True).json()
    path = f"/v1/galleries/{gallery}/queries/{kept['query_id']}"
    assert other.http.get(f"{path}/image").content == images[0]
    decision = {"crop_ids": crop_id, "decision": "confirmed"}
    reviewed = other.http.post(f"{path}/reviews", data=decision)
    assert reviewed.json()["reviews"] == one.read(path)["reviews"]
    forgotten = other.http.delete(f"/v1/galleries/{gallery}/identities/Ann")
    assert forgotten.json()["kept_searches"] == 1
    assert one.http.get(path).status_code == 404


def test_settings_names_imports_and_forgetting_reach_the_other(both, drawn_crops, images):
    one, other = both
    gallery = one.create("kept")
    url = f"/v1/galleries/{gallery}"
    one.fill(gallery, drawn_crops[:8])

    def names_found(version):
        found = one.search(gallery, images[0], top_k=8, min_version=version)
        return {result["identity"] for result in found}

    assert one.http.patch(url, data={"retention_days": "9"}).status_code == 200
    eventually(lambda: other.read(url)["retention_days"] == 9)
    content = one.export(gallery)
    renamed = other.http.patch(f"{url}/identities/0000", data={"new_identity": "Ann"}).json()
    assert names_found(renamed["gallery_version"]) == {"Ann", "0001"}
    assert other.http.delete(f"{url}/identities/0001").status_code == 200
    progress = other.import_archive(gallery, content)["progress"]
    assert (progress["landed"], progress["deleted"]) == (0, 4)
    assert names_found(other.read(url)["version"]) == {"Ann"}
    assert one.http.delete(url).status_code == 200
    assert other.query(gallery, images[0]).status_code == 404


def test_an_export_of_one_process_is_listed_by_the_other_and_named_to_who_forgets(
    services, drawn_crops
):
    one, other = services
    gallery = one.create("exported-once")
    one.fill(gallery, drawn_crops[:8])
    assert one.export(gallery)
    (export,) = other.results(f"/v1/galleries/{gallery}/exports")
    forgotten = other.http.delete(f"/v1/galleries/{gallery}/identities/0001").json()
    assert f"export {export['export_id']}" in {place["where"] for place in forgotten["remaining"]}


@pytest.mark.promise("several-processes")
def test_jobs_of_both_are_done_and_an_import_is_of_its_machine(both, drawn_crops):
    one, other = both
    gallery = one.create("imported")
    jobs = [
        served.import_archive(gallery, zip_of_crops(crops))
        for served, crops in ((one, drawn_crops[:4]), (other, drawn_crops[4:8]))
    ]
    assert [job["progress"]["landed"] for job in jobs] == [4, 4]
    workers = [job["worker"] for job in jobs]
    assert workers == [None, None] or len(set(workers)) == 2
    for served in both:
        assert served.read(f"/v1/jobs/{jobs[0]['job_id']}") == jobs[0]
        grouping = served.http.post(f"/v1/galleries/{gallery}/groups").json()
        assert served.ended_job(grouping)["state"] == "done"


@pytest.mark.promise("several-processes")
def test_many_writers_of_both_services_land_everything_in_one_gallery(both, drawn_crops):
    gallery = both[0].create("crowded")

    def enroll(writer):
        served = both[writer % 2]
        return [
            served.enroll(gallery, crop.png + bytes([writer]))
            for crop in drawn_crops[:ENROLLED_BY_EACH]
        ]

    with ThreadPoolExecutor(WRITERS) as writers:
        answers = [answer for each in writers.map(enroll, range(WRITERS)) for answer in each]
    landed = [crop_id for answer in answers for crop_id in crop_ids(answer)]
    assert len(set(landed)) == WRITERS * ENROLLED_BY_EACH
    # Requests that waited together are one commit and have one version.
    newest = max(answer.json()["gallery_version"] for answer in answers)
    for served in both:
        listed = served.results(f"/v1/galleries/{gallery}/crops?limit=100")
        assert {crop["crop_id"] for crop in listed} == set(landed)
        counted = served.read(f"/v1/galleries/{gallery}")
        assert (counted["crops"], counted["version"]) == (len(landed), newest)


@pytest.mark.promise("2")
@pytest.mark.slow
def test_every_crop_is_found_once_it_was_enrolled_and_never_once_it_was_deleted(both, images):
    gallery = both[0].create("histories")

    def live_and_die(writer):
        """Enroll and delete one crop after another, each call at either service by chance."""
        chance = random.Random(writer)
        image = images[writer]
        for _ in range(LIVES):
            enrolled = chance.choice(both).enroll(gallery, image, identity=f"writer {writer}")
            (crop_id,) = crop_ids(enrolled)
            asked = {"top_k": 100, "min_version": enrolled.json()["gallery_version"]}
            assert crop_id in chance.choice(both).found(gallery, image, **asked)
            chance.choice(both).delete_crop(gallery, crop_id)
            assert crop_id not in chance.choice(both).found(gallery, image, top_k=100)
            url = f"/v1/galleries/{gallery}/crops/{crop_id}"
            assert chance.choice(both).http.get(url).status_code == 404

    with ThreadPoolExecutor(WRITERS) as writers:
        assert list(writers.map(live_and_die, range(WRITERS))) == [None] * WRITERS
    for served in both:
        assert served.results(f"/v1/galleries/{gallery}/crops") == []


def two_processes(artefact, folder):
    # Each of the three processes would import PyTorch for seconds.
    settings = {
        "artefact": artefact,
        "data_dir": folder / "data",
        "processes": 2,
        "runtime": "openvino",
    }
    return Served(folder / "log", START, forked=False, **settings)


@pytest.fixture(scope="module")
def pairs():
    started = []
    yield started
    for served in started:
        served.stop()


@pytest.fixture
def pair(pairs, tiny_artefact, tmp_path_factory):
    """Return a service of two processes, another one after the test that stops it."""
    if not pairs or pairs[-1].process.poll() is not None:
        pairs.append(two_processes(tiny_artefact, tmp_path_factory.mktemp("pair")))
    return pairs[-1]


def _workers(served):
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
    pids = [int(pid) for pid in children.read_text().split()]
    workers = []
    for pid in pids:
        # A process may end while the list of them is read.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                workers.append(pid)
    return workers


def _answered(served):
    metrics = served.http.get("/metrics").text
    pattern = r'^gmn_http_requests_total\{.*/queries".*\} (\S+)$'
    return sum(float(count) for count in re.findall(pattern, metrics, re.MULTILINE))


@pytest.mark.promise("process-metrics")
@pytest.mark.slow
def test_metrics_are_the_sum_over_the_processes_of_a_port(pair, images):
    gallery = pair.create("summed")
    pair.enrolled(gallery, images[0])
    before = _answered(pair)

    def search(_):
        # Over a connection of its own, which either process may accept.
        url = f"{pair.http.base_url}/v1/galleries/{gallery}/queries"
        return httpx2.post(url, files=files(images[0]), timeout=60.0).status_code

    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(search, range(24))) == [200] * 24
    # A request is counted once it was answered.
    eventually(lambda: _answered(pair) == before + 24)
    assert [_answered(pair) for _ in range(4)] == [before + 24] * 4


@pytest.mark.promise("process-metrics")
@pytest.mark.slow
def test_a_process_that_is_killed_is_replaced_and_loses_nothing(pair, images):
    gallery = pair.create("replaced")
    landed = pair.enrolled(gallery, images[0])
    killed = _workers(pair)[0]
    # It is killed while it is asked whether it is well.
    os.kill(killed, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: len(set(_workers(pair)) - {killed}) == 2)
    eventually(lambda: pair.http.get("/readyz").status_code == 200)
    assert pair.found(gallery, images[0]) == landed


@pytest.mark.slow
def test_several_processes_announce_a_new_data_directory_and_the_terms_of_the_model_once(pair):
    log = pair.log.read_text()
    assert log.count("made a new data directory") == 1
    assert re.findall("^Artefact [^:]*: (.*)$", log, re.MULTILINE) == [
        pair.http.get("/v1/model").json()["provenance"]["terms"]
    ]


@pytest.mark.promise("log-without-names")
@pytest.mark.slow
def test_the_log_of_several_processes_has_no_paths(pair):
    assert pair.http.get("/v1/galleries/default/identities/Ann").status_code == 404
    eventually(lambda: "{identity:path} 404" in pair.log.read_text())
    assert "Ann" not in pair.log.read_text()


def _refuses(served):
    address = (served.http.base_url.host, served.http.base_url.port)
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(address):
        return False
    return True


@pytest.mark.promise("stops")
@pytest.mark.slow
def test_several_processes_that_are_stopped_refuse_connections_and_finish_what_was_begun(
    pair, images
):
    begun = threading.Event()
    refused = threading.Event()

    def body():
        yield b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
        begun.set()
        refused.wait(60)
        yield images[0] + b"\r\n--b--\r\n"

    form = {"Content-Type": "multipart/form-data; boundary=b"}
    url = "/v1/galleries/default/crops"
    with ThreadPoolExecutor(1) as client:
        sent = client.submit(pair.http.post, url, content=body(), headers=form)
        assert begun.wait(20)
        pair.process.send_signal(signal.SIGTERM)
        eventually(lambda: _refuses(pair))
        assert not sent.done()
        refused.set()
        assert sent.result().status_code == 201
    assert pair.process.wait(40) == 0


@pytest.mark.slow
def test_where_the_first_process_is_killed_the_others_end_and_the_port_is_free(
    tiny_artefact, tmp_path
):
    served = two_processes(tiny_artefact, tmp_path)
    workers = _workers(served)
    served.kill()
    eventually(lambda: _refuses(served))
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


@pytest.mark.promise("cut-off-exports")
@pytest.mark.slow
def test_what_a_process_that_was_killed_at_an_export_left_is_removed_by_the_next_start(
    start, tmp_path, images
):
    killed = start(tmp_path, failpoint="export.written")
    served = start(tmp_path)
    killed.enrolled("default", images[0], identity="Ann")
    with pytest.raises(httpx2.TransportError):
        killed.http.post("/v1/galleries/default/exports")
    assert is_on_disk(tmp_path / "exports", images[0][600:660])
    assert served.results("/v1/galleries/default/exports") == []
    again = start(tmp_path)
    assert list(tmp_path.glob("exports/*/*")) == []
    assert again.export("default")


@pytest.mark.promise("exports")
@pytest.mark.slow
def test_two_processes_never_make_more_exports_than_a_gallery_may_have(services):
    gallery = services[0].create("exported")
    url = f"/v1/galleries/{gallery}/exports"
    with ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(services[n % 2].http.post, url) for n in range(12)]
        statuses = Counter(answer.result().status_code for answer in asked)
    assert statuses == {201: 8, 409: 4}
    assert len(services[1].results(url)) == 8


def _wait_for_workers(process, count, seconds=60):
    """Return the workers of a service that is starting, once there are so many."""
    until = time.monotonic() + seconds
    while len(workers := _workers(process)) < count:
        assert process.process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    return workers


class Starting:
    """A service of two processes that is starting."""

    def __init__(self, artefact, folder):
        self.log = folder / "log"
        settings = {"artefact": artefact, "data_dir": folder / "data", "processes": 2}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START],
                stdout=log,
                stderr=log,
                env=served_environment(runtime="openvino", **settings),
            )

    def said(self, pattern):
        return re.findall(pattern, self.log.read_text(), re.MULTILINE)


@pytest.fixture
def starting(tiny_artefact, tmp_path):
    begun = Starting(tiny_artefact, tmp_path)
    yield begun
    begun.process.kill()
    begun.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_process_that_is_killed_while_the_service_starts_is_replaced(starting, number):
    before = _wait_for_workers(starting, number)
    killed = next(pid for pid in before if number == 1 or pid != before[0])
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: starting.said(r"^Serving on (\S+) with 2 processes$"))
    (url,) = starting.said(r"^Serving on (\S+) with 2 processes$")
    assert len(set(_workers(starting)) - {killed}) == 2
    answers = [httpx2.get(f"{url}/readyz").status_code for _ in range(20)]
    assert answers == [200] * 20
    (level, message) = starting.said(r'"level": "(\w+)".*"message": "(process \d+ has ended.*?)"')[
        0
    ]
    assert level == "error"
    assert message == f"process {killed} has ended while it started: exit status -9"
    starting.process.terminate()
    assert starting.process.wait(40) == 0


@pytest.mark.slow
def test_a_service_whose_process_is_killed_at_each_start_ends_with_an_error(starting):
    first, _ = _wait_for_workers(starting, 2)
    ended = set()
    until = time.monotonic() + 120
    while starting.process.poll() is None:
        assert time.monotonic() < until
        for pid in set(_workers(starting)) - {first} - ended:
            os.kill(pid, signal.SIGKILL)
            ended.add(pid)
        time.sleep(0.02)
    assert starting.process.returncode == STARTUP_FAILURE
    pattern = r"process (\d+) has ended while it started: exit status -9"
    assert [int(pid) for pid in starting.said(pattern)] == sorted(ended)
    assert len(ended) == 3
    assert len(starting.said("its processes cannot start")) == 1
    assert not starting.said("^Serving on")
    eventually(lambda: not Path(f"/proc/{first}").exists())


@pytest.mark.slow
def test_a_service_that_is_stopped_while_it_starts_ends_at_once(starting):
    _wait_for_workers(starting, 1)
    starting.process.terminate()
    assert starting.process.wait(40) == 0
    assert not starting.said("^Serving on")
    assert not starting.said("has ended while")
