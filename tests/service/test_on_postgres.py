"""Services of several machines whose record is in PostgreSQL: killed, promoted, and refused."""

import itertools
import os
import signal
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tests.bucket import bucket_server
from tests.forked import run_gmn
from tests.machines.ledger import GALLERY, Ledger, compare, writing
from tests.machines.proxy import PROGRAM
from tests.machines.run import kill_all
from tests.memory_folder import memory_folder
from tests.outside import crop_ids, problem
from tests.postgres import PostgresServer, postgres
from tests.service.conftest import Served, log_entries
from tests.waiting import eventually

REST_SECONDS = 3.0
TIMES = {"kill_service": 2, "kill_server": 2, "promote": 1}
RARE = {"cut_off": 2, "stop_service": 1, "put_back": 1}

pytestmark = [pytest.mark.slow, pytest.mark.promise("several-machines")]


@pytest.fixture
def place(tiny_artefact, tmp_path):
    """Yield a server and a function that starts a service of a machine, given by its name."""
    started = []
    logs = itertools.count()
    with postgres() as server:
        url = server.url("record")

        def start(machine="first", **more):
            settings = {"data_dir": tmp_path / machine, "artefact": tiny_artefact, **more}
            log = tmp_path / f"log.{next(logs)}"
            started.append(Served(log, database_url=url, **settings))
            return started[-1]

        try:
            yield server, start
        finally:
            for served in started:
                if served.process.poll() is None:
                    served.kill()


@pytest.mark.promise("1")
def test_what_was_acknowledged_survives_kills_of_the_machines_and_of_the_server(tiny_artefact):
    measured = kill_all(tiny_artefact, TIMES, seed=1)
    assert not measured["wrong"], measured
    assert measured["enrolled"] > 10
    assert measured["deleted"]


@pytest.mark.promise("1")
def test_what_was_acknowledged_survives_a_cut_off_commit_a_stop_and_an_earlier_copy(tiny_artefact):
    measured = kill_all(tiny_artefact, RARE, seed=1)
    assert not measured["wrong"], measured
    assert measured["enrolled"] > 10


@pytest.mark.skipif(PROGRAM is None, reason="haproxy is not installed")
def test_clients_of_the_proxy_go_on_when_a_machine_behind_it_is_killed(tiny_artefact):
    measured = kill_all(tiny_artefact, {"kill_behind_proxy": 2}, seed=1)
    assert not measured["wrong"], measured
    assert measured["enrolled"] > 10


def test_a_picture_in_a_bucket_is_shown_by_every_machine_and_goes_from_it(
    place, images, monkeypatch
):
    _, start = place
    with bucket_server() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        one, other = (start(name, images_url="s3://people/crops") for name in ("first", "second"))
        (crop_id,) = one.enrolled("default", images[0], identity="Ann")
        path = f"/v1/galleries/default/crops/{crop_id}"
        eventually(lambda: other.http.get(path).status_code == 200)
        assert other.http.get(f"{path}/image").content == images[0]
        assert other.http.delete(path).status_code in (200, 204)
        eventually(lambda: one.http.get(f"{path}/image").status_code == 404)
        (again,) = other.enrolled("default", images[0], identity="Ann")
        assert again != crop_id
        path = f"/v1/galleries/default/crops/{again}/image"
        eventually(lambda: one.http.get(path).status_code == 200)
        assert one.http.get(path).content == images[0]


@pytest.mark.promise("2")
def test_machines_refuse_a_standby_that_lagged_until_it_is_accepted(
    tiny_artefact, tmp_path, drawn_crops, images
):
    with tempfile.TemporaryDirectory(prefix="gmn-lag-", dir=memory_folder()) as name:
        folder = Path(name)
        folder.chmod(0o755)
        places = [folder / server for server in "ab"]
        for place in places:
            place.mkdir()
        primary = PostgresServer(places[0])
        standby = PostgresServer(places[1], primary)
        url = primary.url_of_both(standby, "record")
        data_dirs = [tmp_path / machine for machine in ("first", "second")]
        settings = {"artefact": tiny_artefact, "database_url": url}
        environment = {**os.environ, "GMN_DATABASE_URL": url}
        logs = (tmp_path / f"log-{number}" for number in itertools.count())
        machines = [Served(next(logs), data_dir=data_dir, **settings) for data_dir in data_dirs]
        writing, following = machines
        try:
            writing.create("lobby")
            crop_ids = writing.fill("lobby", drawn_crops[:4])
            standby.wait_for(primary)
            standby.stop()
            writing.delete_crop("lobby", crop_ids[0])
            eventually(lambda: crop_ids[0] not in following.found("lobby", images[0]))
            primary.kill()
            standby.start()
            standby.promote()
            for served in machines:
                eventually(lambda served=served: _says_what_lacks(served, images[0]))
                eventually(lambda served=served: "lacks commits" in served.http.get("/readyz").text)
                assert served.http.get("/readyz").status_code == 503
                assert "cannot be followed: PostgreSQL lacks commits" in served.log.read_text()
                served.kill()
            for data_dir in data_dirs:
                with pytest.raises(pytest.fail.Exception, match="gmn store accept-earlier-state"):
                    Served(next(logs), data_dir=data_dir, **settings)
                command = ("store", "accept-earlier-state", "--data-dir", str(data_dir))
                accepted = run_gmn(*command, env=environment)
                assert accepted.returncode == 0, accepted.stderr
                served = Served(next(logs), data_dir=data_dir, **settings)
                machines.append(served)
                assert crop_ids[0] not in served.found("lobby", images[0])
        finally:
            for served in machines:
                if served.process.poll() is None:
                    served.kill()
            for server in (primary, standby):
                if server.process.poll() is None:
                    server.stop()


