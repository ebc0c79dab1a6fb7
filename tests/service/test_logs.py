"""The service's log names no person: no identity, no file name, no query string."""

import asyncio
import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import gmn
from service.errors import UnknownIdentity
from service.ops.critical_sections import CriticalSections
from service.ops.logs import JsonFormatter, LoopErrorLog, TextFormatter
from tests.outside import zip_of
from tests.service.conftest import START, log_entries, served_environment
from tests.waiting import eventually

pytestmark = pytest.mark.promise("log-without-names")

ROOT = Path(__file__).parents[2]
PERSON = "Ann-Example"
# Listing and renaming raise exceptions, awaited and not, whose messages repeat the request.
BROKEN = """
import asyncio
import gc
import logging

from service.gallery.changes import CropChanges
from service.record.crops import Crops

async def unawaited(*sent):
    raise ValueError(sent)

async def broken(*sent):
    logging.getLogger("python_multipart").debug("%s", sent)
    task = asyncio.create_task(unawaited(*sent[1:]), name=f"rename {sent[1:]}")
    await asyncio.sleep(0)
    try:
        raise RuntimeError(sent[1:])
    except RuntimeError as error:
        raise ExceptionGroup(f"{sent[1:]}", [LookupError(sent[1:])]) from error

def unreadable(*sent):
    # Collects the task that nothing awaited.
    gc.collect()
    raise LookupError(sent[1:])

CropChanges.relabel_identity = broken
Crops.page = unreadable
"""


@pytest.fixture(scope="module", params=["info", "debug"])
def logged(request, start):
    """Return a service of which two calls are broken."""
    return start(program=BROKEN + START, log_level=request.param)


@pytest.mark.slow
def test_forgetting_and_renaming_leave_no_name_in_the_log(logged, drawn_crops):
    http = logged.http
    where = "/v1/galleries/default"
    image = drawn_crops[0].png
    images = [("images", (f"{PERSON}.png", image))]
    named = http.post(f"{where}/crops", files=images, data={"identity": PERSON})
    assert named.status_code == 201
    assert http.post(f"{where}/queries", files=images).status_code == 200
    refused = http.post(f"{where}/queries", files=[("images", (f"{PERSON}.png", b"no image"))])
    assert refused.status_code == 422
    http.get(f"/v1/{PERSON}")
    http.request(PERSON, f"{where}/identities/{PERSON}")
    renamed = http.patch(f"{where}/identities/{PERSON}", data={"new_identity": f"{PERSON}-2"})
    assert renamed.status_code == 500
    assert http.get(f"{where}/crops?identity={PERSON}").status_code == 500
    forgotten = http.delete(f"{where}/identities/{PERSON}", headers={"X-Request-ID": "request-7"})
    assert forgotten.json()["removed"] == 1

    def messages():
        # The last line may be being written.
        finished = logged.log.read_text().rpartition("\n")[0]
        entries = log_entries(finished)
        return [entry["message"] for entry in entries if entry.get("request_id") == "request-7"]

    eventually(messages)
    assert messages() == ["DELETE /v1/galleries/{gallery}/identities/{identity:path} 200"]
    eventually(lambda: "event loop: " in logged.log.read_text())
    log = logged.log.read_text()
    assert PERSON not in log
    assert "identity=" not in log
    # The failure and its place are there all the same.
    assert "LookupError" in log
    assert "in broken" in log


def test_libraries_log_warnings_alone(logged):
    lines = log_entries(logged.log.read_text())
    of_libraries = [
        line for line in lines if not line["logger"].startswith(("service", "model", "uvicorn"))
    ]
    assert lines
    assert {line["level"] for line in of_libraries} <= {"warning", "error", "critical"}


