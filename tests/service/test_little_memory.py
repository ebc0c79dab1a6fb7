"""Too little memory, too many open files and a failing disk: good input is not called damaged."""

import errno
import threading

import pytest

from service.errors import MachineFull, ServiceStopping
from service.ops.threads import MonitoredThreadPool
from tests.outside import problem
from tests.service.conftest import START
from tests.waiting import eventually

# While the file exists, the named function raises the error.
LACKING = """
import importlib
from pathlib import Path
owner = importlib.import_module({module!r})
for name in {owners!r}:
    owner = getattr(owner, name)
whole = getattr(owner, {function!r})
def lacking(*arguments, **named):
    if Path({begun!r}).exists():
        raise {error}
    return whole(*arguments, **named)
setattr(owner, {function!r}, lacking)
"""
NO_MEMORY = "MemoryError()"
TOO_MANY_FILES = f"OSError({errno.EMFILE}, 'Too many open files')"
FAILING_DISK = f"OSError({errno.EIO}, 'Input/output error')"


@pytest.fixture
def start_lacking(start, tmp_path):
    """Return a function that starts a service, and the file during which a function fails."""
    begun = tmp_path / "begun"

    def start_one(module, owners, function, error):
        names = {"module": module, "owners": owners, "function": function, "error": error}
        return start(program=LACKING.format(begun=str(begun), **names) + START), begun

    return start_one


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
        ("model.runtimes", ["OpenVinoRuntime"], "embed", NO_MEMORY, "too little memory"),
        ("service.http.limits", ["WholeForm"], "on_part_begin", NO_MEMORY, "too little memory"),
        ("service.http.limits", ["WholeForm"], "on_part_begin", TOO_MANY_FILES, "ulimit -n"),
        ("service.http.forms", ["SomeImagesForm"], "read_images", NO_MEMORY, "too little memory"),
        ("service.http.forms", ["SomeImagesForm"], "read_images", TOO_MANY_FILES, "ulimit -n"),
    ],
)
def test_a_request_for_which_the_machine_lacks_something_is_503_and_right_later(
    start_lacking, images, module, owners, function, error, said
):
    served, begun = start_lacking(module, owners, function, error)
    begun.touch()
    _is_retried_later(served.enroll("default", *images[:3], identity="Ann"), said)
    _is_retried_later(served.query("default", images[0]), said)
    assert served.http.get("/readyz").status_code == 200
    begun.unlink()
    assert served.results("/v1/galleries/default/crops") == []
    served.enrolled("default", *images[:3], identity="Ann")
    assert served.search("default", images[0])[0]["identity"] == "Ann"


@pytest.mark.parametrize(
    ("module", "owners", "function", "error"),
    [
        ("model.crops.decode", [], "_decode", NO_MEMORY),
        ("pathlib", ["Path"], "resolve", TOO_MANY_FILES),
        ("model.crops.unpack", [], "_unpack", TOO_MANY_FILES),
        ("model.crops.unpack", ["zipfile", "ZipFile"], "open", FAILING_DISK),
        ("service.jobs.import_files", ["os"], "fstat", FAILING_DISK),
        ("service.jobs.imports", [], "read_import", NO_MEMORY),
    ],
)
def test_an_import_for_which_the_machine_lacks_something_goes_on_later(
    start_lacking, images, module, owners, function, error
):
    served, begun = start_lacking(module, owners, function, error)
    begun.touch()
    entries = {f"Ann/{number}.png": image for number, image in enumerate(images[:3])}
    job = served.import_zip("default", entries)
    eventually(lambda: "was cut off" in served.log.read_text())
    assert served.job(job["job_id"])["state"] in ("queued", "running")
    begun.unlink()
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
