"""The service from outside against a bare model: the cost of a request beyond the network.

Four benches of one kind. `embed` pushes images through `/v1/embeddings`, `enroll` and `serve` keep
sixteen enrollments or queries of one image in flight, `query` asks one at a time. The load comes
from wrk, which is written in C and takes little of the processor. The bare model is the embedder
alone, on decoded and resized crops.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
from numpy.typing import NDArray

from bench.result import ROUNDS, BenchResult, compare
from demo.service import own_service
from demo.story import draw_cast, enroll_all
from gmn_client import Client
from model.artefact import Artefact, load_artefact, resolve_artefact
from model.openvino_loading import compiled, load_openvino
from model.precision import choose_device_name
from model.problems import InputProblem
from model.runtimes import read_graph
from service.commands.bulk import SourceCrop

SEED = 31
PEOPLE = 64
CAMERAS = 4
CROPS = 64
BATCH = 32
ROUND_SECONDS = 2
LOAD = Path(__file__).with_name("load.lua")
BOUNDARY = "gmn-bench"
FORM_HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
END = f"\r\n--{BOUNDARY}--\r\n".encode()
ARTEFACTS = ("bundled", "small")


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


class Answered(NamedTuple):
    """Figures of wrk for one round."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float


def bench_serving(name: str, artefact: str | None = None) -> list[BenchResult]:
    """Measure images per second of the service over those of the bare model, in turn in one run.

    Args:
        name: which bench.
        artefact: a file or a shipped name; without it `bundled` and `small`.

    Raises:
        InputProblem: without wrk, and where a request fails.
    """
    if shutil.which("wrk") is None:
        raise InputProblem("wrk, which makes the load, is not installed; apt-get install wrk")
    return [_measure(name, measured) for measured in ([artefact] if artefact else ARTEFACTS)]


def _measure(name: str, artefact: str) -> BenchResult:
    load = LOADS[name]
    cast = draw_cast(SEED, PEOPLE, 0, CAMERAS)
    busy_before = round(os.getloadavg()[0], 2)
    compute = bare_model(load_artefact(resolve_artefact(artefact)))
    rounds: list[Answered] = []
    bare: list[float] = []
    service_cpu_seconds = 0.0
    bare_cpu_ms: list[float] = []
    with tempfile.TemporaryDirectory(prefix="gmn-bench-") as folder, own_service(artefact) as url:
        with Client(url) as client:
            enroll_all(client, cast.gallery)
            device = client.model().device
        files = write_bodies(Path(folder), load, cast.known)
        for number in range(ROUNDS + 1):
            before = _cpu_seconds(url)
            answered = press(url, load, files, number)
            spent = _cpu_seconds(url) - before
            bare_pace, bare_spent = _time_bare(compute)
            # The first round warms up both sides.
            if number:
                rounds.append(answered)
                bare.append(bare_pace)
                service_cpu_seconds += spent
                bare_cpu_ms.append(bare_spent)
    served = [answered.requests * load.images / answered.seconds for answered in rounds]
    images = sum(answered.requests for answered in rounds) * load.images
    details = {
        "artefact": artefact,
        "service_device": device,
        "served_images_per_second": round(statistics.median(served), 2),
        "bare_crops_per_second": round(statistics.median(bare), 2),
        "service_cpu_ms_per_image": round(1e3 * service_cpu_seconds / images, 2),
        "bare_cpu_ms_per_crop": round(statistics.mean(bare_cpu_ms), 2),
        "p50_ms": statistics.median(answered.p50_ms for answered in rounds),
        "p99_ms": statistics.median(answered.p99_ms for answered in rounds),
        "load_average_before": busy_before,
    }
    return compare(
        name,
        served,
        bare,
        AIMS.get((name, artefact)),
        details,
    )


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
        form = httpx.Request(
            "POST",
            "http://",
            data=fields,
            files=images,
            headers=FORM_HEADERS,
        )
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
    """Send one round of requests; raises `InputProblem` where one is not answered with 2xx."""
    options = ["-t1", f"-c{load.in_flight}", f"-d{ROUND_SECONDS}s", "--timeout=60s"]
    given = [load.call, BOUNDARY, str(number), *(str(file) for file in files)]
    command = ["wrk", *options, "-s", str(LOAD), url, "--", *given]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
    )
    answered = re.search(
        r"^answered\t(\d+)\t0\t(.+)\t(.+)\t(.+)$",
        ran.stdout,
        re.MULTILINE,
    )
    if ran.returncode or answered is None or answered[1] == "0":
        raise InputProblem(f"wrk: requests failed: {ran.stdout[-500:]}{ran.stderr[-500:]}")
    microseconds = [float(figure) for figure in answered.groups()[1:]]
    seconds, median, rare = (figure / 1e6 for figure in microseconds)
    return Answered(
        int(answered[1]),
        seconds,
        p50_ms=1e3 * median,
        p99_ms=1e3 * rare,
    )


def _cpu_seconds(url: str) -> float:
    metrics = httpx.get(f"{url}/metrics", timeout=60).text
    return float(re.findall(r"^process_cpu_seconds_total (\S+)$", metrics, re.MULTILINE)[0])


def bare_model(artefact: Artefact) -> Callable[[], object]:
    """Return a pass of `CROPS` crops through the embedder alone, on the device of the service."""
    preprocessing = artefact.description.preprocessing
    shape = (CROPS, preprocessing.height, preprocessing.width, 3)
    crops = np.random.default_rng(0).integers(
        0,
        256,
        shape,
        dtype=np.uint8,
    )
    on_cpu = choose_device_name() == "cpu"
    return _in_openvino(artefact, crops) if on_cpu else _on_gpu(artefact, crops)


def _on_gpu(artefact: Artefact, pixels: NDArray[np.uint8]) -> Callable[[], object]:
    import torch

    embedder = artefact.embedder.to("cuda")
    embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    crops = artefact.description.preprocessing.normalise(torch.from_numpy(pixels)).to("cuda")

    @torch.inference_mode()
    def compute() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            for start in range(0, CROPS, BATCH):
                embedder(crops[start : start + BATCH]).cpu()

    return compute


def _in_openvino(artefact: Artefact, pixels: NDArray[np.uint8]) -> Callable[[], object]:
    openvino = load_openvino()
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": openvino.Type.f32}
    queue = openvino.AsyncInferQueue(compiled(read_graph(artefact), settings))

    def compute() -> None:
        for number in range(len(pixels)):
            queue.start_async({0: pixels[number : number + 1]})
        queue.wait_all()

    return compute
