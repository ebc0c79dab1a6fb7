"""Requests without pause while something is killed, and an account of their outcomes."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field

import httpx2

from tests.compose.deployment import Failed
from tests.conftest import draw_crop

GALLERY = "/v1/galleries/default"
LONGEST_WAIT_S = 120.0
# The proxy's answer while the only container is started again.
WORTH_WAITING = "not_ready"


@dataclass
class Kept:
    """The writes that the service acknowledged, and therefore has to have.

    Attributes:
        images: the file of each crop, by `crop_id`.
        deleted: crops whose deletion was acknowledged.
        version: the highest one that an acknowledgement carried.
    """

    images: dict[str, bytes] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    version: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, version, crop_id=None, image=b""):
        with self.lock:
            self.version = max(self.version, version)
            if crop_id is not None:
                self.images[crop_id] = image

    def take(self):
        """Return a crop to delete, which nothing looks for from now on."""
        with self.lock:
            if len(self.images) < 20:
                return None
            crop_id = next(iter(self.images))
            del self.images[crop_id]
            return crop_id


@dataclass(frozen=True)
class Fate:
    """One request: when it was sent and answered, seconds since the epoch, and what went wrong."""

    what: str
    began: float
    ended: float
    problem: str = ""
    asked_to_wait: bool = False


class Load:
    """Enrols, deletes and queries through the proxy for as long as the block runs."""

    def __init__(self, deployment, kept, first_person):
        self._deployment = deployment
        self._kept = kept
        self._first = first_person
        self._stop = threading.Event()
        self._fates = []
        self._errors = []
        work = (self._enrol, self._enrol, self._query, self._query, self._delete)
        self._threads = [
            threading.Thread(target=self._work, args=(request, number))
            for number, request in enumerate(work)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind, error, trace):
        self._stop.set()
        for thread in self._threads:
            thread.join(LONGEST_WAIT_S + 60)
        if self._errors and error is None:
            raise self._errors[0]

    def first_enrollment_after(self, moment):
        """Return when the first enrollment that was sent after a moment succeeded, or None."""
        enrollments = [fate for fate in list(self._fates) if fate.what == "enrolments"]
        succeeded = [
            fate.ended
            for fate in enrollments
            if fate.began > moment and not fate.problem and not fate.asked_to_wait
        ]
        return min(succeeded, default=None)

    def account(self, death=None):
        """Return what became of everything.

        Args:
            death: of something that a request in flight may have needed; None for nothing.

        Raises:
            Failed: a request failed, or was told to wait, that had no reason to.
        """
        failed = [fate for fate in self._fates if fate.problem]
        waits = [fate for fate in self._fates if fate.asked_to_wait]
        wrong = [
            fate
            for fate in failed
            if death is None or fate.began > death.ended or fate.ended < death.began
        ]
        if death is None:
            wrong += waits
        if wrong:
            first = wrong[0]
            raise Failed(
                f"{len(wrong)} requests failed that were not in flight at {death}; the first, "
                f"{first.what} from {first.began:.3f} to {first.ended:.3f}: {first.problem}"
            )
        counts = ", ".join(
            f"{sum(fate.what == what for fate in self._fates)} {what}"
            for what in ("enrolments", "queries", "deletions")
        )
        slowest = max(
            (fate.ended - fate.began for fate in self._fates if fate.what == "queries"), default=0.0
        )
        return (
            f"{counts}; {len(failed)} of those in flight failed, none else; "
            f"{len(waits)} told to ask again; slowest query {slowest:.1f} s"
        )

    def _work(self, one, number):
        try:
            with self._deployment.through_the_proxy() as http:
                turn = 0
                while not self._stop.is_set():
                    one(http, number * 1_000_000 + turn)
                    turn += 1
        except BaseException as error:
            self._errors.append(error)

    def _enrol(self, http, turn):
        image = draw_crop(self._first + turn, 0, 0)
        answer = self._ask(
            http,
            "enrolments",
            "POST",
            f"{GALLERY}/crops",
            files={"images": ("crop.png", image)},
            data={"identity": f"{self._first + turn}", "camera": "load"},
            headers={"Idempotency-Key": secrets.token_hex(8)},
        )
        (landed,) = answer["results"]
        self._kept.note(answer["gallery_version"], landed["crop_id"], image)

    def _query(self, http, _turn):
        with self._kept.lock:
            crop_id, image = next(reversed(self._kept.images.items()))
            version = self._kept.version
            deleted = set(self._kept.deleted)
        answer = self._ask(
            http,
            "queries",
            "POST",
            f"{GALLERY}/queries",
            files={"images": ("crop.png", image)},
            data={"top_k": "20", "min_version": str(version), "scoring": "cosine"},
        )
        found = [result["crop_id"] for result in answer["results"]]
        if deleted & set(found):
            raise Failed(f"version {version}: deleted crops were found: {deleted & set(found)}")
        with self._kept.lock:
            still_there = crop_id in self._kept.images
        if still_there and crop_id not in found:
            raise Failed(f"version {version}: {crop_id} was enrolled and is not found")

    def _delete(self, http, _turn):
        self._stop.wait(0.3)
        crop_id = self._kept.take()
        if crop_id is not None:
            answer = self._ask(
                http, "deletions", "DELETE", f"{GALLERY}/crops/{crop_id}", gone_is_done=True
            )
            self._kept.note(answer.get("gallery_version", 0))
            with self._kept.lock:
                self._kept.deleted.add(crop_id)

    def _ask(self, http, what, method, path, gone_is_done=False, **request):
        """Send a request until it is answered; lost answers are on the account."""
        until = time.monotonic() + LONGEST_WAIT_S
        again = False
        while time.monotonic() < until:
            began = time.time()
            try:
                response = http.request(method, path, **request)
            except httpx2.TransportError as error:
                self._fates.append(Fate(what, began, time.time(), repr(error)))
                again = True
                continue
            ended = time.time()
            wait = response.headers.get("retry-after")
            if response.is_success:
                self._fates.append(Fate(what, began, ended))
                return dict(response.json()) if response.content else {}
            if again and gone_is_done and response.status_code == 404:
                return {}
            if wait and WORTH_WAITING in response.text:
                self._fates.append(Fate(what, began, ended, asked_to_wait=True))
                again = True
                time.sleep(min(float(wait), 5.0))
                continue
            text = f"{response.status_code} {response.text[:300]}"
            self._fates.append(Fate(what, began, ended, text))
            again = True
            time.sleep(0.2)
        raise Failed(f"{what}: not answered within {LONGEST_WAIT_S:.0f} s")
