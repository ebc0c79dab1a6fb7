"""A service as a child process on a free port, for the demo, the benches and tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from gmn_client import Client
from model.problems import InputProblem

# A start that takes no processor time for this long has come to a stand.
STANDSTILL_SECONDS = 120.0
# On a machine that other programs keep busy, an answer may take minutes. A service that hangs ends
# itself, which breaks the connection.
ANSWER_SECONDS = 1800.0
STOP_SECONDS = 20.0
PROGRAM = Path(__file__).resolve().parents[1] / "gmn.py"
ANNOUNCED_URL = re.compile(r"^Serving on (https?://[\w.\-\[\]:]+:\d+)", re.MULTILINE)


@contextmanager
def own_service(
    artefact: str,
    variables: Mapping[str, str] = MappingProxyType({}),
    program: Sequence[str] = (sys.executable, str(PROGRAM)),
    data_dir: Path | None = None,
) -> Iterator[Client]:
    """Start a service as `own_process` does.

    Yields:
        A client of the service.
    """
    with own_process(artefact, variables, program, data_dir) as (client, _):
        yield client


@contextmanager
def own_process(
    artefact: str,
    variables: Mapping[str, str],
    program: Sequence[str],
    data_dir: Path | None = None,
) -> Iterator[tuple[Client, int]]:
    """Start a service, wait until it is ready, and stop it with the block.

    Args:
        artefact: a shipped name or a file.
        variables: environment variables of the service, in addition to those of this process.
        program: the command `gmn`.
        data_dir: where it keeps its galleries; None for a folder that is gone with the block.

    Yields:
        A client of the service, and the id of its process.

    Raises:
        InputProblem: the start fails or comes to a stand; the message has its last log line.
    """
    with TemporaryDirectory(prefix="gmn-") as folder:
        log = Path(folder) / "service.log"
        command = [*program, "serve", "--artefact", artefact]
        # It has no key, so it serves this machine alone, also where an image sets GMN_HOST.
        command += [
            "--data-dir",
            str(data_dir or Path(folder, "data")),
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ]
        environment = os.environ | variables
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, stdout=sink, stderr=subprocess.STDOUT, env=environment
            )
        try:
            with Client(_wait_for_url(process, log), timeout=ANSWER_SECONDS) as client:
                yield client, process.pid
        finally:
            end_process(process)


def end_process(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def processor_seconds(process_id: int) -> float:
    """Return the processor time that a process has taken."""
    stat = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8")
    _, _, fields = stat.rpartition(") ")
    user_ticks, system_ticks = fields.split()[11:13]
    return (int(user_ticks) + int(system_ticks)) / os.sysconf("SC_CLK_TCK")


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    spent_seconds = 0.0
    moved_at = time.monotonic()
    while process.poll() is None and time.monotonic() < moved_at + STANDSTILL_SECONDS:
        if announced := ANNOUNCED_URL.search(log.read_text(errors="replace")):
            with Client(announced[1]) as client:
                if client.ready():
                    return client.url
        time.sleep(0.05)
        if (seconds := processor_seconds(process.pid)) > spent_seconds:
            spent_seconds = seconds
            moved_at = time.monotonic()
    _, _, last_line = log.read_text(errors="replace").strip().rpartition("\n")
    why = "did not start" if process.poll() is not None else "makes no progress at its start"
    raise InputProblem(f"the service {why}: {last_line.removeprefix('gmn: ')}")


def runtime_of_each_run() -> dict[str, str]:
    """Return settings of the service by which each run computes the same features.

    Left to itself, a service on a CPU measures which runtime takes the least processor time.
    """
    from model.precision import choose_device_name

    if choose_device_name(os.environ.get("GMN_DEVICE") or "auto") != "cpu":
        return {}
    chosen = {"GMN_RUNTIME": "openvino", "GMN_DTYPE": "float32"}
    return {name: value for name, value in chosen.items() if not os.environ.get(name)}
