"""A gallery's vectors as a tensor on the networks' device.

A search is a matrix product, a mask and top-k. Where FAISS can search a tensor on a GPU, it is
measured once beside this, and the faster one serves searches without a filter: FAISS ignores
filters, and returns at most 2048 results.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import faiss
import numpy as np
import torch

from model.arrays import Floats
from service.index.centring import ComparedCrops
from service.index.columns import Columns, Slots

log = logging.getLogger(__name__)
# Galleries of at least this many crops are copied as float16.
FLOAT16_ROWS = 1_000_000
# Rows scoring this far below the last place may still belong above it: twice the error of a score.
# In float16 the rows, the query and the sum are each rounded by up to 2⁻¹¹ of their value.
MARGINS = {"float32": 1e-5, "float16": 4e-3}
MOST_OF_FAISS = 2048
# FAISS is asked for more rows than wanted, so that it finds all rows that tie for the last place.
MORE_OF_FAISS = 64
FAISS_MEMORY_BYTES = 256 * 1024 * 1024
# Number of stored vectors that search for their nearest, to compare the methods of searching.
MEASURED_QUERIES = 20
MEASURED_DEPTH = 100
TRY_SECONDS = 120
TRY_FAISS = """
import numpy, torch
from service.index.gpu import open_faiss, search_by_faiss
vectors = torch.eye(8, device="cuda")
_, rows = search_by_faiss(open_faiss(), vectors, numpy.eye(8, dtype=numpy.float32)[3], 2)
raise SystemExit(rows[0] != 3)
"""
FaissSearch = Callable[[torch.Tensor, Floats, int], tuple[Floats, Slots]]
"""Returns scores and rows `(k,)`, by descending score, of vectors `(n, d)`, a query and k."""


def device_bytes(crops: int, dimension: int) -> int:
    """Return the memory of a gallery's vectors on a device."""
    return crops * dimension * (2 if crops >= FLOAT16_ROWS else 4)


class DeviceVectors:
    """Unit-length vectors of some crops on a device; only deletions change them, to 0.

    Attributes:
        crops: the covered crops, and what was subtracted from them.
        slots: slots of the covered crops, ascending, including deleted ones.
        dtype: type of the stored vectors, `float32` or `float16`.
        bytes: memory that they take.
        uses_faiss: FAISS serves searches without a filter.
    """

    recall = None

    def __init__(
        self, device: str, columns: Columns, crops: ComparedCrops, between: Callable[[], None]
    ) -> None:
        """Copy crops to a device such as `cuda:0`, and compare the ways of searching them.

        Args:
            crops: by ascending slots.
            between: called now and then; its errors are raised.

        Raises:
            torch.OutOfMemoryError: the device has too little memory.
        """
        self.crops = crops
        slots = crops.slots
        self.slots = slots
        self.dtype = "float16" if len(slots) >= FLOAT16_ROWS else "float32"
        self._vectors = torch.empty(
            (len(slots), columns.dimension),
            dtype=getattr(torch, self.dtype),
            device=device,
        )
        self._is_deleted = torch.zeros(len(slots), dtype=torch.bool, device=device)
        self._deleted_rows = np.zeros(len(slots), np.bool_)
        self.bytes = self._vectors.nbytes
        for part, units in columns.unit_parts(crops):
            between()
            self._vectors[part] = torch.from_numpy(units)
        self._faiss = find_faiss_search(device)
        self.uses_faiss = self._faiss is not None and self._is_faiss_faster(between)

    def remove(self, slots: Slots) -> None:
        rows = np.searchsorted(self.slots, slots)
        self._deleted_rows[rows] = True
        on_device = torch.from_numpy(rows).to(self._vectors.device)
        self._is_deleted[on_device] = True
        self._vectors[on_device] = 0

    def nearest(self, query: Floats, limit: int, passing: Slots, is_filtered: bool = True) -> Slots:
        """Return at least the `limit` nearest of some crops, with all that tie for the last place.

        Args:
            query: `(d,)`, of length at most 1.
            passing: covered crops, ascending; all are returned if there are at most `limit`.
            is_filtered: False if these are all living crops, which the device knows.
        """
        if len(passing) <= limit:
            return passing
        rows = None
        if self.uses_faiss and not is_filtered:
            rows = self._propose_by_faiss(query, limit)
        if rows is None:
            is_hidden = self._hide(passing) if is_filtered else self._is_deleted
            rows = self._propose(query, limit, is_hidden)
        return np.asarray(self.slots[rows], np.int64)

    def _hide(self, passing: Slots) -> torch.Tensor:
        is_hidden = np.ones(int(self.slots[-1]) + 1, np.bool_)
        is_hidden[passing] = False
        return torch.from_numpy(is_hidden[self.slots]).to(self._vectors.device)

    def _propose(self, query: Floats, limit: int, is_hidden: torch.Tensor) -> Slots:
        direction = torch.from_numpy(query).to(self._vectors.device, self._vectors.dtype)
        scores = (self._vectors @ direction).float()
        scores.masked_fill_(is_hidden, -torch.inf)
        last = torch.topk(scores, limit).values[-1]
        near = torch.nonzero(scores >= last - MARGINS[self.dtype]).squeeze(1)
        return np.asarray(near.cpu().numpy(), np.int64)

    def _propose_by_faiss(self, query: Floats, limit: int) -> Slots | None:
        """Return the rows near a query; None if more may tie for the last place than FAISS finds.

        Deleted vectors are 0, and take places.
        """
        if self._faiss is None:
            return None
        deleted = int(np.count_nonzero(self._deleted_rows))
        count = min(limit + deleted + MORE_OF_FAISS, MOST_OF_FAISS, len(self.slots))
        scores, rows = self._faiss(self._vectors, query, count)
        is_living = ~self._deleted_rows[rows]
        if np.count_nonzero(is_living) < limit:
            return None
        least = scores[is_living][limit - 1] - MARGINS[self.dtype]
        if scores[-1] >= least and count < len(self.slots):
            return None
        return np.sort(rows[is_living & (scores >= least)])

    def _is_faiss_faster(self, between: Callable[[], None]) -> bool:
        """Compare FAISS with the tensor by stored vectors; False if it does not find their nearest.

        An error of FAISS is logged, such as one on a GPU that it was not built for.
        """
        limit = min(MEASURED_DEPTH, len(self.slots) - 1)
        if limit < 1:
            return False
        sample = np.linspace(0, len(self.slots) - 1, MEASURED_QUERIES).astype(np.int64)
        seconds: dict[str, list[float]] = {"tensor": [], "FAISS": []}
        for query in self._vectors[torch.from_numpy(sample)].float().cpu().numpy():
            between()
            began = time.perf_counter()
            expected = self._propose(query, limit, self._is_deleted)
            middle = time.perf_counter()
            try:
                found = self._propose_by_faiss(query, limit)
            except Exception as error:
                log.warning("FAISS cannot search on the device: %s", error)
                return False
            seconds["tensor"].append(middle - began)
            seconds["FAISS"].append(time.perf_counter() - middle)
            if found is not None and not self._holds_nearest(query, limit, expected, found):
                log.warning("FAISS misses vectors on the device, and is not used")
                return False
        medians = {name: float(np.median(values)) for name, values in seconds.items()}
        log.info(
            "a search of %d crops on the device takes %.3f ms, and by FAISS %.3f ms",
            len(self.slots),
            1e3 * medians["tensor"],
            1e3 * medians["FAISS"],
        )
        return medians["FAISS"] < medians["tensor"]

    def _holds_nearest(self, query: Floats, limit: int, expected: Slots, found: Slots) -> bool:
        rows = torch.from_numpy(expected).to(self._vectors.device)
        scores = (self._vectors[rows].float().cpu().numpy() @ query).astype(np.float32)
        nearest = expected[np.argsort(-scores, kind="stable")[:limit]]
        return bool(np.isin(nearest, found).all())


