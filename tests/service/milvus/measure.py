"""Milvus beside FAISS: search, enrollment to found, filling, recall, memory and disk.

`python -m tests.service.milvus.measure --crops 100000` starts a Milvus 2.3.5, enrols
crops without pictures by the record, and prints one JSON object. Nothing of HTTP or embedding is in
it.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.scale import ScaleCrops
from service.errors import IndexUnavailable
from service.index.filters import SearchFilter
from tests.service.filled_index import FilledIndex
from tests.service.milvus.lab import Lab
from tests.service.milvus.servers import milvus_server

QUERIES = 200
TRIALS = 50
LIMIT = 100
GROUPS = 10
PER_COMMIT = 1000
FILTERS = {
    "all": SearchFilter(),
    "4 of 20 cameras": SearchFilter(cameras=tuple(f"camera-{number:02}" for number in range(4))),
    "without 1 camera": SearchFilter(exclude_cameras=("camera-07",)),
}


def _times(search, queries):
    taken = []
    refused = 0
    for query in queries:
        began = time.perf_counter()
        try:
            search(query[None])
        except IndexUnavailable:
            refused += 1
        taken.append(1e3 * (time.perf_counter() - began))
    p50, p99 = np.percentile(taken, (50, 99)).tolist()
    return {"p50_ms": p50, "p99_ms": p99, "refused": refused}


def _resident(server):
    shown = subprocess.check_output(["ps", "-o", "rss=", "-g", str(server.process.pid)], text=True)
    return 1024 * sum(int(kibibytes) for kibibytes in shown.split())


def _disk(folder):
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def measure(one, server, source, crops):
    gallery = one.gallery()
    found = dict[str, Any]()
    idle = _resident(server)
    for first in range(0, crops, PER_COMMIT):
        one.enroll(gallery, *source.crops(first, min(first + PER_COMMIT, crops)))
    # As a rebuild does.
    began = time.perf_counter()
    one.indexer.start()
    while one.state(gallery).version < one.gallery().version:
        time.sleep(0.01)
    found["indexed_per_second"] = crops / (time.perf_counter() - began)
    # Sealed and indexed by then.
    one.server.compact(one.state(gallery).collection)
    time.sleep(10)
    found["milvus_bytes_per_crop"] = (_resident(server) - idle) / crops
    found["milvus_disk_bytes_per_crop"] = _disk(server.folder / "data" / "data") / crops
    queries = source.queries(QUERIES, crops)
    index = one.index(gallery)
    local = FilledIndex(source.dimension)
    local.fill(one.record.crops.vectors(gallery.gallery_id))
    for name, wanted in FILTERS.items():
        index.search(queries[:1], [None], LIMIT, wanted)
        found[f"milvus, {name}"] = _times(
            lambda query, wanted=wanted: index.search(query, [None], LIMIT, wanted), queries
        )
        found[f"faiss, {name}"] = _times(
            lambda query, wanted=wanted: local.search(query, [None], LIMIT, wanted), queries
        )
    found["milvus, 10 groups"] = _times(
        lambda query: index.search(query, [None], GROUPS, grouped=True), queries
    )
    same = []
    for query in queries[:50, None]:
        rows = (searched.search(query, [None], LIMIT).slots for searched in (index, local))
        same.append(len(np.intersect1d(*rows)))
    found["recall_at_100"] = float(np.mean(same)) / LIMIT
    found["to_found_ms"] = _to_found(one, index, source, crops)
    return found


def _to_found(one, index, source, crops):
    gallery = one.gallery()
    taken = []
    for number in range(TRIALS):
        (crop,) = source.crops(crops + number, crops + number + 1)
        began = time.perf_counter()
        (row,) = one.enroll(gallery, crop)
        found = False
        while not found:
            time.sleep(0.005)
            with contextlib.suppress(IndexUnavailable):
                found = row in index.search(crop.vector[None], [None], 1).slots
        taken.append(1e3 * (time.perf_counter() - began))
    return {"p50": float(np.median(taken)), "p99": float(np.percentile(taken, 99))}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crops", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    asked = parser.parse_args()
    source = ScaleCrops(None, asked.dimension)
    with (
        tempfile.TemporaryDirectory() as folder,
        milvus_server("real") as server,
        contextlib.closing(Lab(Path(folder), server)) as one,
    ):
        found = measure(one, server, source, asked.crops)
    conditions = {"crops": asked.crops, "dimension": source.dimension, "load": os.getloadavg()[0]}
    sys.stdout.write(json.dumps(conditions | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