def test_an_import_leaves_no_file_name_in_the_log(logged, images):
    manifest = f"path,identity,camera\n{PERSON}.png,{PERSON},east\n"
    entries = {f"{PERSON}.png": images[1], f"{PERSON}/bad.png": b"no image"}
    sent = {"archive": (f"{PERSON}.zip", zip_of({**entries, "manifest.csv": manifest}))}
    gallery = logged.create("imported")
    job = logged.http.post(f"/v1/galleries/{gallery}/imports", files=sent).json()
    assert logged.ended_job(job)["state"] == "done"
    assert PERSON not in logged.log.read_text()


def test_a_traceback_keeps_messages_that_name_code_and_no_others():
    def line(error):
        record = logging.makeLogRecord({"msg": "failed", "exc_info": (type(error), error, None)})
        return json.loads(JsonFormatter().format(record))["traceback"]

    assert "builtins.TypeError: 'NoneType'" in line(TypeError("'NoneType' is not iterable"))
    assert line(KeyError(PERSON)).endswith("builtins.KeyError\n")
    assert line(OSError(28, "No space left", f"{PERSON}.png")).endswith(
        "[Errno 28] No space left\n"
    )
    itself = TypeError("from itself")
    itself.__cause__ = itself
    assert line(itself).count("from itself") == 1


def test_an_error_of_the_event_loop_that_comes_again_and_again_is_logged_once_a_second(caplog):
    logged = LoopErrorLog()
    accept = {"message": "socket.accept() out of system resource", "exception": OSError(24, "full")}
    for _ in range(1000):
        logged(None, accept)
    logged(None, {"message": "Task was destroyed but it is pending!"})
    assert [record.getMessage() for record in caplog.records] == [
        "event loop: socket.accept() out of system resource",
        "event loop: Task was destroyed but it is pending!",
    ]


async def test_a_failed_section_of_a_cancelled_request_logs_no_identity(caplog):
    async def fail():
        await asyncio.sleep(0.1)
        raise UnknownIdentity("street", PERSON)

    request = asyncio.create_task(CriticalSections().run(fail()))
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert "UnknownIdentity" in "".join(lines)
    assert PERSON not in "".join(lines)


class OnTerminal:
    """A service whose standard streams are a terminal."""

    def __init__(self, artefact, data_dir, **settings):
        self.shown = ""
        self._terminal, end = pty.openpty()
        environment = served_environment(
            artefact=artefact, data_dir=data_dir, runtime="openvino", **settings
        )
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, gmn.__file__, "serve"],
            stdin=end,
            stdout=end,
            stderr=end,
            env=environment,
        )
        os.close(end)

    def show_until(self, text):
        """Read what the terminal shows until a text, which the end of the service is too."""
        while text not in self.shown:
            readable, _, _ = select.select([self._terminal], [], [], 90)
            assert readable, self.shown
            try:
                self.shown += os.read(self._terminal, 4096).decode()
            except OSError:
                # So a terminal ends whose programs have ended.
                return

    def lines(self):
        return self.shown.replace("\r\n", "\n").splitlines()

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)