@lru_cache
def find_faiss_search(device: str) -> FaissSearch | None:
    """Return FAISS's search of a tensor on a GPU; None if FAISS has none, or it fails here.

    FAISS ends the process at an error of the GPU, such as one of a driver that is too old.
    Therefore another process tries it first.
    """
    if torch.device(device).type != "cuda" or not hasattr(faiss, "bfKnn"):
        return None
    command = [sys.executable, "-c", TRY_FAISS]
    try:
        tried = subprocess.run(
            command, capture_output=True, text=True, timeout=TRY_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        log.warning("FAISS is not used on the device: its trial did not end")
        return None
    if tried.returncode:
        last_line = (tried.stderr.strip().splitlines() or [""])[-1]
        log.warning("FAISS is not used on the device, where it fails: %s", last_line)
        return None
    return partial(search_by_faiss, open_faiss())


def open_faiss() -> Any:
    resources = faiss.StandardGpuResources()
    # In PyTorch's stream FAISS reads what PyTorch has written.
    resources.setDefaultNullStreamAllDevices()
    resources.setTempMemory(FAISS_MEMORY_BYTES)
    return resources


def search_by_faiss(
    resources: Any, vectors: torch.Tensor, query: Floats, count: int
) -> tuple[Floats, Slots]:
    """Search a tensor without copying it; see `FaissSearch`."""
    is_half = vectors.dtype == torch.float16
    kind = faiss.DistanceDataType_F16 if is_half else faiss.DistanceDataType_F32
    # The query must have the type of the vectors.
    direction = np.ascontiguousarray(query, np.float16 if is_half else np.float32)
    scores = np.empty(count, np.float32)
    rows = np.empty(count, np.int64)
    arguments = faiss.GpuDistanceParams()
    arguments.metric = faiss.METRIC_INNER_PRODUCT
    arguments.k = count
    arguments.dims = vectors.shape[1]
    arguments.vectors = faiss.cast_integer_to_void_ptr(vectors.data_ptr())
    arguments.vectorType = kind
    arguments.vectorsRowMajor = True
    arguments.numVectors = len(vectors)
    arguments.queries = faiss.swig_ptr(direction)
    arguments.queryType = kind
    arguments.queriesRowMajor = True
    arguments.numQueries = 1
    arguments.outDistances = faiss.swig_ptr(scores)
    arguments.outIndices = faiss.swig_ptr(rows)
    arguments.outIndicesType = faiss.IndicesDataType_I64
    arguments.device = vectors.get_device()
    faiss.bfKnn(resources, arguments)
    return scores, rows
