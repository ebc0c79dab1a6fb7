"""Replicas that share one Milvus and are killed under load lose no acknowledged write.

`python -m tests.service.milvus.cycles --cycles 100` kills one of two processes of the service at a
random moment, and in every tenth cycle a Milvus 2.3.5. Clients enroll and delete meanwhile, at any
process. After each kill every process must find each acknowledged crop, and no deleted one; nor may
any answer of a search between show a crop whose deletion was acknowledged before it was asked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import draw_crops, save_tiny_artefact
from tests.service.conftest import files
from tests.service.milvus.servers import Lite, Real, milvus_server
from tests.torture.forked import ForkedService
from tests.torture.images import draw

CLIENTS = 3
REPLICAS = ("one", "two")
MILVUS_EVERY = 10
FOUND_WITHIN_SECONDS = 180.0
GALLERY = "/v1/galleries/default"
PICTURE = draw(0, 0)


class Violated(AssertionError):
    """Something that was acknowledged is not so."""


class Cycles:
    """One record and one Milvus that live through many crashes of the processes beside them."""

    def __init__(self, folder: Path, milvus: Lite | Real, seed: str) -> None:
        self.folder = folder
        self.milvus = milvus
        self.chance = random.Random(seed)
        artefact = folder / "tiny.safetensors"
        save_tiny_artefact(artefact, draw_crops())
        self._settings: dict[str, Any] = {
            "artefact": artefact,
            "data_dir": folder / "data",
            "images_url": f"file://{folder}/pictures",
            "index_url": milvus.url,
            "max_image_bytes": 200_000,
        }
        self.lock = threading.Lock()
        self.there: set[str] = set()
        self.removed: set[str] = set()
        self.version = 0
        self.counts = dict.fromkeys(("enrolled", "removed", "searched", "refused"), 0)
        self._number = 0
        self._going = threading.Event()
        self._ended = False
        self.failure: Exception | None = None
        self.services = {name: self._begin(name) for name in REPLICAS}

    def _begin(self, name: str) -> ForkedService:
        return ForkedService(self.folder / f"{name}.log", **self._settings)

    def wait_until_serving(self, name: str) -> None:
        if not self.services[name].serving():
            raise Violated(f"{name} did not start: {self.services[name].said}")

    def restart(self, name: str) -> None:
        self._end(name)
        # Its address is read from the log.
        (self.folder / f"{name}.log").rename(self.folder / f"{name}.{time.monotonic_ns()}.log")
        self.services[name] = self._begin(name)

    def _end(self, name: str) -> None:
        self.services[name].kill()
        self.services[name].http.close()

    def client(self, seed: int) -> None:
        """Enroll, delete and search until the end; pause while it has to."""
        chance = random.Random(f"{self.chance.random()}{seed}")
        try:
            while not self._ended:
                if self._going.wait(0.1):
                    with self.lock:
                        self._number += 1
                        number = self._number
                        held = len(self.there)
                    if held > 300 or (held > 20 and chance.random() < 0.35):
                        self._remove(chance)
                    else:
                        self._enroll(chance, number)
        except Exception as error:
            self.failure = self.failure or error

    def _ask(self, chance: random.Random, *of: Any, **what: Any) -> httpx.Response:
        """Return one answer that is no refusal for the moment, of whichever process."""
        until = time.monotonic() + FOUND_WITHIN_SECONDS
        while time.monotonic() < until:
            service = self.services[chance.choice(REPLICAS)]
            # The client of one that is killed is closed.
            with contextlib.suppress(httpx.HTTPError, RuntimeError):
                answer = service.http.request(*of, **what, timeout=20.0)
                if answer.status_code not in (429, 503):
                    return answer
                self.counts["refused"] += 1
            time.sleep(0.05)
        raise Violated(f"{of[:2]} was refused for {FOUND_WITHIN_SECONDS:.0f} s")

    def _enroll(self, chance: random.Random, number: int) -> None:
        form = {"files": files(draw(number, 1)), "data": {"identity": f"person {number % 40}"}}
        headers = {"Idempotency-Key": f"{number}"}
        answer = self._ask(chance, "POST", f"{GALLERY}/crops", headers=headers, **form)
        if answer.status_code != 201:
            raise Violated(answer.text)
        body = answer.json()
        with self.lock:
            self.there.add(body["results"][0]["crop_id"])
            self.version = max(self.version, body["gallery_version"])
            self.counts["enrolled"] += 1

    def _remove(self, chance: random.Random) -> None:
        with self.lock:
            crop_id = chance.choice(sorted(self.there))
            # Until it is answered the crop may be there or not.
            self.there.discard(crop_id)
        answer = self._ask(chance, "DELETE", f"{GALLERY}/crops/{crop_id}")
        # The one before may have been done and not answered.
        if answer.status_code not in (200, 404):
            raise Violated(answer.text)
        with self.lock:
            self.removed.add(crop_id)
            self.counts["removed"] += 1
            gone = frozenset(self.removed)
        self.counts["searched"] += 1
        if shown := self._shown(chance, 0) & gone:
            raise Violated(f"a search shows {len(shown)} deleted crops")

    def _shown(self, chance: random.Random, version: int, name: str = "") -> set[str]:
        """Return the crops that a search for all of them finds."""
        asked = {"top_k": 2000, "scoring": "cosine", "min_version": version}
        refused = ""
        until = time.monotonic() + FOUND_WITHIN_SECONDS
        while time.monotonic() < until:
            service = self.services[name or chance.choice(REPLICAS)]
            with contextlib.suppress(httpx.HTTPError, RuntimeError):
                answer = service.http.post(
                    f"{GALLERY}/queries", files=files(PICTURE), data=asked, timeout=20.0
                )
                if answer.status_code == 200:
                    return {result["crop_id"] for result in answer.json()["results"]}
                refused = answer.text
            time.sleep(0.1)
        said = "\n".join(service.said for service in self.services.values())
        raise Violated(f"searches are refused for {FOUND_WITHIN_SECONDS:.0f} s: {refused}\n{said}")

    def cycle(self, number: int) -> str:
        """Kill a process under load, start it again, and compare the searches of both processes."""
        self._going.set()
        time.sleep(self.chance.uniform(0.2, 2.0))
        victim = "milvus" if number % MILVUS_EVERY == 0 else self.chance.choice(REPLICAS)
        if victim == "milvus":
            self.milvus.kill()
            time.sleep(self.chance.uniform(0.0, 2.0))
            self.milvus.start()
        else:
            self.restart(victim)
            self.wait_until_serving(victim)
        time.sleep(self.chance.uniform(0.0, 1.0))
        self._going.clear()
        # All that was begun is answered or given up.
        for name in REPLICAS:
            self._check(name)
        return victim

    def _check(self, name: str) -> None:
        until = time.monotonic() + 30.0
        while True:
            with self.lock:
                there = set(self.there)
                removed = set(self.removed)
                version = self.version
            shown = self._shown(self.chance, version, name)
            with self.lock:
                same = (there, removed) == (self.there, self.removed)
            lost = there - shown
            back = removed & shown
            if not (lost or back):
                return
            # While the last requests are answered the ledger is behind.
            if same or back or time.monotonic() > until:
                said = f"{len(lost)} crops are lost, {len(back)} came back"
                raise Violated(f"{name}: {said}\n{self.services[name].said}")
            time.sleep(0.2)

    def run(self, cycles: int, say: Any = lambda _: None) -> dict[str, Any]:
        """Run all cycles and return what happened in them."""
        threads = [threading.Thread(target=self.client, args=(n,)) for n in range(CLIENTS)]
        killed = dict.fromkeys((*REPLICAS, "milvus"), 0)
        try:
            for name in REPLICAS:
                self.wait_until_serving(name)
            for thread in threads:
                thread.start()
            for number in range(1, cycles + 1):
                began = time.monotonic()
                killed[self.cycle(number)] += 1
                if self.failure:
                    raise self.failure
                say(f"{number}/{cycles}: {time.monotonic() - began:.1f} s, {self.counts}")
        finally:
            self._ended = True
            for thread in threads:
                if thread.ident:
                    thread.join(30.0)
            for name in REPLICAS:
                self._end(name)
        return {"cycles": cycles, "killed": killed, **self.counts, "lost": 0, "back": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--server", choices=("real", "lite"), default="real")
    asked = parser.parse_args()

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    with (
        tempfile.TemporaryDirectory(prefix="cycles-") as folder,
        milvus_server(asked.server) as server,
    ):
        found = Cycles(Path(folder), server, asked.seed).run(asked.cycles, say)
    sys.stdout.write(json.dumps(found | {"seed": asked.seed, "server": asked.server}) + "\n")


if __name__ == "__main__":
    main()
