"""Clients that write at services which are killed, and what these have acknowledged."""

import contextlib
import itertools
import random
import threading
import time
from dataclasses import dataclass, field

import httpx2

from tests.outside import crop_ids
from tests.torture.images import draw

GALLERY = "lobby"
# Every third crop is deleted soon after its enrollment.
DELETED_EVERY = 3
RETRY_SECONDS = 0.05
ANSWER_SECONDS = 30.0
# Of a machine that does not reach the record, and of a proxy whose machine was killed.
NOT_NOW = (502, 503)


@dataclass
class Ledger:
    """What services have acknowledged, used by several clients at once.

    Attributes:
        enrolled: the number of the picture of each crop that was acknowledged, by its id.
        deleted: the crops whose deletion was acknowledged.
        doubtful: the crops whose deletion was asked for; without an answer it may have happened.
        successes: when a write was acknowledged, by `time.monotonic`.
        waits: the seconds until a write was acknowledged, with its repetitions.
        refusals: the seconds after which a write was answered that it has to be sent again.
    """

    enrolled: dict[str, int] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    successes: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    numbers: itertools.count = field(default_factory=itertools.count)

    @property
    def present(self):
        return self.enrolled.keys() - self.doubtful

    def first_success_after(self, moment):
        return min((at for at in list(self.successes) if at > moment), default=None)


class Client(threading.Thread):
    """Enrolls and deletes until told to stop, at the next service where one does not answer.

    Args:
        services: a list whose items change while they are killed and started again.
    """

    def __init__(self, ledger, services, number, stop):
        super().__init__(daemon=True)
        self._ledger = ledger
        self._services = services
        self._at = number
        self._told_to_stop = stop
        # Answers that are neither a success nor one that says to try again.
        self.surprises = []

    def run(self):
        while not self._told_to_stop.is_set():
            number = next(self._ledger.numbers)
            answer = self._write("POST", f"/v1/galleries/{GALLERY}/crops", 201, number)
            if answer is None:
                return
            (crop_id,) = crop_ids(answer)
            self._ledger.enrolled[crop_id] = number
            if number % DELETED_EVERY == 0:
                self._ledger.doubtful.add(crop_id)
                path = f"/v1/galleries/{GALLERY}/crops/{crop_id}"
                if self._write("DELETE", path, 200) is None:
                    return
                self._ledger.deleted.add(crop_id)

    def _write(self, method, path, expected, number=None):
        """Send a request until it is answered as expected; return None if told to stop before."""
        asked = {}
        if number is not None:
            asked = {
                "files": [("images", ("crop", draw(number, 7)))],
                "data": {"identity": f"person {number % 50}"},
                "headers": {"Idempotency-Key": f"{id(self._ledger)}-{number}"},
            }
        began = time.monotonic()
        sent_before = False
        while not self._told_to_stop.is_set():
            served = self._services[self._at % len(self._services)]
            url = str(served.http.base_url).rstrip("/") + path
            sent = time.monotonic()
            try:
                answer = httpx2.request(method, url, timeout=ANSWER_SECONDS, **asked)
            except httpx2.TransportError:
                answer = None
            # A deletion whose answer was lost has happened.
            was_repeated = method == "DELETE" and sent_before
            if answer is not None and (
                answer.status_code == expected or (was_repeated and answer.status_code == 404)
            ):
                self._ledger.successes.append(time.monotonic())
                self._ledger.waits.append(time.monotonic() - began)
                return answer
            if answer is not None and answer.status_code not in NOT_NOW:
                self.surprises.append(f"{method} {path}: {answer.status_code} {answer.text}")
                return None
            if answer is not None:
                self._ledger.refusals.append(time.monotonic() - sent)
            sent_before = True
            self._at += 1
            time.sleep(RETRY_SECONDS)
        return None


@contextlib.contextmanager
def writing(ledger, services, count=4):
    """Yield clients that write at services for as long as the block runs."""
    stop = threading.Event()
    clients = [Client(ledger, services, number, stop) for number in range(count)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        stop.set()
        for client in clients:
            client.join()


def _list_crops(served):
    there = set()
    asked = {"limit": 1000}
    while True:
        page = served.read(f"/v1/galleries/{GALLERY}/crops", params=asked)
        there |= {crop["crop_id"] for crop in page["results"]}
        if page["next_cursor"] is None:
            return there
        asked["cursor"] = page["next_cursor"]


def compare(ledger, services, chance=random, searches=10):
    """Return what is wrong with services that have come to rest, and how often.

    Each of them has to list what was acknowledged and nothing that was deleted, to find crops that
    any of them enrolled, and to answer as the others do.
    """
    wrong = {"lost": 0, "back": 0, "unseen": 0, "differing": 0}
    sample = chance.sample(sorted(ledger.present), min(searches, len(ledger.present)))
    listed = []
    answers = []
    for served in services:
        there = _list_crops(served)
        listed.append(there)
        wrong["lost"] += len(ledger.present - there)
        wrong["back"] += len(there & ledger.deleted)
        found = [served.search(GALLERY, draw(ledger.enrolled[crop], 7)) for crop in sample]
        answers.append(found)
        for crop, results in zip(sample, found, strict=True):
            wrong["unseen"] += crop not in {result["crop_id"] for result in results}
    wrong["differing"] += len({frozenset(there) for there in listed}) - 1
    for same_search in zip(*answers, strict=True):
        ranked = {tuple(result["crop_id"] for result in results) for results in same_search}
        wrong["differing"] += len(ranked) - 1
    return wrong
