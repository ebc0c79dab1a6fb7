"""A service, in a process of its own or in this one, driven through its API."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest

from gmn_client import Client
from service.engine.device import DeviceThread
from tests.engines import database_url, record_environment
from tests.failpoints import ENVIRONMENT
from tests.forked import Forked, run_forked
from tests.outside import bearer, crop_ids, zip_of
from tests.service.watch_places import passersby, receiving
from tests.waiting import eventually, growing_pauses

START = (
    "import sys; from tests.failpoints import arm; arm()\n"
    "from service.commands.serve import serve; "
    "from model.problems import InputProblem\n"
    "try: serve()\n"
    "except InputProblem as problem: sys.exit(f'{problem}')"
)
STARTED = re.compile(r"Serving on (http://\S+)")
START_SECONDS = 90
# Hundreds of services would each take half of 64 MiB.
RESERVED_DISK_BYTES = 1024 * 1024
# The watchdog would end the process of the tests; their time limit ends a test that stands still.
LONG_STALL_SECONDS = 3600
SHARED_LIMITS = {
    "max_image_bytes": 200_000,
    "max_body_bytes": 2_000_000,
    "max_images_per_request": 24,
}


def served_environment(**settings):
    """Return the environment of a process that serves with settings, on a free port."""
    return os.environ | service_variables(**settings)


def service_variables(**settings):
    """Return the variables of a service with settings, on a free port."""
    # Measuring which runtime is the fastest takes longer than most tests.
    own = {"GMN_PORT": "0", "GMN_DEVICE": "cpu", "GMN_RUNTIME": "openvino"}
    own["GMN_RESERVED_DISK_BYTES"] = str(RESERVED_DISK_BYTES)
    if failpoint := settings.pop("failpoint", None):
        own[ENVIRONMENT] = failpoint
    if data_dir := settings.get("data_dir"):
        own |= record_environment(data_dir)
    return own | {f"GMN_{name.upper()}": str(value) for name, value in settings.items()}


class ServiceCalls:
    """Calls of the API as tests make them.

    Attributes:
        http: client of the service.
    """

    def create(self, gallery, **settings):
        fields = {"name": gallery, **settings}
        assert self.http.post("/v1/galleries", data=fields).status_code == 201
        return gallery

    def make_key(self, scopes, **asked):
        """Make a key over HTTP, and return its id and the header that sends it."""
        made = self.http.post("/v1/keys", data={"scopes": scopes}, **asked)
        assert made.status_code == 201, made.text
        return made.json()["key_id"], bearer(made.json()["key"])

    def enroll(self, gallery, *images, **fields):
        return self.http.post(f"/v1/galleries/{gallery}/crops", files=files(*images), data=fields)

    def enrolled(self, gallery, *images, **fields):
        """Enroll images that all land, and return the ids of their crops."""
        answer = self.enroll(gallery, *images, **fields)
        assert answer.status_code == 201, answer.text
        return crop_ids(answer)

    def fill(self, gallery, crops, **fields):
        """Enroll drawn crops with their identities and cameras, and return their ids."""
        crops = list(crops)
        labels = {
            "identity": [crop.identity for crop in crops],
            "camera": [crop.camera for crop in crops],
        }
        return self.enrolled(gallery, *(crop.png for crop in crops), **{**labels, **fields})

    def delete_crop(self, gallery, crop_id):
        answer = self.http.delete(f"/v1/galleries/{gallery}/crops/{crop_id}")
        assert answer.status_code == 200, answer.text

    def export(self, gallery, **fields):
        """Make an export of a gallery, and return the content of its file."""
        url = f"/v1/galleries/{gallery}/exports"
        answer = self.http.post(url, data=fields)
        assert answer.status_code == 201, answer.text
        content = self.http.get(f"{url}/{answer.json()['export_id']}/content")
        assert content.status_code == 200, content.text
        return content.content

    def import_archive(self, gallery, content, **fields):
        """Import a file, and return the job that has ended."""
        url = f"/v1/galleries/{gallery}/imports"
        answer = self.http.post(url, files={"archive": ("a.zip", content)}, data=fields)
        assert answer.status_code == 202, answer.text
        return self.ended_job(answer.json())

    def import_zip(self, gallery, entries, **fields):
        """Begin to import an archive, and return the job."""
        url = f"/v1/galleries/{gallery}/imports"
        answer = self.http.post(url, files={"archive": ("a.zip", zip_of(entries))}, data=fields)
        assert answer.status_code == 202, answer.text
        job = answer.json()
        assert answer.headers["Location"] == f"/v1/jobs/{job['job_id']}"
        return job

    def job(self, job_id):
        return self.read(f"/v1/jobs/{job_id}")

    def ended_job(self, job, seconds=120.0):
        """Return a job as it is once it has ended."""
        until = time.monotonic() + seconds
        pauses = growing_pauses()
        while job["state"] in ("queued", "running"):
            assert time.monotonic() < until, job
            time.sleep(next(pauses))
            job = self.job(job["job_id"])
        return job

    def query(self, gallery, *images, **fields):
        return self.http.post(f"/v1/galleries/{gallery}/queries", files=files(*images), data=fields)

    def found(self, gallery, *images, **fields):
        """Return the ids of the crops that a query finds, best first."""
        return crop_ids(self.query(gallery, *images, **fields))

    def search(self, gallery, *images, **fields):
        """Return the results of a query that is answered."""
        answer = self.query(gallery, *images, **fields)
        assert answer.status_code in (200, 207), answer.text
        return answer.json()["results"]

    def read(self, path, **asked):
        """Return the JSON of a call that is answered."""
        answer = self.http.get(path, **asked)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def results(self, path, **asked):
        return self.read(path, **asked)["results"]


class Served(ServiceCalls):
    """One process of the service; its log goes to `log`."""

    def __init__(self, log, program=START, forked=True, **settings):
        """Start the service, and wait until it serves.

        Args:
            log: file for its standard error.
            program: Python source.
            forked: False for a new interpreter, where it matters how its process begins.
            settings: those of the service, by their names.
        """
        self.log = log
        output, end = os.pipe()
        self.output = os.fdopen(output)
        environment = served_environment(**settings)
        with log.open("wb") as errors:
            self.process = (
                Forked(program, stdout=end, stderr=errors.fileno(), env=environment)
                if forked
                else subprocess.Popen(
                    [sys.executable, "-c", program], stdout=end, stderr=errors, env=environment
                )
            )
        os.close(end)
        printed, _, _ = select.select([self.output], [], [], START_SECONDS)
        found = STARTED.search(self.output.readline() if printed else "")
        if found is None:
            self.kill()
            pytest.fail(f"the service did not start: {log.read_text()[-2000:]}")
        self.http = httpx2.Client(base_url=found[1], timeout=60.0)

    def connect(self, api_key=None, **options):
        """Return a client of the package, with options of `Client`."""
        return Client(str(self.http.base_url), api_key, **options)

    def kill(self):
        self.process.kill()
        self.ended_with()

    def stop(self):
        """SIGTERM, as a supervisor sends it; answers the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended_with()

    def ended_with(self, seconds=40.0):
        status = self.process.wait(seconds)
        self.output.close()
        if hasattr(self, "http"):
            self.http.close()
        return status

    @contextlib.contextmanager
    def sent(self, request):
        """Send a request that `http` has built; its client leaves with the block."""
        address = urlsplit(str(self.http.base_url))
        body = request.read()
        head = f"{request.method} {request.url.path} HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in request.headers.items()
        )
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(head.encode() + b"\r\n" + body)
            yield

    def drops_who_left(self, request, path):
        """Send requests whose client leaves, until one is dropped and holds no cost.

        Args:
            request: built by `http`.
            path: of its route, as the metrics name it; a regular expression.
        """

        def metrics_say(pattern):
            return re.search(pattern, self.http.get("/metrics").text, re.MULTILINE)

        def dropped():
            # One may be answered before its client is seen to have left.
            with self.sent(request):
                pass
            return metrics_say(rf'gmn_http_requests_total\{{.*{path}status="499"\}} [1-9]')

        eventually(dropped)
        eventually(lambda: metrics_say(r"^gmn_cost_in_flight 0\.0$"))