@pytest.fixture
def on_terminal(tiny_artefact, tmp_path):
    opened = []

    def start_one(**settings):
        opened.append(OnTerminal(tiny_artefact, tmp_path / "data", **settings))
        return opened[-1]

    yield start_one
    for service in opened:
        service.close()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_terminal_shows_readable_lines_and_the_address_last(on_terminal, processes):
    service = on_terminal(processes=processes)
    service.show_until("Serving on")
    service.process.terminate()
    service.show_until("the end")
    assert service.process.wait(40) == 0
    before, address, after = service.shown.partition("Serving on http://127.0.0.1:")
    entry = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (info|\x1b\[1;33mwarning) ")
    others = [line for line in before.splitlines() if line and not entry.match(line)]
    assert [line.partition(":")[0] for line in others] == ["Artefact tiny.safetensors"]
    assert address
    # Nothing of the start comes after the address.
    assert re.search(r"Shutting down|Received SIGTERM", after.splitlines()[1])
    assert '{"' not in service.shown
    assert "not measured" not in service.shown
    assert before.count("\x1b[1;33mwarning \x1b[0m made a new data directory") == 1


@pytest.mark.slow
def test_a_terminal_shows_json_if_the_settings_say_so(on_terminal):
    service = on_terminal(log_format="json")
    service.show_until("Serving on")
    entries = [line for line in service.lines() if line.startswith("{")]
    assert "warning" in {json.loads(entry)["level"] for entry in entries}
    assert "\x1b" not in service.shown


def test_a_file_gets_text_if_the_settings_say_so(start):
    served = start(log_format="text")
    assert served.http.get("/v1/galleries").status_code == 200
    pattern = r"^\S+ \S+ info +GET /v1/galleries 200  .*request_id=\S+"
    eventually(lambda: re.search(pattern, served.log.read_text(), re.MULTILINE))
    assert "\x1b" not in served.log.read_text()


DOCUMENTED_FIELD = re.compile(r"^\| `(\w+)` \| (every entry|requests|errors) \|", re.MULTILINE)


def test_every_field_of_an_entry_is_documented(start):
    fields = defaultdict(set)
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    for name, kind in DOCUMENTED_FIELD.findall(page):
        fields[kind].add(name)
    served = start(log_level="debug")
    served.http.get("/v1/galleries")

    def entries():
        return log_entries(served.log.read_text().rpartition("\n")[0])

    eventually(lambda: any("status" in entry for entry in entries()))
    requests = [entry for entry in entries() if "status" in entry]
    others = [entry for entry in entries() if "status" not in entry]
    assert {*requests[-1]} == fields["every entry"] | fields["requests"]
    assert others
    assert all({*entry} == fields["every entry"] for entry in others)
    error = {"msg": "failed", "exc_info": (KeyError, KeyError(), None)}
    entry = json.loads(JsonFormatter().format(logging.makeLogRecord(error)))
    assert {*entry} == fields["every entry"] | fields["errors"]


# Health checks fail while a file is there.
UNWELL = """
from pathlib import Path
from starlette.exceptions import HTTPException
from service.http.routes import operation

Ready = operation.Ready

def ready_unless_unwell(**fields):
    if Path({file!r}).exists():
        raise HTTPException(503, "unwell")
    return Ready(**fields)

operation.Ready = ready_unless_unwell
"""


def test_of_health_checks_and_scrapes_the_log_tells_failures_and_recovery_alone(start, tmp_path):
    unwell = tmp_path / "unwell"
    served = start(program=UNWELL.format(file=str(unwell)) + START, log_level="info")

    def check():
        for path in ("/livez", "/readyz", "/metrics", "/readyz"):
            served.http.get(path)

    check()
    unwell.touch()
    check()
    unwell.unlink()
    check()
    served.http.head("/readyz")
    served.http.get("/v1/galleries")

    def messages():
        entries = log_entries(served.log.read_text().rpartition("\n")[0])
        return [(entry["level"], entry["message"]) for entry in entries if "status" in entry]

    eventually(lambda: ("info", "GET /v1/galleries 200") in messages())
    assert messages() == [
        ("info", "GET /readyz 503"),
        ("info", "GET /readyz 503"),
        ("info", "GET /readyz 200"),
        ("info", "GET /v1/galleries 200"),
    ]


def test_a_readable_entry_stays_one_line_and_changes_no_terminal():
    fields = {"msg": "asked\x1b[2J\nadmin logged in", "levelname": "INFO", "path": "/v1/\r\x07"}
    (line,) = TextFormatter(coloured=True).format(logging.makeLogRecord(fields)).splitlines()
    assert line.endswith(r"asked\x1b[2J\nadmin logged in  path=/v1/\r\x07")


def test_a_readable_traceback_follows_its_entry_without_names_of_people():
    error = KeyError(PERSON)
    record = logging.makeLogRecord({"msg": "failed", "exc_info": (KeyError, error, None)})
    entry, *lines = TextFormatter(coloured=False).format(record).splitlines()
    assert entry.endswith("failed")
    assert lines[-1] == "  builtins.KeyError"
    assert PERSON not in "".join(lines)
