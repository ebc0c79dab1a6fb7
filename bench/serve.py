"""The service from outside against a bare model: the cost of a request beyond the network.

Four benches of one kind. `embed` pushes images through `/v1/embeddings`, `enroll` and `serve` keep
sixteen enrollments or queries of one image in flight, `query` asks one at a time. The load comes
from wrk, which is written in C and takes little of the processor. The bare model is the embedder
alone, on decoded and resized crops, in the runtime that is fastest here.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray

from bench.result import ROUNDS, BenchResult, compare
from demo.service import own_service
from demo.story import draw_cast, enroll_all
from gmn_client import Client
from model.artefact import Artefact, load_artefact, resolve_artefact
from model.openvino_loading import compiled, load_openvino
from model.openvino_runtime import read_graph
from model.precision import HAS_TORCH
from model.problems import InputProblem
from service.commands.bulk import SourceCrop

SEED = 31
PEOPLE = 64
CAMERAS = 4
CROPS = 64
BATCH = 32
ROUND_SECONDS = 2
STAGED_QUERIES = 60
LOAD = Path(__file__).with_name("load.lua")
BOUNDARY = "gmn-bench"
FORM_HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
END = f"\r\n--{BOUNDARY}--\r\n".encode()
ARTEFACTS = ("bundled", "small")
STAGES = ("decode", "queue", "embed", "search", "rerank")


class Load(NamedTuple):
    """A call with its fields and number of images, and the number of requests in flight."""

    call: str
    fields: dict[str, str]
    images: int
    in_flight: int


GALLERY = "/v1/galleries/default"
LOADS = {
    "embed": Load("/v1/embeddings", {}, 32, 2),
    "enroll": Load(f"{GALLERY}/crops", {"camera": "load"}, 1, 16),
    "query": Load(f"{GALLERY}/queries", {"top_k": "10"}, 1, 1),
    "serve": Load(f"{GALLERY}/queries", {"top_k": "10"}, 1, 16),
}
AIMS = {("enroll", "bundled"): 0.78, ("serve", "bundled"): 0.78, ("serve", "small"): 0.50}


@dataclass
class Answered:
    """Figures of wrk: requests, seconds, its own processor seconds, and counts of times in ms."""

    requests: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    times_ms: Counter[float] = field(default_factory=Counter)

    def add(self, other: Answered) -> None:
        self.requests += other.requests
        self.seconds += other.seconds
        self.cpu_seconds += other.cpu_seconds
        self.times_ms += other.times_ms

    def percentile(self, share: float) -> float:
        """Return the time in ms that a share of the answers did not exceed."""
        times = sorted(self.times_ms.elements())
        place = int(share * len(times))
        return round(times[min(place, len(times) - 1)], 2)


def bench_serving(name: str, artefact: str | None = None) -> BenchResult:
    """Images per second of the service over those of the bare model, in turn in one run.

    Args:
        name: which bench.
        artefact: a file or a shipped name; without it `bundled`, with `small` beside it.

    Returns:
        The ratio; `details["small"]` has that of the artefact beside it.

    Raises:
        InputProblem: without wrk, and where a request fails.
    """
    if shutil.which("wrk") is None:
        raise InputProblem("wrk, which makes the load, is not installed; apt-get install wrk")
    if artefact:
        return _measure(name, artefact)
    result, beside = [_measure(name, shipped) for shipped in ARTEFACTS]
    ratio = beside.model_dump(include={"ratio", "spread", "reach", "reached"})
    result.details[beside.details["artefact"]] = ratio | beside.details
    return result


def _measure(name: str, artefact: str) -> BenchResult:
    load = LOADS[name]
    cast = draw_cast(SEED, PEOPLE, 0, CAMERAS)
    busy_before = round(os.getloadavg()[0], 2)
    speeds, compute = fastest_bare(load_artefact(resolve_artefact(artefact)))
    whole = Answered()
    served: list[float] = []
    bare: list[float] = []
    service_cpu_ms: list[float] = []
    bare_cpu_ms: list[float] = []
    with tempfile.TemporaryDirectory(prefix="gmn-bench-") as folder, own_service(artefact) as url:
        with Client(url) as client:
            enrolled = enroll_all(client, cast.gallery)
            device = client.model().device
        files = write_bodies(Path(folder), load, cast.known)
        for number in range(ROUNDS + 1):
            before = _process_metric(url, "cpu_seconds_total")
            answered = press(url, load, files, number)
            spent = _process_metric(url, "cpu_seconds_total") - before
            bare_pace, bare_spent = _time_bare(compute)
            # The first round warms up both sides.
            if number:
                images = answered.requests * load.images
                served.append(images / answered.seconds)
                bare.append(bare_pace)
                service_cpu_ms.append(1e3 * spent / images)
                bare_cpu_ms.append(bare_spent)
                whole.add(answered)
        stages = stages_of(url, load, files) if name == "query" else {}
        resident = _process_metric(url, "resident_memory_bytes")
    cores = len(os.sched_getaffinity(0))
    details: dict[str, Any] = {
        "artefact": artefact,
        "service_device": device,
        "bare_runtimes_crops_per_second": speeds,
        "served_images_per_second": round(statistics.median(served), 2),
        "bare_crops_per_second": round(statistics.median(bare), 2),
        "service_cpu_ms_per_image": round(statistics.mean(service_cpu_ms), 2),
        "service_resident_bytes": resident,
        "bare_cpu_ms_per_crop": round(statistics.mean(bare_cpu_ms), 2),
        "client_share_of_processor": round(whole.cpu_seconds / whole.seconds / cores, 4),
        "p50_ms": whole.percentile(0.5),
        "p99_ms": whole.percentile(0.99),
        "requests": whole.requests,
        "requests_in_flight": load.in_flight,
        "images_per_request": load.images,
        "rounds": ROUNDS,
        "gallery_crops": len(enrolled),
        "load_average_before": busy_before,
        **stages,
    }
    return compare(name, served, bare, AIMS.get((name, artefact)), details)


def _time_bare(compute: Callable[[], object]) -> tuple[float, float]:
    """Return crops per second of one round, and milliseconds of the processor for each crop."""
    crops = 0
    started_cpu = time.process_time()
    started = time.perf_counter()
    while time.perf_counter() - started < ROUND_SECONDS:
        compute()
        crops += CROPS
    pace = crops / (time.perf_counter() - started)
    return pace, 1e3 * (time.process_time() - started_cpu) / crops


def write_bodies(
    folder: Path,
    load: Load,
    crops: Sequence[SourceCrop],
) -> list[Path]:
    """Write forms with these crops in turn, each in a file without its end."""
    files = []
    endless = itertools.cycle(crops)
    for number in range(max(1, len(crops) // load.images)):
        fields = dict(load.fields)
        if load.call.endswith("/crops"):
            fields["identity"] = f"p{number}"
        images = []
        for place in range(load.images):
            file = (f"{place}.png", next(endless).read())
            images.append(("images", file))
        form = httpx.Request("POST", "http://", data=fields, files=images, headers=FORM_HEADERS)
        path = folder / f"{number:03d}"
        path.write_bytes(form.read().removesuffix(END))
        files.append(path)
    return files


def press(
    url: str,
    load: Load,
    files: Sequence[Path],
    number: int,
) -> Answered:
    """Return one round of requests; raises `InputProblem` where one is not answered with 2xx."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    options = ["-t1", f"-c{load.in_flight}", f"-d{ROUND_SECONDS}s", "--timeout=60s"]
    given = [load.call, BOUNDARY, str(number), *(str(file) for file in files)]
    command = ["wrk", *options, "-s", str(LOAD), url, "--", *given]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    answered = Answered(cpu_seconds=sum(after[:2]) - sum(before[:2]))
    for line in ran.stdout.splitlines():
        kind, *figures = line.split("\t")
        if kind == "answered":
            answered.requests, failed, microseconds = (int(figure) for figure in figures)
            answered.seconds = microseconds / 1e6
        elif kind == "latency":
            answered.times_ms[float(figures[0]) / 1e3] += int(figures[1])
    if ran.returncode or not answered.requests or failed:
        raise InputProblem(f"wrk: requests failed: {ran.stdout[-500:]}{ran.stderr[-500:]}")
    return answered