class ServiceInProcess(ServiceCalls):
    """A service in this process: its application and its background work, without a server.

    It cannot be killed, has no failpoints, and writes its log to that of the tests.
    """

    def __init__(self, **settings):
        """Open the service.

        Args:
            settings: those of the service, by their names.
        """
        # The environment of a camera has no application.
        from tests.service.in_process import application_client

        variables = service_variables(**{"stall_seconds": LONG_STALL_SECONDS, **settings})
        if ENVIRONMENT in variables:
            pytest.fail("a failpoint acts on a whole process: start one")
        self.http = application_client(variables)
        self.http.__enter__()
        self._is_open = True

    def connect(self, api_key=None, **options):
        """Return a client of the package, with options of `Client`."""
        transport = self.http._transport
        return Client(str(self.http.base_url), api_key, transport=transport, **options)

    def stop(self):
        """Close the service as a stop of its process does, and return the exit status of that."""
        if self._is_open:
            self._is_open = False
            self.http.__exit__(None, None, None)
            # FastAPI caches a function of every application, which would keep its networks.
            self.http.app.state._state.clear()
        return 0

    kill = stop


def log_entries(text):
    """Return the entries of a JSON log, beside which a start tells its artefact and terms."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def loop_cpu_seconds(served):
    """Return the processor time of a service's event loop so far.

    Unlike the time until it answers, this is the same on a machine that other tests keep busy.
    """
    process = served.process.pid
    # The name before the parenthesis may contain spaces; see proc_pid_stat(5).
    fields = Path(f"/proc/{process}/task/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def files(*images):
    return [("images", ("crop", image)) for image in images]


@contextlib.contextmanager
def serving(artefact, data_dir, **settings):
    """Yield the address of a service that stops with the block; its log lies beside its data."""
    log = data_dir.with_suffix(".log")
    served = Served(log, artefact=artefact, data_dir=data_dir, **settings)
    try:
        yield str(served.http.base_url).rstrip("/")
    finally:
        served.stop()


@contextlib.contextmanager
def running(artefact, data_dir, **more):
    """Yield a runtime of the service in this process, which is closed with the block."""
    from service.runtime import Runtime
    from service.settings import Settings

    own = {"device": "cpu", "runtime": "torch", "database_url": database_url(data_dir)}
    own["reserved_disk_bytes"] = RESERVED_DISK_BYTES
    settings = Settings(artefact=str(artefact), data_dir=data_dir, **{**own, **more})
    with contextlib.closing(Runtime(settings)) as opened:
        yield opened


def _in_a_process(place, **settings):
    return Served(place / "log", **settings)


def _in_this_process(_, **settings):
    return ServiceInProcess(**settings)


@contextlib.contextmanager
def _services(artefact, places, kind):
    """Yield a function that starts services of a kind, and kill the running ones at the end."""
    started = []

    def start_one(data_dir=None, **settings):
        place = places.mktemp("served")
        # A new directory would be announced between the lines of the log.
        (place / "data").mkdir()
        settings = {"artefact": artefact, "data_dir": data_dir or place / "data", **settings}
        started.append(kind(place, **settings))
        return started[-1]

    start_one.started = started
    yield start_one
    _kill(started)


def _kill(services):
    for served in services:
        served.kill()


@pytest.fixture(scope="module")
def start(tiny_artefact, tmp_path_factory, engine):
    """Return a function that starts processes of the service, for a test or fixtures of a file."""
    with _services(tiny_artefact, tmp_path_factory, _in_a_process) as start_one:
        yield start_one


@pytest.fixture(scope="module")
def open_service(tiny_artefact, tmp_path_factory, engine):
    """Return a function that opens services in this process, for a test or fixtures of a file."""
    with _services(tiny_artefact, tmp_path_factory, _in_this_process) as open_one:
        yield open_one


@pytest.fixture(autouse=True)
def kill_services_of_a_test(request):
    """Kill the services that a test has started itself: each takes a part of a core to idle."""
    if "tmp_path" in request.fixturenames:
        # It is removed after a test, which a service may not notice.
        request.getfixturevalue("tmp_path")
    starts = [
        request.getfixturevalue(name).started
        for name in ("start", "open_service")
        if name in request.fixturenames
    ]
    before = [len(started) for started in starts]
    yield
    for started, count in zip(starts, before, strict=True):
        _kill(started[count:])
        # One that ran in this process would keep its memory until the end of the file.
        del started[count:]


@pytest.fixture(scope="session")
def start_shared(tiny_artefact, tmp_path_factory, engine):
    """Return a function that starts services, which live as long as the session."""
    with _services(tiny_artefact, tmp_path_factory, _in_a_process) as start_one:
        yield start_one


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, engine):
    """Return a directory for the services of a file."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def device():
    thread = DeviceThread()
    yield thread
    thread.shutdown()


