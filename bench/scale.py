"""`gmn bench scale`: one gallery as it grows from a thousand crops to a million.

Crops without pictures are enrolled into the record, 1,000 in a commit. At each size new processes
start on the record with none of its files in the page cache, and search it without HTTP and
embedding. Latency, memory, disk and start are measured. Then the indexes of the record are rebuilt,
as every night, while another thread writes.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bench.result import BenchResult, compare, memory_bytes
from model.artefact import read_description, resolve_artefact
from model.problems import InputProblem
from service.engine.device import DeviceThread
from service.engine.networks import LoadedModel
from service.gallery.registry import DEFAULT_GALLERY, GalleryRegistry
from service.index.filters import SearchFilter
from service.opening import open_folder
from service.record.record import Record
from service.record.values import ArchivedCrop, GallerySettings, StoredCrop
from service.search.calibration import GalleryCalibrations
from service.search.options import QueryOptions
from service.search.ranking import Search
from training.evaluation.files import read_features

Array = NDArray[np.float32]
# Number of crops that one seed draws, and that one commit enrolls.
BLOCK = 1000
SIZES = (1000, 10_000, 100_000, 1_000_000, 10_000_000)
QUERIES = 200
STARTS = 3
CHUNK_BYTES = 8_388_608
FILTERS = {
    "all": QueryOptions(),
    "4 of 20 cameras": QueryOptions(
        wanted=SearchFilter(
            cameras=frozenset(["camera-00", "camera-01", "camera-02", "camera-03"])
        ),
    ),
    "without 1 camera": QueryOptions(wanted=SearchFilter(exclude_cameras=frozenset(["camera-07"]))),
}


class ScaleCrops:
    """Drawn crops by index, the same in every run.

    Without a feature file they are clusters of eight crops around random directions, the worst case
    for approximate indexes. With one they are people with 20 crops each.
    The centres of the people have the mean and covariance of the people in the file, and each crop
    differs from its centre as a random crop of the file differs from its person's.
    """

    def __init__(
        self,
        features: Path | None = None,
        dimension: int = 512,
    ) -> None:
        """Read the features after which people are drawn.

        Args:
            features: a file with identities, as `gmn embed` writes it.
            dimension: dimension of the clusters without a file.

        Raises:
            InputProblem: the file has no identities.
        """
        self.kind = "people" if features else "clusters"
        self.crops_per_person = 20 if features else 8
        self.dimension = dimension
        if features is None:
            return
        file = read_features(features)
        if not file.columns["identities"]:
            raise InputProblem(f"{features}: has no identities; name a file that gmn embed wrote")
        _, people = np.unique(file.columns["identities"], return_inverse=True)
        self.dimension = file.features.shape[1]
        centres = np.zeros((people.max() + 1, self.dimension), np.float32)
        np.add.at(centres, people, file.features)
        centres /= np.bincount(people)[:, None]
        self._offsets = file.features - centres[people]
        self._mean = centres.mean(axis=0)
        self._centres = (centres - self._mean) / np.float32(len(centres) ** 0.5)

    def crops(self, start: int, stop: int) -> Iterator[ArchivedCrop]:
        """Yield the crops from one index up to another, in the order of enrollment."""
        for index in range(start, stop):
            number, row = divmod(index, BLOCK)
            if row == 0 or index == start:
                vectors = self._draw(number)
            moment = datetime.fromtimestamp(index, UTC)
            record = StoredCrop(
                slot=0,
                crop_id=f"crop-{index:09}",
                identity=f"person-{index // self.crops_per_person:08}",
                camera=f"camera-{index % 20:02}",
                captured_at=moment,
                sent_sha256=f"{index:064x}",
                sha256=f"{index:064x}",
                created_at=moment,
            )
            yield ArchivedCrop(record, vectors[row], None)

    def queries(self, count: int, crops: int) -> Array:
        """Draw other crops `(count, d)` of the people of the first `crops` crops."""
        rows = np.random.default_rng(1).integers(crops, size=count)
        drawn = [self._draw(row // BLOCK, variant=1)[row % BLOCK] for row in rows.tolist()]
        return np.stack(drawn)

    def _draw(self, number: int, variant: int = 0) -> Array:
        """Draw the crops `(BLOCK, d)` of one seed; each variant has other crops of its people."""
        random = np.random.default_rng(number)
        of_crops = np.random.default_rng([number, variant])
        people = BLOCK // self.crops_per_person
        if self.kind == "clusters":
            centres = random.standard_normal((people, self.dimension), np.float32)
            offsets = 0.5 * of_crops.standard_normal((BLOCK, self.dimension), np.float32)
        else:
            weights = random.standard_normal((people, len(self._centres)), np.float32)
            centres = self._mean + weights @ self._centres
            offsets = of_crops.choice(self._offsets, BLOCK)
        return np.repeat(centres, self.crops_per_person, axis=0) + offsets


def bench_scale(crops: int, features: Path | None) -> BenchResult:
    """Measure galleries of 1,000 crops, then ten times as many each, up to `crops`.

    The measured disk is that of temporary files.

    Args:
        crops: the largest size.
        features: feature file after which people are drawn; see `ScaleCrops`.

    Returns:
        The time to read the bytes of the vectors, divided by the time until the largest gallery has
        started and answered one search, less that of an empty one. `details["sizes"]` has the
        figures of each size.
    """
    drawn = ScaleCrops(features)
    curves = []
    with (
        tempfile.TemporaryDirectory(prefix="gmn-scale-") as folder,
        tempfile.TemporaryDirectory() as empty_folder,
    ):
        empty_seconds, empty_bytes = _start(Path(empty_folder), drawn.dimension)
        for size in [*(size for size in SIZES if size < crops), crops]:
            enrolled_per_second = _enroll(drawn, Path(folder), size)
            seconds, _ = _start(Path(folder), drawn.dimension)
            queries = drawn.queries(QUERIES, size)
            curves.append(
                {
                    "crops": size,
                    "enrolled_per_second": enrolled_per_second,
                    "start_seconds": seconds - empty_seconds,
                    **_run_in_new_process(measure, Path(folder), size, queries, empty_bytes),
                    **_run_in_new_process(rebuild_indexes, Path(folder)),
                }
            )
    largest = curves[-1]
    ready_seconds = largest["start_seconds"] + largest["first_search_seconds"]
    return compare(
        "scale",
        [(largest["read_seconds"], ready_seconds)],
        # The start may take twice as long as reading the bytes of the vectors.
        0.5,
        {"data": drawn.kind, "sizes": curves},
    )


def _enroll(
    drawn: ScaleCrops,
    folder: Path,
    crops: int,
) -> float:
    """Enroll crops up to a size, and return the crops per second."""
    seconds = 0.0
    fingerprint = _model().embedder
    with closing(open_folder(folder)) as record:
        gallery = next(iter(record.galleries.all()), None)
        if gallery is None:
            gallery = record.galleries.create(DEFAULT_GALLERY, fingerprint, GallerySettings())
        for first in range(gallery.crops, crops, BLOCK):
            commit = list(drawn.crops(first, min(first + BLOCK, crops)))
            began = time.perf_counter()
            record.crops.enroll(gallery.gallery_id, fingerprint, commit)
            seconds += time.perf_counter() - began
    return (crops - gallery.crops) / seconds


def _start(folder: Path, dimension: int) -> Any:
    """Return the median seconds of several starts, and the median bytes of memory."""
    # The time of a single start depends on the place of the files on the disk.
    starts = [_run_in_new_process(start, folder, dimension) for _ in range(STARTS)]
    return np.median(starts, axis=0).tolist()


def start(folder: Path, dimension: int) -> tuple[float, int]:
    """Start on a record with none of its files in the page cache.

    Returns:
        The seconds of the start, and the bytes of anonymous memory of the process after it.
    """
    _drop_from_cache(folder)
    began = time.perf_counter()
    with _loaded(folder, dimension):
        return time.perf_counter() - began, memory_bytes("RssAnon")


def measure(
    folder: Path,
    crops: int,
    queries: Array,
    empty_bytes: float,
) -> dict[str, Any]:
    """Measure the disk space and memory of a record's crops, and the latency of searches."""
    dimension = queries.shape[1]
    measured: dict[str, Any] = {
        "disk_bytes_per_crop": 512 * sum(file.stat().st_blocks for file in _files(folder)) / crops,
        "read_seconds": _seconds_to_read_vectors(folder, crops * dimension * 4),
    }
    _drop_from_cache(folder)
    with _loaded(folder, dimension) as registry:
        gallery = registry.get(DEFAULT_GALLERY)
        calibrations = GalleryCalibrations(registry.record, {_model().embedder: _model()})
        current = calibrations.current(gallery, "cosine")

        def search_seconds(options: QueryOptions, query: Array) -> float:
            search = Search(gallery, current, options, query[None], sample=True)
            began = time.perf_counter()
            registry.device.submit(lambda: search.rank(search.propose())).result()
            return time.perf_counter() - began

        def median_ms(options: QueryOptions) -> float:
            return 1e3 * statistics.median(search_seconds(options, query) for query in queries)

        measured["first_search_seconds"] = search_seconds(QueryOptions(), queries[0])
        measured["memory_bytes_per_crop"] = (memory_bytes("RssAnon") - empty_bytes) / crops
        measured["exact_ms"] = {name: median_ms(options) for name, options in FILTERS.items()}

        index = gallery.own_index
        assert index is not None
        if make_codes := registry.device.submit(index.next_segment).result():
            registry.device.submit(index.adopt, make_codes(lambda: None)).result()
        if index.recall is not None:
            measured["recall"] = index.recall
            measured["codes_ms"] = median_ms(QueryOptions())
    return measured


