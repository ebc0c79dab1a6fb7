"""Growth of latency, memory, disk and start of one gallery, from a thousand crops to a million.

Crops without pictures are enrolled by the record layer, 1,000 a commit. At each size a new process
starts on the record, with nothing of it in the page cache, and searches it through the ranking
stage, without HTTP and embedding.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bench.result import BenchResult, compare
from model.artefact import read_description, resolve_artefact
from model.feature_file import read_features
from model.problems import InputProblem
from service.engine.device import DeviceThread
from service.engine.networks import LoadedModel
from service.gallery.registry import DEFAULT_GALLERY, GalleryRegistry
from service.record.record import Record
from service.record.values import ArchivedCrop, GallerySettings, StoredCrop
from service.search.calibration import GalleryCalibrations
from service.search.options import QueryOptions
from service.search.ranking import Search

Array = NDArray[np.float32]
KINDS = ("people", "clusters")
CROPS_PER_PERSON = {"people": 20, "clusters": 8}
# One seed draws a block of crops.
BLOCK = 8000
QUERIED_BLOCKS = 8
CAMERAS = 20
# People are like these drawn ones if no features are given.
DRAWN_PEOPLE = 1000
DRAWN_CROPS_PER_PERSON = 8
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
FIRST_SIZE = 1000
CROPS_PER_COMMIT = 1000
QUERIES = 200
UNCOUNTED = 10
DIMENSION = 512
# The start may take twice as long as reading the bytes of the vectors.
REACH = 1 / 2
CHUNK_BYTES = 1 << 23
STARTS = 3
FILTERS = {
    "all": QueryOptions(),
    "4 of 20 cameras": QueryOptions(
        cameras=("camera-00", "camera-01", "camera-02", "camera-03"),
    ),
    "without 1 camera": QueryOptions(exclude_cameras=("camera-07",)),
}


class ScaleCrops:
    """Crops by their index, the same in every run.

    `people` have centres with the mean and covariance of the people in a feature file, and each
    crop differs from its centre as a random crop of the file differs from its person's. Without
    a file a spectrum is drawn that falls as real features' does. `clusters` are as far from each
    other as chance allows, in all dimensions, which suits no list and no graph.
    """

    def __init__(
        self,
        kind: str,
        features: Path | None,
        dimension: int,
    ) -> None:
        """Read or draw the features that the people are like.

        Args:
            kind: `people` or `clusters`.
            features: a file with identities, as `gmn embed` writes it.
            dimension: the dimension of drawn features, if no file is given.

        Raises:
            InputProblem: the file has none.
        """
        self.kind = kind
        rows, people = _read(features) if features else _drawn(dimension)
        self.dimension = rows.shape[1]
        means = np.zeros((people.max() + 1, self.dimension), np.float32)
        np.add.at(means, people, rows)
        means /= np.bincount(people)[:, None]
        self._mean = means.mean(axis=0)
        self._centres = means - self._mean
        self._noise = rows - means[people]
        self._drawn = lru_cache(maxsize=1)(self._block)

    def crops(self, start: int, stop: int) -> Iterator[ArchivedCrop]:
        """Yield the crops from one index up to another, in the order of enrollment."""
        for index in range(start, stop):
            block, row = divmod(index, BLOCK)
            record = StoredCrop(
                row_id=0,
                crop_id=f"crop-{index:09}",
                identity=f"person-{index // CROPS_PER_PERSON[self.kind]:08}",
                camera=f"camera-{index % CAMERAS:02}",
                captured_at=BEGAN + timedelta(seconds=index),
                sha256=hashlib.sha256(str(index).encode()).hexdigest(),
                created_at=BEGAN,
            )
            yield ArchivedCrop(record, self._drawn(block)[row], None)

    def queries(self, count: int, crops: int) -> Array:
        """Draw about `count` other crops `(n, d)` of people among the first `crops`."""
        random = np.random.default_rng(1)
        queries = []
        for block in random.integers(-(-crops // BLOCK), size=QUERIED_BLOCKS).tolist():
            enrolled = min(BLOCK, crops - block * BLOCK)
            rows = random.integers(enrolled, size=count // QUERIED_BLOCKS)
            queries.append(self._block(block, variant=1)[rows])
        return np.concatenate(queries)

    def _block(self, number: int, variant: int = 0) -> Array:
        """Draw the crops `(BLOCK, d)` of one seed; each variant has other crops of its people."""
        crops_per_person = CROPS_PER_PERSON[self.kind]
        people = BLOCK // crops_per_person
        random = np.random.default_rng(number)
        noise = np.random.default_rng([number, variant])
        if self.kind == "clusters":
            centres = random.standard_normal((people, self.dimension), np.float32)
            offsets = 0.5 * noise.standard_normal((BLOCK, self.dimension), np.float32)
        else:
            weights = random.standard_normal((people, len(self._centres)), np.float32)
            scale = np.float32(len(self._centres) ** 0.5)
            centres = self._mean + weights @ self._centres / scale
            offsets = self._noise[noise.integers(len(self._noise), size=BLOCK)]
        centres = np.repeat(centres, crops_per_person, axis=0)
        return np.asarray(centres + offsets, np.float32)


def _read(path: Path) -> tuple[Array, NDArray[np.int64]]:
    file = read_features(path, ["identities"])
    names = file.columns.get("identities")
    if names is None:
        raise InputProblem(f"{path}: has no identities; name a file that gmn embed wrote")
    _, people = np.unique(names, return_inverse=True)
    return file.features, people.astype(np.int64)


def _drawn(dimension: int) -> tuple[Array, NDArray[np.int64]]:
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(DRAWN_PEOPLE), DRAWN_CROPS_PER_PERSON)
    spectrum = (1 + np.arange(dimension, dtype=np.float32)) ** -0.5
    centres = random.standard_normal((DRAWN_PEOPLE, dimension), np.float32)[people]
    offsets = 0.7 * random.standard_normal(centres.shape, np.float32)
    return spectrum * (centres + offsets), people


def bench_scale(
    crops: int,
    kind: str = "people",
    features: Path | None = None,
    work: Path | None = None,
) -> BenchResult:
    """Measure sizes from 1,000 crops on, each ten times the one before, up to `crops`.

    Args:
        crops: the largest size.
        kind: `people` or `clusters`.
        features: a file of features that the people are like; a spectrum of d = 512 is drawn by
            default.
        work: an existing folder on the disk that is measured; that of temporary files by default.

    Returns:
        The time to read the vectors' bytes over the time until the largest gallery has started and
        answered one search, beyond an empty one. `details["sizes"]` has the curves.
    """
    drawn = ScaleCrops(kind, features, DIMENSION)
    smaller = [FIRST_SIZE * 10**power for power in range(9)]
    with tempfile.TemporaryDirectory(prefix="gmn-scale-", dir=work) as folder:
        sizes = [
            _size(drawn, Path(folder) / "data", size)
            for size in (*(size for size in smaller if size < crops), crops)
        ]
    last = sizes[-1]
    ready = last["start_seconds"] + last["first_search_seconds"]
    details = {
        "data": kind,
        "dimension": drawn.dimension,
        "features": str(features or "drawn"),
        "sizes": sizes,
    }
    return compare(
        "scale",
        [last["read_seconds"]],
        [ready],
        REACH,
        details,
    )


def _size(
    drawn: ScaleCrops,
    folder: Path,
    crops: int,
) -> dict[str, Any]:
    """Enroll crops up to a size, and measure it."""
    rate = _enroll(drawn, folder, crops)
    queries = drawn.queries(QUERIES, crops)
    searched = _run_in_process(measure, folder, crops, queries)
    # A single start depends on where the disk has put the files.
    starts = [_run_in_process(start, folder, drawn.dimension) for _ in range(STARTS - 1)]
    starts.append(searched["start_seconds"])
    searched["start_seconds"] = statistics.median(starts)
    return {"crops": crops, "enrolled_per_second": rate, **searched}


def _run_in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process whose memory has nothing of earlier work."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def _enroll(
    drawn: ScaleCrops,
    folder: Path,
    crops: int,
) -> float:
    """Enroll crops up to a size, and return how many a second."""
    folder.mkdir(exist_ok=True)
    seconds = 0.0
    fingerprint = _model().embedder
    with contextlib.closing(Record(folder)) as record:
        if not record.galleries.all():
            record.galleries.create(
                DEFAULT_GALLERY,
                fingerprint,
                GallerySettings(),
            )
        (gallery,) = record.galleries.all()
        for first in range(gallery.crops, crops, CROPS_PER_COMMIT):
            commit = list(drawn.crops(first, min(first + CROPS_PER_COMMIT, crops)))
            began = time.perf_counter()
            record.crops.enroll(gallery.gallery_id, fingerprint, commit)
            seconds += time.perf_counter() - began
    return (crops - gallery.crops) / seconds


def start(folder: Path, dimension: int) -> float:
    """Return the seconds to start on a record whose files are not in memory, in a new process."""
    empty_seconds, _ = _empty_start(folder, dimension)
    with _started(folder, dimension) as (_, seconds):
        return seconds - empty_seconds


def _empty_start(folder: Path, dimension: int) -> tuple[float, int]:
    """Return seconds and memory of the start of an empty service, for subtraction.

    It loads the modules; afterwards nothing of `folder` is in the page cache.
    """
    with tempfile.TemporaryDirectory() as empty, _started(Path(empty), dimension) as (_, seconds):
        _drop_from_cache(folder)
        gc.collect()
        return seconds, _memory()


def measure(
    folder: Path,
    crops: int,
    queries: Array,
) -> dict[str, Any]:
    """Start on a record and search it, in a process that does nothing else."""
    dimension = queries.shape[1]
    blocks = [file.stat().st_blocks for file in _files(folder)]
    measured: dict[str, Any] = {
        "disk_bytes_per_crop": 512 * sum(blocks) / crops,
        "read_seconds": _reading_seconds(folder, crops * dimension * 4),
    }
    empty_seconds, empty_bytes = _empty_start(folder, dimension)
    with _started(folder, dimension) as (registry, seconds):
        measured["start_seconds"] = seconds - empty_seconds
        gallery = registry.get(DEFAULT_GALLERY)
        index = gallery.own_index
        assert index is not None
        calibrations = GalleryCalibrations(registry.record, {_model().embedder: _model()})
        current = calibrations.current(gallery, "cosine")

        def ask(options: QueryOptions, query: Array) -> float:
            search = Search(
                gallery,
                current,
                options,
                query[None],
                sample=True,
            )
            began = time.perf_counter()
            registry.device.submit(search.rank).result()
            return time.perf_counter() - began

        def median_ms(options: QueryOptions) -> float:
            # The first queries warm up the index.
            seconds = [ask(options, query) for query in (*queries[:UNCOUNTED], *queries)]
            return 1e3 * statistics.median(seconds[UNCOUNTED:])

        measured["first_search_seconds"] = ask(QueryOptions(), queries[0])
        measured["memory_bytes_per_crop"] = (_memory() - empty_bytes) / crops
        measured["exact_ms"] = {name: median_ms(options) for name, options in FILTERS.items()}
        if make := registry.device.submit(index.next_segment).result():
            registry.device.submit(index.adopt, make(lambda: None)).result()
        if index.recall is not None:
            measured["recall"] = index.recall
            measured["codes_ms"] = median_ms(QueryOptions())
    return measured


@contextlib.contextmanager
def _started(folder: Path, dimension: int) -> Iterator[tuple[GalleryRegistry, float]]:
    """Load a record's galleries as the service does, and yield them with the seconds it took."""
    began = time.perf_counter()
    device = DeviceThread()
    with contextlib.closing(Record(folder)) as record, contextlib.ExitStack() as stack:
        stack.callback(device.shutdown)
        sizes = {_model().embedder: dimension}
        registry = GalleryRegistry(
            record,
            device,
            sizes,
            lambda _: None,
        )
        stack.callback(registry.close)
        registry.load()
        yield registry, time.perf_counter() - began


@cache
def _model() -> LoadedModel:
    """Read the bundled artefact without its networks, which a ranking by cosine does not use."""
    description = read_description(resolve_artefact("bundled"))
    unused = cast("Any", None)
    return LoadedModel("bundled", description, *[unused] * 3)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _drop_from_cache(folder: Path) -> None:
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(
                file.fileno(),
                0,
                0,
                os.POSIX_FADV_DONTNEED,
            )


def _reading_seconds(folder: Path, size: int) -> float:
    """Measure the time to read a file of `size` bytes from the disk into one buffer."""
    chunk = np.random.default_rng(0).bytes(CHUNK_BYTES)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        path = Path(beside) / "vectors"
        with path.open("wb") as file:
            for left in range(size, 0, -CHUNK_BYTES):
                file.write(chunk[:left])
        _drop_from_cache(path.parent)
        buffer = bytearray(CHUNK_BYTES)
        began = time.perf_counter()
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
        return time.perf_counter() - began


def _memory() -> int:
    """Return the bytes of anonymous memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0])