@pytest.fixture(scope="session")
def other_artefact(tiny_artefact, tmp_path_factory):
    """Return the tiny artefact with another embedder."""
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    save_other_artefact(path, tiny_artefact)
    return path


def save_other_artefact(path, tiny_artefact):
    """Write the artefact of `other_artefact`, for programs that are no tests."""
    import torch

    from model.artefact import load_artefact
    from training.evaluation.files import save_artefact

    artefact = load_artefact(tiny_artefact)
    with torch.no_grad():
        artefact.embedder.neck.weight.mul_(1.5)
    save_artefact(path, artefact.description, artefact.embedder, artefact.metric_network)


@pytest.fixture(scope="session")
def refused_start(tiny_artefact):
    """Return a function that tries to start a service that must not start; it returns the error."""

    def try_to_start(data_dir, **more):
        settings = {"artefact": tiny_artefact, "data_dir": data_dir, **more}
        try:
            refused = run_forked(START, timeout=START_SECONDS, env=served_environment(**settings))
        except subprocess.TimeoutExpired as timeout:
            raise AssertionError("it started") from timeout
        assert refused.returncode == 1
        return refused.stderr

    return try_to_start


@pytest.fixture(scope="session")
def served(start_shared):
    """Return the process that many files share; each test makes galleries of its own."""
    return start_shared(**SHARED_LIMITS)


@pytest.fixture(scope="module")
def served_here(open_service):
    """Return a service in this process with the limits of `served`, which the file shares."""
    return open_service(**SHARED_LIMITS)


@pytest.fixture
def gallery(served, request):
    """Return an empty gallery named after the test."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[-50:].strip("-")
    return served.create(f"{name}.{uuid4().hex[:8]}")


@pytest.fixture
def client(served, gallery):
    """Yield a client whose calls mean the test's own gallery."""
    with served.connect(gallery=gallery) as opened:
        yield opened


@pytest.fixture(scope="session")
def images(drawn_crops):
    """Return the files of the drawn crops."""
    return [crop.png for crop in drawn_crops]


@pytest.fixture
def filled(served, gallery, drawn_crops):
    """Return a gallery with every drawn crop."""
    served.fill(gallery, drawn_crops)
    return gallery


@pytest.fixture
def receiver(watching):
    """Yield a receiver of alerts; the file's own service has no webhook afterwards."""
    with receiving(watching) as opened:
        yield opened


@pytest.fixture(scope="module")
def people(watching, data_dir):
    """Yield another process on the data directory of the file's own service."""
    with passersby(data_dir) as found:
        yield found
