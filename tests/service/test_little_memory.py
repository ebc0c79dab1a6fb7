"""Too little memory, too many open files and a failing disk: good input is not called damaged."""

import contextlib
import errno
import importlib
import threading

import pytest

from service.errors import MachineFull, ServiceStopping
from service.ops.threads import MonitoredThreadPool
from tests.outside import problem, zip_of
from tests.waiting import eventually

NO_MEMORY = MemoryError()
TOO_MANY_FILES = OSError(errno.EMFILE, "Too many open files")
FAILING_DISK = OSError(errno.EIO, "Input/output error")


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


@pytest.fixture
def lacking(monkeypatch):
    """Return a context in which a function raises an error."""

    @contextlib.contextmanager
    def lack(module, owners, function, error):
        owner = importlib.import_module(module)
        for name in owners:
            owner = getattr(owner, name)

        def fail(*_, **__):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(owner, function, fail)
            yield

    return lack


def _is_retried_later(answer, said):
    assert problem(answer) == (503, "machine_full")
    assert int(answer.headers["Retry-After"]) > 0
    assert said in answer.json()["detail"]
    assert "send the request again" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("module", "owners", "function", "error", "said"),
    [
        ("model.crops.decode", [], "_decode", NO_MEMORY, "too little memory"),
        ("model.preprocessing", ["Preprocessing"], "resize", NO_MEMORY, "too little memory"),
        ("model.runtimes", ["OpenVinoRuntime"], "_embed_crop", NO_MEMORY, "too little memory"),
        ("service.http.limits", [], "read_form", NO_MEMORY, "too little memory"),
        ("service.http.limits", [], "read_form", TOO_MANY_FILES, "ulimit -n"),
        ("service.http.forms", ["SomeImagesForm"], "read_images", NO_MEMORY, "too little memory"),
        ("service.http.forms", ["SomeImagesForm"], "read_images", TOO_MANY_FILES, "ulimit -n"),
    ],
)
def test_a_request_for_which_the_machine_lacks_something_is_503_and_right_later(
    served, gallery, lacking, images, module, owners, function, error, said
):
    with lacking(module, owners, function, error):
        _is_retried_later(served.enroll(gallery, *images[:3], identity="Ann"), said)
        _is_retried_later(served.query(gallery, images[0]), said)
        assert served.http.get("/readyz").status_code == 200
    assert served.results(f"/v1/galleries/{gallery}/crops") == []
    served.enrolled(gallery, *images[:3], identity="Ann")
    assert served.search(gallery, images[0])[0]["identity"] == "Ann"


@pytest.mark.parametrize(
    ("module", "owners", "function", "error"),
    [
        ("model.crops.decode", [], "_decode", NO_MEMORY),
        ("pathlib", ["Path"], "resolve", TOO_MANY_FILES),
        ("model.crops.unpack", [], "_unpack", TOO_MANY_FILES),
        ("model.crops.unpack", ["zipfile", "ZipFile"], "open", FAILING_DISK),
        ("service.jobs.import_folder", ["os"], "fstat", FAILING_DISK),
        ("service.jobs.imports", [], "read_import", NO_MEMORY),
    ],
)
def test_an_import_for_which_the_machine_lacks_something_goes_on_later(
    served, gallery, lacking, images, caplog, module, owners, function, error
):
    entries = {f"Ann/{number}.png": image for number, image in enumerate(images[:3])}
    # Packing it needs what the machine then lacks.
    archive = {"archive": ("a.zip", zip_of(entries))}
    with lacking(module, owners, function, error):
        job = served.http.post(f"/v1/galleries/{gallery}/imports", files=archive).json()
        eventually(lambda: f"job {job['job_id']} was cut off" in caplog.text)
        assert served.job(job["job_id"])["state"] in ("queued", "running")
    # The jobs go on with a new one at once, and otherwise after some seconds.
    served.import_zip(gallery, {"Bob/1.png": images[3]})
    ended = served.ended_job(job)
    assert ended["state"] == "done", ended
    assert ended["progress"]["landed"] == 3
    assert ended["progress"]["refused"] == 0


def test_without_memory_for_another_thread_the_others_do_the_work(monkeypatch):
    pool = MonitoredThreadPool(4, "few threads")
    release = threading.Event()

    def fail(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as lacking:
        lacking.setattr(threading.Thread, "start", fail)
        with pytest.raises(MachineFull, match="too little memory"):
            pool.submit(str)
    first = pool.submit(release.wait)
    with monkeypatch.context() as lacking:
        lacking.setattr(threading.Thread, "start", fail)
        second = pool.submit(lambda: "done")
        release.set()
        assert second.result(20) == "done"
    assert first.result(20)
    pool.shutdown()
    with pytest.raises(ServiceStopping):
        pool.submit(str)
