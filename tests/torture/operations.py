"""Calls to the service, each with its entry in the ledger."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx2

from tests.outside import zip_of
from tests.torture.images import draw
from tests.torture.ledger import Crop, Violation

JOB_SECONDS = 60.0
ENDED = ("done", "failed", "cancelled")


class Gone(Exception):
    """The service does not answer any more."""


@dataclass
class LostEnrolment:
    """An enrolment whose answer was lost, to be sent again."""

    crops: Sequence[Crop]
    identity: str
    key: str | None


class Caller:
    """A sender of requests under one name, with identities of its own."""

    def __init__(self, name, ledger, http, seed):
        self.name = name
        self.ledger = ledger
        self.http = http
        self.seed = seed
        self.lost = []
        self._identities = 0

    def new_identity(self):
        self._identities += 1
        return f"{self.name}.{self._identities}.{uuid4().hex[:6]}"

    def new_crop(self, gallery):
        image = draw(len(self.ledger.crops) + 1, self.seed) + uuid4().bytes
        sha256 = hashlib.sha256(image).hexdigest()
        return self.ledger.new_crop(gallery, self.name, image, sha256)

    def send(self, operation, method, path, **content):
        """Return the answer where it is one that says what happened; None where nobody knows.

        Raises:
            Gone: there is no answer.
            Violation: for an answer that only a fault explains.
        """
        try:
            response = self.http.request(method, path, **content)
        except httpx2.TransportError as error:
            if operation is not None:
                self.ledger.lose(operation, type(error).__name__)
            raise Gone from error
        if response.status_code == 503:
            if operation is not None:
                self.ledger.lose(operation, "503")
            # Pause as the service asks.
            time.sleep(0.05)
            return None
        if response.status_code >= 500:
            raise Violation("failed", f"{method} {path}: {response.status_code} {response.text}")
        if operation is not None and not response.is_success:
            self.ledger.refuse(operation, f"{response.status_code} {response.text[:300]}")
        if operation is not None and response.is_success and "gallery_version" in response.text:
            self.ledger.saw_version(operation.gallery, response.json()["gallery_version"])
        return response

    def enroll(self, gallery, count, identity=None, key=None, **fields):
        """Several new images of one person by one request."""
        identity = identity or self.new_identity()
        crops = [self.new_crop(gallery) for _ in range(count)]
        operation = self.ledger.begin("enroll", gallery, {crop.number: identity for crop in crops})
        try:
            answer = self._send_crops(operation, crops, identity, key, **fields)
        except Gone:
            self.lost.append(LostEnrolment(crops, identity, key))
            raise
        if answer is None:
            self.lost.append(LostEnrolment(crops, identity, key))
        elif answer.status_code == 201:
            results = answer.json()["results"]
            if any(result["duplicate"] for result in results):
                raise Violation("phantom", f"new images are known already: {answer.text}")
            self.ledger.acknowledge(operation, _landed(crops, results))
        elif answer.status_code not in (404, 429):
            raise Violation("failed", f"enroll: {answer.status_code} {answer.text}")

    def enroll_again(self, lost):
        """Send an enrollment without an answer again, after which each image is there once."""
        gallery = lost.crops[0].gallery
        was = {crop.number: self.ledger.now.get(crop.number) for crop in lost.crops}
        if not self.ledger.galleries.get(gallery) or any(
            crop.number in self.ledger.dead or was[crop.number] not in (None, lost.identity)
            for crop in lost.crops
        ):
            return
        after = {crop.number: lost.identity for crop in lost.crops}
        operation = self.ledger.begin("enroll again", gallery, after)
        answer = self._send_crops(operation, list(lost.crops), lost.identity, lost.key)
        if answer is None:
            return
        if answer.status_code != 201:
            raise Violation("failed", f"enroll again: {answer.status_code} {answer.text}")
        self.ledger.acknowledge(operation, _landed(lost.crops, answer.json()["results"]))
        for crop, result in zip(lost.crops, answer.json()["results"], strict=True):
            repeated = result["duplicate"] or "Idempotent-Replayed" in answer.headers
            if repeated != (was[crop.number] is not None):
                raise Violation("phantom", f"was {was[crop.number]!r}, sent again: {answer.text}")

    def repeat(self, crop, identity):
        operation = self.ledger.begin("repeat", crop.gallery, {crop.number: identity})
        answer = self._send_crops(operation, [crop], identity, None)
        if answer is None or answer.status_code == 429:
            return
        one = answer.json()["results"][0]
        if answer.status_code != 201 or not one["duplicate"] or one["crop_id"] != crop.crop_id:
            raise Violation("lost", f"crop {crop.number} sent again: {answer.text}")
        self.ledger.acknowledge(operation)

    def delete_crop(self, crop):
        operation = self.ledger.begin(
            "delete crop", crop.gallery, {crop.number: None}, deletes=True
        )
        path = f"/v1/galleries/{crop.gallery}/crops/{crop.crop_id}"
        self._confirm(operation, self.send(operation, "DELETE", path))

    def forget(self, gallery, identity, numbers):
        operation = self.ledger.begin("forget", gallery, dict.fromkeys(numbers), deletes=True)
        path = f"/v1/galleries/{gallery}/identities/{identity}"
        self._confirm(operation, self.send(operation, "DELETE", path))

    def relabel(self, gallery, identity, new, numbers):
        operation = self.ledger.begin("relabel", gallery, dict.fromkeys(numbers, new))
        path = f"/v1/galleries/{gallery}/identities/{identity}"
        answer = self.send(operation, "PATCH", path, data={"new_identity": new})
        self._confirm(operation, answer)

    def query(self, crop):
        """Search for a crop by its own image: none is better, and no deleted one is shown."""
        if crop.image is None:
            return
        dead = self.ledger.dead_ids()
        version = self.ledger.versions.get(crop.gallery, 0)
        answer = self.send(
            None,
            "POST",
            f"/v1/galleries/{crop.gallery}/queries",
            files={"images": ("crop", crop.image)},
            # Another process may have answered the last write.
            data={"scoring": "cosine", "top_k": "1000", "min_version": str(version)},
        )
        if answer is None or answer.status_code == 429:
            return
        if answer.status_code != 200:
            raise Violation("failed", f"query: {answer.status_code} {answer.text}")
        check_own_rank(crop, answer.json()["results"], dead)

    def import_archive(self, gallery, count, identity=None):
        identity = identity or self.new_identity()
        crops = [self.new_crop(gallery) for _ in range(count)]
        packed = zip_of({f"{crop.number:08d}.png": crop.image for crop in crops})
        operation = self.ledger.begin("import", gallery, {crop.number: identity for crop in crops})
        answer = self.send(
            operation,
            "POST",
            f"/v1/galleries/{gallery}/imports",
            files={"archive": ("crops.zip", packed)},
            data={"identity": identity},
        )
        if answer is not None and answer.status_code == 202:
            job = answer.json()["job_id"]
            self.ledger.jobs[job] = count
            self.ledger.acknowledge(operation)
            self.wait_for_job(job)
            self._learn_ids(gallery, identity)

    def reindex(self, gallery):
        """Embed a gallery by the newest model if another one filled it."""
        answer = self.send(None, "POST", f"/v1/galleries/{gallery}/reindex")
        if answer is not None and answer.status_code == 202:
            self.ledger.jobs[answer.json()["job_id"]] = 0
            self.wait_for_job(answer.json()["job_id"])

    def wait_for_job(self, job_id):
        until = time.monotonic() + JOB_SECONDS
        while time.monotonic() < until:
            answer = self.send(None, "GET", f"/v1/jobs/{job_id}")
            if answer is not None and answer.status_code == 200 and self._ended(answer.json()):
                return
            if answer is not None and answer.status_code == 404:
                raise Violation("lost", f"job {job_id}: {answer.text}")
            time.sleep(0.03)
        raise Violation("lost", f"job {job_id} did not end within {JOB_SECONDS:.0f} s")

    def create_gallery(self, gallery):
        operation = self.ledger.begin("create gallery", gallery, {})
        self.ledger.doubtful_galleries[gallery] = operation
        answer = self.send(operation, "POST", "/v1/galleries", data={"name": gallery})
        if self._confirm(operation, answer, 201):
            self.ledger.galleries[gallery] = True
            self.ledger.doubtful_galleries.pop(gallery)

    def change_gallery(self, gallery, **fields):
        operation = self.ledger.begin("change gallery", gallery, {})
        answer = self.send(operation, "PATCH", f"/v1/galleries/{gallery}", data=fields)
        if answer is not None and answer.status_code == 200:
            self.ledger.acknowledge(operation)

    def delete_gallery(self, gallery):
        crops = [crop.number for crop in self.ledger.crops.values() if crop.gallery == gallery]
        operation = self.ledger.begin("delete gallery", gallery, dict.fromkeys(crops), deletes=True)
        self.ledger.doubtful_galleries[gallery] = operation
        answer = self.send(operation, "DELETE", f"/v1/galleries/{gallery}")
        if self._confirm(operation, answer):
            self.ledger.galleries[gallery] = False
            self.ledger.doubtful_galleries.pop(gallery)

    def create_webhook(self):
        self.send(None, "POST", "/v1/webhooks", data={"url": "http://127.0.0.1:9/"})

    def arm(self, gallery):
        """Arm a gallery as a watch list for a second."""
        fields = {
            "budget": "3",
            "tracks_per_day": "300",
            "expires_at": (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat(),
            "reason": "torture",
            "retention_days": "1",
        }
        path = f"/v1/galleries/{gallery}/watch"
        proposal = self.send(None, "PUT", path, data=fields)
        if proposal is not None and proposal.status_code == 200:
            confirm = proposal.json()["confirm"]
            self.send(None, "PUT", path, data={**fields, "confirm": confirm})

    def make_export(self, gallery):
        """Export a gallery, read the export, and delete it."""
        exports = f"/v1/galleries/{gallery}/exports"
        answer = self.send(None, "POST", exports)
        if answer is None or answer.status_code != 201:
            return
        path = f"{exports}/{answer.json()['export_id']}"
        content = self.send(None, "GET", f"{path}/content")
        if content is not None and content.status_code == 200:
            self.ledger.exports.setdefault(gallery, []).append(content.content)
        self.send(None, "DELETE", path)

    def import_export(self, gallery, content):
        """Import an export of a gallery into it, which changes nothing: deleted crops stay so."""
        files = {"archive": ("export.zip", content)}
        answer = self.send(None, "POST", f"/v1/galleries/{gallery}/imports", files=files)
        if answer is not None and answer.status_code == 202:
            self.ledger.jobs[answer.json()["job_id"]] = 0
            self.wait_for_job(answer.json()["job_id"])

    def settle(self, gallery):
        """List a gallery and compare it with the ledger."""
        rows = []
        cursor = None
        while True:
            asked = {"limit": "1000"} | ({"cursor": cursor} if cursor else {})
            answer = self.send(None, "GET", f"/v1/galleries/{gallery}/crops", params=asked)
            if answer is None:
                return []
            rows += answer.json()["results"]
            cursor = answer.json()["next_cursor"]
            if cursor is None:
                break
        self.ledger.settle(gallery, rows)
        return rows

    def _learn_ids(self, gallery, identity):
        asked = {"identity": identity, "limit": "1000"}
        answer = self.send(None, "GET", f"/v1/galleries/{gallery}/crops", params=asked)
        if answer is not None:
            self.ledger.know(answer.json()["results"])

    def _send_crops(self, operation, crops, identity, key, **fields):
        return self.send(
            operation,
            "POST",
            f"/v1/galleries/{operation.gallery}/crops",
            files=[("images", ("crop", crop.image)) for crop in crops],
            data={"identity": identity, **fields},
            headers={"Idempotency-Key": key} if key else {},
        )

    def _confirm(self, operation, answer, status=200):
        """Acknowledge a write that has to succeed, and return whether it was answered."""
        if answer is None:
            return False
        if answer.status_code != status:
            raise Violation("lost", f"{operation.what} {operation.before}: {answer.text}")
        self.ledger.acknowledge(operation)
        return True

    def _ended(self, job):
        if job["state"] not in ENDED:
            return False
        # Each cycle may serve the other model than the one that a reindex was asked for.
        elsewhere = job["kind"] == "reindex" and "leads to another model" in str(job["detail"])
        if job["state"] != "done" and not elsewhere:
            raise Violation("lost", f"a job did not end well: {job}")
        count = self.ledger.jobs.get(job["job_id"], 0)
        progress = job["progress"]
        if job["kind"] == "import" and count:
            said = (progress["landed"], progress["duplicates"], progress["refused"])
            if said != (count, 0, 0):
                raise Violation("phantom", f"an import of {count} images tells: {job}")
        return True


def check_own_rank(crop, results, dead):
    """Compare the answer to a crop's own image with the ledger."""
    if shown := {result["crop_id"] for result in results} & dead:
        raise Violation("resurrected", f"a query shows {sorted(shown)}")
    own = [result["cosine"] for result in results if result["crop_id"] == crop.crop_id]
    if not own:
        raise Violation("lost", f"crop {crop.number} ({crop.crop_id}) is not found by its image")
    if own[0] < results[0]["cosine"] - 1e-6:
        raise Violation("changed", f"crop {crop.number}: another one is nearer: {results[:2]}")


def _landed(crops, results):
    return {crop.number: result["crop_id"] for crop, result in zip(crops, results, strict=True)}