def _says_what_lacks(served, image):
    refused = served.enroll("lobby", image)
    return refused.status_code == 503 and "lacks commits" in refused.json()["detail"]


def test_a_server_that_stands_still_is_told_and_nothing_is_lost_when_it_goes_on(place, images):
    server, start = place
    machines = [start("first"), start("second")]
    machines[0].create(GALLERY)
    eventually(lambda: machines[1].http.get(f"/v1/galleries/{GALLERY}").is_success)
    ledger = Ledger()
    with writing(ledger, machines) as clients:
        eventually(lambda: len(ledger.deleted) > 5)
        with server.standing_still():
            for served in machines:
                eventually(lambda served=served: served.http.get("/readyz").status_code == 503)
                for ask in (served.query, served.enroll):
                    refused = ask(GALLERY, images[0])
                    assert refused.status_code == 503, refused.text
                    assert refused.json()["type"] == "urn:gmn:problem:record_unavailable"
        went_on = time.monotonic()
        eventually(lambda: ledger.first_success_after(went_on) is not None)
        for served in machines:
            eventually(lambda served=served: served.http.get("/readyz").is_success)
    assert not [surprise for client in clients for surprise in client.surprises]
    wrong = compare(ledger, machines)
    assert not any(wrong.values()), wrong


def test_an_outage_has_one_line_at_its_start_and_one_at_its_end(place, images):
    server, start = place
    served = start()
    served.enrolled("default", images[0])
    _come_to_rest(server)
    at_start = sum(entry["level"] != "info" for entry in log_entries(served.log.read_text()))
    for outages in (1, 2):
        server.kill()
        eventually(lambda: served.http.get("/readyz").status_code == 503)
        # Each chore tries again meanwhile, and so do clients.
        until = time.monotonic() + REST_SECONDS
        while time.monotonic() < until:
            assert served.enroll("default", images[1]).status_code == 503
            assert served.query("default", images[0]).status_code == 503
        server.start()
        eventually(lambda: served.http.get("/readyz").is_success)
        served.delete_crop("default", served.enrolled("default", images[1])[0])
        _come_to_rest(server)
        entries = log_entries(served.log.read_text())
        lines = [entry["message"] for entry in entries if entry["level"] != "info"][at_start:]
        assert len(lines) == 2 * outages, lines
        assert "cannot be followed: PostgreSQL does not answer" in lines[-2]
        assert "followed again" in lines[-1]


def test_a_service_starts_and_searches_while_the_standby_is_away(place, images):
    primary, start = place
    with postgres(primary) as standby:
        primary.require_standby()
        first = start("first")
        second = start("second")
        first.enrolled("default", images[0])
        _come_to_rest(primary)
        first.enrolled("default", images[1])
        second.kill()
        standby.stop()
        try:
            second = start("second")
            assert len(second.found("default", images[0])) == 2
            assert second.http.get("/readyz").is_success
        finally:
            standby.start()
        second.enrolled("default", images[2])
        for service in (first, second):
            service.kill()


def test_a_service_that_stands_still_amid_a_write_keeps_no_machine_from_writing(place, images):
    _, start = place
    served = start("first")
    # It waits there with the turn of the writers.
    paused = start("second", failpoint="enroll.crop-written=delay:1")
    with ThreadPoolExecutor(1) as client:
        written = client.submit(paused.enroll, "default", images[0])
        eventually(lambda: "failpoint enroll.crop-written" in paused.log.read_text())
        paused.process.send_signal(signal.SIGSTOP)
        try:
            answers = []
            eventually(lambda: _has_enrolled(served, images[1], answers), 60.0)
            landed = crop_ids(answers[-1])
        finally:
            paused.process.send_signal(signal.SIGCONT)
        refused = written.result()
        assert problem(refused) == (503, "record_unavailable"), refused.text
    path = "/v1/galleries/default/crops"
    for service in (served, paused):
        eventually(lambda it=service: crop_ids(it.http.get(path)) == landed)
    landed += paused.enrolled("default", images[0])
    for service in (served, paused):
        eventually(lambda it=service: sorted(crop_ids(it.http.get(path))) == sorted(landed))
    (line,) = [line for line in served.log.read_text().splitlines() if "stood still amid" in line]
    assert "nothing of that write is stored" in line