def stages_of(
    url: str,
    load: Load,
    files: Sequence[Path],
) -> dict[str, Any]:
    """Medians of the stages of single queries, in ms, and their sum as a share of the wall time."""
    connection = http.client.HTTPConnection(str(urlsplit(url).hostname), urlsplit(url).port or 80)
    answers: list[dict[str, float]] = []
    for number in range(STAGED_QUERIES):
        body = files[number % len(files)].read_bytes() + END
        began = time.perf_counter()
        connection.request("POST", load.call, body, FORM_HEADERS)
        answer = connection.getresponse().read()
        wall = (time.perf_counter() - began) * 1e3
        spent = json.loads(answer)["timing_ms"]
        share = sum(spent[stage] for stage in STAGES) / wall
        answers.append({**spent, "wall": wall, "share": share})
    connection.close()
    medians = {
        name: round(statistics.median(answer[name] for answer in answers), 3) for name in answers[0]
    }
    share = medians.pop("share")
    return {"service_ms": medians, "stages_share_of_wall": share}


def _process_metric(url: str, name: str) -> float:
    metrics = httpx.get(f"{url}/metrics", timeout=60).text
    return float(re.findall(rf"^process_{name} (\S+)$", metrics, re.MULTILINE)[0])


def fastest_bare(artefact: Artefact) -> tuple[dict[str, float], Callable[[], object]]:
    """Measure the embedder alone in each runtime that is installed.

    Returns:
        Crops per second by runtime, and a pass of all crops in the fastest one.
    """
    preprocessing = artefact.description.preprocessing
    shape = (CROPS, preprocessing.height, preprocessing.width, 3)
    crops = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    sides = {"openvino float32": _bare_openvino(artefact, crops)}
    if HAS_TORCH:
        sides["torch"] = _bare_torch(artefact, crops)
    speeds: dict[str, float] = {}
    for name, compute in sides.items():
        compute()
        began = time.perf_counter()
        compute()
        speeds[name] = round(CROPS / (time.perf_counter() - began), 1)
    return speeds, sides[max(speeds, key=lambda name: speeds[name])]


def _bare_torch(artefact: Artefact, pixels: NDArray[np.uint8]) -> Callable[[], object]:
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    embedder = artefact.embedder
    crops = artefact.description.preprocessing.normalise(torch.from_numpy(pixels)).contiguous()
    crops = crops.to(device)
    embedder.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def compute() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            for start in range(0, len(crops), BATCH):
                embedder(crops[start : start + BATCH]).cpu()

    return compute


def _bare_openvino(artefact: Artefact, pixels: NDArray[np.uint8]) -> Callable[[], object]:
    openvino = load_openvino()
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": openvino.Type.f32}
    queue = openvino.AsyncInferQueue(compiled(read_graph(artefact), settings))

    def compute() -> None:
        for number in range(len(pixels)):
            queue.start_async({0: pixels[number : number + 1]})
        queue.wait_all()

    return compute
