"""Replicas that share one Milvus and are killed under load lose no acknowledged write.

`python -m tests.service.milvus.cycles --cycles 100` kills one of two processes of the service at a
random moment, and in every tenth cycle a Milvus 2.3.5. Clients enroll and delete meanwhile, at any
process. After each kill every process must find each acknowledged crop, and no deleted one; nor may
any answer of a search between show a crop whose deletion was acknowledged before it was asked. With
`--postgres` the record is in PostgreSQL, and each process has a data directory of its own, as on
several machines.
"""

import argparse
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

from tests.conftest import draw_crops, save_tiny_artefact
from tests.outside import crop_ids
from tests.postgres import postgres
from tests.service.conftest import Served, files
from tests.service.milvus.servers import milvus_server
from tests.torture.images import draw

CLIENTS = 3
REPLICAS = 2
MILVUS_EVERY = 10
FOUND_WITHIN_SECONDS = 180.0
SETTLED_WITHIN_SECONDS = 30.0
GALLERY = "/v1/galleries/default"
PICTURE = draw(0, 0)


class Cycles:
    """One record and one Milvus that live through many crashes of the processes beside them.

    Args:
        url: of PostgreSQL; None for SQLite in a data directory that the processes share.
    """

    def __init__(self, folder, milvus, seed, url=None):
        self.folder = folder
        self.milvus = milvus
        self.chance = random.Random(seed)
        self.lock = threading.Lock()
        self.there = set()
        self.removed = set()
        self.version = 0
        self.counts = dict.fromkeys(("enrolled", "removed", "searched", "refused"), 0)
        self.starts = 0
        self._going = threading.Event()
        self._ended = False
        save_tiny_artefact(folder / "tiny.safetensors", draw_crops())
        self._url = url
        self.services = [self._start(replica) for replica in range(REPLICAS)]

    def _start(self, replica):
        self.starts += 1
        record = {"data_dir": self.folder / "data"}
        if self._url:
            record = {"data_dir": self.folder / f"data-{replica}", "database_url": self._url}
        return Served(
            self.folder / f"{self.starts}.log",
            artefact=self.folder / "tiny.safetensors",
            **record,
            images_url=f"file://{self.folder}/pictures",
            index_url=self.milvus.url,
            max_image_bytes=200_000,
        )

    def client(self, number):
        images = (draw(image, 1) for image in range(number, 10**6, CLIENTS))
        while not self._ended:
            if self._going.wait(0.1):
                held = len(self.there)
                if held > 300 or (held > 20 and self.chance.random() < 0.35):
                    self._remove()
                else:
                    self._enroll(next(images))

    def _ask(self, method, path, replica=None, **sent):
        """Return the first answer that is no refusal for the moment, of one process or of any."""
        until = time.monotonic() + FOUND_WITHIN_SECONDS
        while time.monotonic() < until:
            service = self.services[self.chance.randrange(REPLICAS) if replica is None else replica]
            # The client of one that is killed is closed.
            with contextlib.suppress(httpx2.HTTPError, RuntimeError):
                answer = service.http.request(method, GALLERY + path, **sent, timeout=20.0)
                if answer.status_code not in (429, 503):
                    return answer
                self.counts["refused"] += 1
            time.sleep(0.05)
        raise AssertionError(f"{method} {path} was refused for {FOUND_WITHIN_SECONDS:.0f} s")

    def _enroll(self, image):
        key = {"Idempotency-Key": f"{hash(image)}"}
        answer = self._ask("POST", "/crops", headers=key, files=files(image))
        (crop_id,) = crop_ids(answer)
        with self.lock:
            self.there.add(crop_id)
            self.version = max(self.version, answer.json()["gallery_version"])
            self.counts["enrolled"] += 1

    def _remove(self):
        with self.lock:
            crop_id = self.chance.choice(sorted(self.there))
            # Until it is answered the crop may be there or not.
            self.there.discard(crop_id)
        answer = self._ask("DELETE", f"/crops/{crop_id}")
        # The one before may have been done and not answered.
        if answer.status_code not in (200, 404):
            raise AssertionError(answer.text)
        with self.lock:
            self.removed.add(crop_id)
            self.counts["removed"] += 1
            gone = frozenset(self.removed)
        self.counts["searched"] += 1
        if shown := self._shown() & gone:
            raise AssertionError(f"a search shows {len(shown)} deleted crops")

    def _shown(self, version=0, replica=None):
        asked = {"top_k": 2000, "scoring": "cosine", "min_version": version}
        return {*crop_ids(self._ask("POST", "/queries", replica, files=files(PICTURE), data=asked))}

    def cycle(self, number):
        self._going.set()
        time.sleep(self.chance.uniform(0.2, 2.0))
        if number % MILVUS_EVERY == 0:
            victim = "milvus"
            self.milvus.kill()
            time.sleep(self.chance.uniform(0.0, 2.0))
            self.milvus.start()
        else:
            victim = "service"
            replica = self.chance.randrange(REPLICAS)
            self.services[replica].kill()
            self.services[replica] = self._start(replica)
        time.sleep(self.chance.uniform(0.0, 1.0))
        self._going.clear()
        # All that was begun is answered or given up.
        for replica in range(REPLICAS):
            self._check(replica)
        return victim

    def _check(self, replica):
        until = time.monotonic() + SETTLED_WITHIN_SECONDS
        while True:
            with self.lock:
                ledger = (set(self.there), set(self.removed))
                version = self.version
            shown = self._shown(version, replica)
            there, removed = ledger
            lost = there - shown
            back = removed & shown
            if not (lost or back):
                return
            # While the last requests are answered the ledger is behind.
            with self.lock:
                is_settled = ledger == (self.there, self.removed)
            if is_settled or back or time.monotonic() > until:
                log = self.services[replica].log.read_text()[-3000:]
                raise AssertionError(f"{len(lost)} crops are lost, {len(back)} came back: {log}")
            time.sleep(0.2)

    def run(self, cycles):
        killed = {"service": 0, "milvus": 0}
        try:
            with ThreadPoolExecutor(CLIENTS) as threads:
                clients = [threads.submit(self.client, number) for number in range(CLIENTS)]
                try:
                    for number in range(1, cycles + 1):
                        killed[self.cycle(number)] += 1
                        sys.stderr.write(f"{number}/{cycles}: {self.counts}\n")
                finally:
                    self._ended = True
            for client in clients:
                client.result()
        finally:
            for service in self.services:
                service.kill()
        return {"cycles": cycles, "killed": killed, **self.counts, "lost": 0, "back": 0}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--server", choices=("real", "lite"), default="real")
    parser.add_argument("--postgres", action="store_true")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="cycles-") as folder,
        milvus_server(asked.server) as server,
        contextlib.ExitStack() as held,
    ):
        url = held.enter_context(postgres()).url("record") if asked.postgres else None
        found = Cycles(Path(folder), server, asked.seed, url).run(asked.cycles)
    sys.stdout.write(json.dumps(found | vars(asked)) + "\n")


if __name__ == "__main__":
    main()