def _has_enrolled(served, image, answers):
    answers.append(served.enroll("default", image))
    assert answers[-1].status_code in (201, 503), answers[-1].text
    return answers[-1].status_code == 201


def _come_to_rest(server):
    """Wait until services have done what they do after their start."""
    newest = None
    resting_since = time.monotonic()

    def rests():
        nonlocal newest, resting_since
        (state,) = server.query("SELECT value FROM record.record WHERE name = 'commit'")
        if state != newest:
            newest = state
            resting_since = time.monotonic()
        return time.monotonic() > resting_since + REST_SECONDS

    eventually(rests)


@pytest.mark.promise("1")
def test_a_stopped_service_whose_commit_waits_for_the_standby_is_not_ended(place, images):
    primary, start = place
    with postgres(primary) as standby:
        primary.require_standby()
        machines = [start("first"), start("second")]
        paused, served = machines
        with ThreadPoolExecutor(1) as client:
            _come_to_rest(primary)
            standby.stop()
            written = client.submit(paused.enroll, "default", images[0])
            eventually(primary.waiting_for_standby)
            waiting = primary.waiting_for_standby()
            paused.process.send_signal(signal.SIGSTOP)
            try:
                # Both take longer than who stands still is let wait.
                for _ in range(2):
                    refused = served.enroll("default", images[1])
                    assert problem(refused) == (503, "record_unavailable"), refused.text
                    assert "nothing was stored" in refused.json()["detail"]
                assert primary.waiting_for_standby() == waiting
            finally:
                standby.start()
                paused.process.send_signal(signal.SIGCONT)
            landed = crop_ids(written.result())
        assert written.result().status_code == 201
        landed += served.enrolled("default", images[1])
        path = "/v1/galleries/default/crops"
        for service in machines:
            eventually(lambda it=service: sorted(crop_ids(it.http.get(path))) == sorted(landed))
        for service in machines:
            service.kill()


@pytest.mark.promise("1")
def test_who_deletes_again_is_told_once_the_standby_lacks_the_deletion_no_more(place, images):
    primary, start = place
    with postgres(primary) as standby, ThreadPoolExecutor(4) as clients:
        primary.require_standby()
        first = start("first")
        second = start("second")
        (crop_id,) = first.enrolled("default", images[0])
        _come_to_rest(primary)
        standby.stop()
        try:
            deleted = clients.submit(first.http.delete, f"/v1/galleries/default/crops/{crop_id}")
            eventually(primary.waiting_for_standby)
            (process,) = primary.waiting_for_standby()
            primary.query(f"SELECT pg_terminate_backend({process})")
            eventually(lambda: process not in primary.waiting_for_standby())
            again = [
                clients.submit(second.http.delete, f"/v1/galleries/default/crops/{crop_id}"),
                clients.submit(second.http.delete, "/v1/galleries/none"),
            ]
            assert not wait([deleted, *again], timeout=3, return_when=FIRST_COMPLETED).done
        finally:
            standby.start()
        assert deleted.result().status_code == 200
        assert [future.result().status_code for future in again] == [404, 404]
        for service in (first, second):
            service.kill()


def test_who_forgets_a_person_is_told_that_postgresql_keeps_deleted_rows(place, drawn_crops):
    _, start = place
    served = start()
    served.create("lobby")
    served.fill("lobby", drawn_crops)
    answer = served.http.delete("/v1/galleries/lobby/identities/0000").json()
    (remainder,) = [part for part in answer["remaining"] if "PostgreSQL" in part["where"]]
    assert "VACUUM" in remainder["until"]
    assert not [part for part in answer["remaining"] if "SQLite" in part["what"]]


def test_another_machine_goes_on_with_the_record_and_the_former_one_joins_it(
    place, drawn_crops, images
):
    _, start = place
    first = start("first")
    first.create("lobby")
    crop_ids = first.fill("lobby", drawn_crops)
    found = first.found("lobby", images[0])
    first.kill()
    second = start("second")
    assert second.found("lobby", images[0]) == found
    second.delete_crop("lobby", crop_ids[0])
    # Its copy of the vectors is brought up to date.
    again = start("first")
    assert crop_ids[0] not in again.found("lobby", images[0])
    assert again.found("lobby", images[0]) == second.found("lobby", images[0])


def test_a_job_is_run_by_one_machine_and_by_the_other_once_that_is_killed(place, drawn_crops):
    _, start = place
    first = start("first")
    first.create("lobby")
    first.fill("lobby", drawn_crops)
    second = start("second")
    for killed in (None, first):
        if killed:
            killed.kill()
        job = second.http.post("/v1/galleries/lobby/groups").json()
        assert second.ended_job(job)["state"] == "done"