def rebuild_indexes(folder: Path) -> dict[str, float]:
    """Rebuild the indexes of a record, and time the writes of another thread meanwhile."""
    waits: list[float] = []
    is_done = threading.Event()

    def write(record: Record) -> None:
        while not is_done.is_set():
            began = time.perf_counter()
            record.database.note_indexes_rebuilt()
            waits.append(time.perf_counter() - began)

    with (
        closing(open_folder(folder)) as record,
        closing(open_folder(folder)) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        writing = thread.submit(write, other)
        began = time.perf_counter()
        record.database.rebuild_indexes()
        seconds = time.perf_counter() - began
        is_done.set()
        writing.result()
    return {"rebuild_seconds": seconds, "longest_write_ms": 1e3 * max(waits)}


def _run_in_new_process(work: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


@contextmanager
def _loaded(folder: Path, dimension: int) -> Iterator[GalleryRegistry]:
    device = DeviceThread()
    dimensions = {_model().embedder: dimension}
    try:
        with (
            closing(open_folder(folder)) as record,
            closing(GalleryRegistry(record, device, dimensions, lambda _: None)) as registry,
        ):
            registry.load()
            yield registry
    finally:
        device.shutdown()


@cache
def _model() -> LoadedModel:
    """Read the bundled artefact without its networks, which a ranking by cosine does not use."""
    description = read_description(resolve_artefact("bundled"))
    unused = cast("Any", None)
    return LoadedModel("bundled", description, unused, unused, unused)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _drop_from_cache(folder: Path) -> None:
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _seconds_to_read_vectors(folder: Path, size: int) -> float:
    _drop_from_cache(folder)
    (path,) = folder.glob("vectors-*.f32")
    buffer = bytearray(CHUNK_BYTES)
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        for _ in range(0, size, CHUNK_BYTES):
            file.readinto(buffer)
    return time.perf_counter() - began
