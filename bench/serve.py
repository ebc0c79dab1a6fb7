"""The service over HTTP compared with a bare model: the cost of a request beyond the network.

There are four benches of one kind. `embed` sends images to `/v1/embeddings`, `serve` keeps sixteen
queries and `enroll` eight enrollments of one image in flight, and `query` sends one query at a
time. The requests come from wrk, which is written in C and takes little processor time. The bare
model is the embedder alone, on decoded and resized crops. A bare app (`bench.bare_app`) answers the
same forms as `serve`, for comparison. The service of another checkout can take part in the rounds,
so that two revisions are compared in one run.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np

from bench.result import (
    BenchResult,
    alternate,
    artefacts_to_measure,
    compare,
    filled_service,
    require_checkout,
)
from demo.service import end_process, processor_seconds
from gmn_client.commands.bulk import SourceCrop
from model.artefact import Artefact, load_artefact, resolve_artefact
from model.precision import choose_device_name
from model.problems import InputProblem
from model.runtimes import build_runtime

PEOPLE = 64
CROPS = 64
SCRIPT = Path(__file__).with_name("load.lua")
BOUNDARY = "gmn-bench"
FORM_HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
END_OF_FORM = f"\r\n--{BOUNDARY}--\r\n".encode()
AIMS = {
    ("enroll", "bundled"): 0.78,
    ("enroll", "small"): 0.38,
    ("serve", "bundled"): 0.70,
    ("serve", "small"): 0.38,
}
APP_START_SECONDS = 60.0


class Load(NamedTuple):
    """Requests of one kind.

    Attributes:
        images: number of images in a request.
        in_flight: number of requests in flight.
        beside_app: whether the bare app answers them too; it answers only queries.
        seconds: length of a round.
    """

    path: str
    fields: dict[str, str]
    images: int
    in_flight: int
    beside_app: bool = False
    seconds: int = 2


GALLERY = "/v1/galleries/default"
LOADS = {
    "embed": Load("/v1/embeddings", {}, 32, 2),
    # Longer rounds, as some of the time goes to the disk and to fits of thresholds.
    "enroll": Load(f"{GALLERY}/crops", {"camera": "load", "identity": "load"}, 1, 8, seconds=6),
    "query": Load(f"{GALLERY}/queries", {"top_k": "10"}, 1, 1),
    "serve": Load(f"{GALLERY}/queries", {"top_k": "10"}, 1, 16, beside_app=True),
}


Round = dict[str, float]
"""Figures of one side in one round, by name."""


def bench_serving(
    bench: str, artefact: str | None, against: Path | None = None
) -> list[BenchResult]:
    """Divide the images per second of the service by those of the bare model.

    Args:
        bench: `embed`, `enroll`, `query` or `serve`.
        artefact: a file or a shipped name; without it `bundled` and `small` are measured.
        against: folder of another checkout, whose service answers the same requests in the same
            rounds. `details` then has its figures as `against_…`, and what this service does
            divided by what that one does as `against_ratio` (images per second) and
            `against_cpu_ratio` (processor time per image), each with a `spread`.

    Raises:
        InputProblem: wrk is not installed, `against` is no checkout, or a request fails.
    """
    if shutil.which("wrk") is None:
        raise InputProblem("wrk, which makes the load, is not installed; apt-get install wrk")
    if against is not None:
        require_checkout(against)
    return [_measure(bench, name, against) for name in artefacts_to_measure(artefact)]


def _measure(bench: str, artefact: str, against: Path | None) -> BenchResult:
    load = LOADS[bench]
    load_average = round(os.getloadavg()[0], 2)
    compute = bare_model(load_artefact(resolve_artefact(artefact)))
    with ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="gmn-bench-"))
        client, cast = opened.enter_context(filled_service(artefact, PEOPLE))
        forms = write_forms(Path(folder), load, cast.known)
        sides: dict[str, Callable[[], Round]] = {
            "served": partial(press, client.url, load, forms, partial(_cpu_seconds, client.url)),
            "bare": partial(_run_bare, compute, load.seconds),
        }
        if against:
            other, _ = opened.enter_context(filled_service(artefact, PEOPLE, against.resolve()))
            other_seconds = partial(_cpu_seconds, other.url)
            sides["against"] = partial(press, other.url, load, forms, other_seconds)
        if load.beside_app:
            app, app_seconds = opened.enter_context(bare_app(artefact))
            sides["app"] = partial(press, app, load, forms, app_seconds)
        rounds = alternate(*sides.values())
    details: dict[str, Any] = {"artefact": artefact, "load_average_before": load_average}
    measured = dict(zip(sides, zip(*rounds, strict=True), strict=True))
    for side, figures_of_rounds in measured.items():
        for name in figures_of_rounds[0]:
            median = statistics.median(figures[name] for figures in figures_of_rounds)
            details[f"{side}_{name}"] = round(median, 2)
    compared = []
    if load.beside_app:
        compared.append(("app", "images_per_second", "app", "bare"))
    if against:
        details["against"] = str(against)
        compared.append(("against", "images_per_second", "served", "against"))
        compared.append(("against_cpu", "cpu_ms_per_image", "served", "against"))
    for name, figure, ours, theirs in compared:
        ratios = compare(bench, _pairs(measured, figure, ours, theirs), None, {})
        details |= {f"{name}_ratio": ratios.ratio, f"{name}_spread": ratios.spread}
    paces = _pairs(measured, "images_per_second", "served", "bare")
    return compare(bench, paces, AIMS.get((bench, artefact)), details)


def _pairs(
    measured: dict[str, tuple[Round, ...]], figure: str, ours: str, theirs: str
) -> list[tuple[float, ...]]:
    """Return a figure of two sides in each round."""
    return [
        (our_round[figure], their_round[figure])
        for our_round, their_round in zip(measured[ours], measured[theirs], strict=True)
    ]


@contextmanager
def bare_app(artefact: str) -> Iterator[tuple[str, Callable[[], float]]]:
    """Run the bare app as a process of its own.

    Yields:
        The URL, and a function that returns the processor time of the app so far, in seconds.

    Raises:
        InputProblem: the app does not start.
    """
    with tempfile.TemporaryDirectory(prefix="gmn-bare-") as folder:
        port = Path(folder) / "port"
        process = subprocess.Popen([sys.executable, "-m", "bench.bare_app", artefact, str(port)])
        try:
            until = time.monotonic() + APP_START_SECONDS
            while not (port.exists() and port.read_text(encoding="ascii")):
                if process.poll() is not None or time.monotonic() > until:
                    raise InputProblem("the bare app did not start; see its messages above")
                time.sleep(0.05)
            url = f"http://127.0.0.1:{port.read_text(encoding='ascii')}"
            yield url, partial(processor_seconds, process.pid)
        finally:
            end_process(process)


def write_forms(
    folder: Path,
    load: Load,
    crops: Sequence[SourceCrop],
) -> list[Path]:
    """Write forms with these crops to files, without their ends, which wrk adds."""
    files = []
    endless_crops = itertools.cycle(crops)
    for number in range(max(1, len(crops) // load.images)):
        images = [
            ("images", ("crop.png", crop.read()))
            for crop in itertools.islice(endless_crops, load.images)
        ]
        form = httpx2.Request(
            "POST",
            "http://",
            data=load.fields,
            files=images,
            headers=FORM_HEADERS,
        )
        path = folder / f"{number:03d}"
        path.write_bytes(form.read().removesuffix(END_OF_FORM))
        files.append(path)
    return files


def press(
    url: str,
    load: Load,
    forms: Sequence[Path],
    cpu_seconds: Callable[[], float],
) -> Round:
    """Send requests for one round.

    Args:
        cpu_seconds: returns the processor time of the server so far.

    Raises:
        InputProblem: a request is not answered with 2xx.
    """
    # A number at the end of its last image makes each request of all rounds different.
    arguments = [load.path, BOUNDARY, str(time.time_ns()), *(str(form) for form in forms)]
    command = ["wrk", "-t1", f"-c{load.in_flight}", f"-d{load.seconds}s", "--timeout=60s"]
    command += ["-s", str(SCRIPT), url, "--", *arguments]
    started_cpu = cpu_seconds()
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    spent_cpu = cpu_seconds() - started_cpu
    # The last line is that of the script, not of wrk.
    answered = {} if ran.returncode else json.loads(ran.stdout.splitlines()[-1])
    if not answered.get("requests") or answered["failed"]:
        raise InputProblem(f"wrk: requests failed: {ran.stdout[-500:]}{ran.stderr[-500:]}")
    images = answered["requests"] * load.images
    return {
        "images_per_second": images / answered["seconds"],
        "cpu_ms_per_image": 1e3 * spent_cpu / images,
        "p50_ms": answered["p50_ms"],
        "p99_ms": answered["p99_ms"],
    }


def _cpu_seconds(url: str) -> float:
    # The service is on this machine, to which no proxy leads.
    metrics = httpx2.get(f"{url}/metrics", timeout=60, trust_env=False).text
    return float(metrics.partition("\nprocess_cpu_seconds_total ")[2].split()[0])


def bare_model(artefact: Artefact) -> Callable[[], object]:
    """Return a pass of `CROPS` crops through the embedder alone, on the device of the service."""
    size = artefact.description.preprocessing
    shape = (CROPS, size.height, size.width, 3)
    crops = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    device = choose_device_name()
    if device == "cpu":
        runtime = build_runtime(artefact, "openvino", "float32")
    else:
        from model.torch_runtime import TorchRuntime

        runtime = TorchRuntime(artefact, "float32", device)
    return lambda: runtime.embed(crops)


def _run_bare(compute: Callable[[], object], seconds: int) -> Round:
    started_cpu = time.process_time()
    started = time.perf_counter()
    crops = 0
    while time.perf_counter() - started < seconds:
        compute()
        crops += CROPS
    return {
        "images_per_second": crops / (time.perf_counter() - started),
        "cpu_ms_per_image": 1e3 * (time.process_time() - started_cpu) / crops,
    }
