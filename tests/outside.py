"""Helpers of tests that ask a service from outside: archives, pages and the audit log."""

import contextlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import zipfile
from pathlib import Path

import pytest

PORTS_OF_CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def chosen_seed():
    """Return the seed that `REID_TEST_SEED` names, or one that is always the same; 0 draws one."""
    return int(os.environ.get("REID_TEST_SEED") or 2026) or secrets.randbits(31)


def free_port():
    """Return a port that no connection of another process gets before a server listens on it."""
    end = int(PORTS_OF_CONNECTIONS.read_text().split()[0])
    begin = min(10_000, end // 2)
    while True:
        # Tests seed the random numbers of each process alike.
        port = begin + secrets.randbelow(end - begin)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def run_command(*command, **options):
    """Run a program to its end, and return its status and output as texts."""
    return subprocess.run(command, **{"capture_output": True, "text": True, **options})


def installed(program):
    """Return the path of a program of the system, or skip the test."""
    found = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")
    return found or pytest.skip(f"{program} is not installed")


def browser_program():
    """Return the path of Chromium, or None if it is not installed.

    Without windows a page takes a third of the time. Where this is no package, Chromium serves.
    """
    return shutil.which("chromium-headless-shell") or shutil.which("chromium")


def certificate_in(folder, name="reid.example.org"):
    """Write privkey.pem and fullchain.pem of a host, and return both paths."""
    key = folder / "privkey.pem"
    certificate = folder / "fullchain.pem"
    run_command(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", certificate),
        *("-addext", f"subjectAltName=DNS:{name}"),
        check=True,
    )
    return key, certificate


def encoded(image, image_format="PNG", **options):
    """Return the file that a picture is written as."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def zip_of(entries):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return packed.getvalue()


def zip_of_crops(crops):
    """Pack the images of drawn crops as 0.png, 1.png and so on."""
    return zip_of({f"{number}.png": crop.png for number, crop in enumerate(crops)})


def pages(http, path, **asked):
    """Yield the results of a listing, page by page."""
    cursor = {}
    while True:
        answer = http.get(path, params={**asked, **cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["results"]) <= asked["limit"]
        yield from page["results"]
        if page["next_cursor"] is None:
            return
        cursor = {"cursor": page["next_cursor"]}


def problem(answer):
    """Return the status of a problem document, and the end of its type."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    code = answer.json()["type"].removeprefix("urn:gmn:problem:")
    return answer.status_code, code


def refused_fields(answer):
    """Return the fields that an answer of 422 names in its errors."""
    assert answer.status_code == 422, answer.text
    return {error["field"] for error in answer.json()["errors"]}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def crop_ids(answer):
    """Return the ids of the crops that were enrolled, found or listed."""
    assert answer.is_success, answer.text
    return [result["crop_id"] for result in answer.json()["results"]]


def figure(served, name):
    """Return the value of a metric of a service, named with its labels."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", served.http.get("/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


def audit_lines(folder, *events):
    """Read the finished lines of an audit log, or those about some events."""
    # The last line may be being written.
    finished = (folder / "audit.jsonl").read_text().rpartition("\n")[0]
    lines = [json.loads(line) for line in finished.splitlines()]
    return [line for line in lines if not events or line["event"] in events]
