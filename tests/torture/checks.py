"""After a restart: the ledger, the listing, searches and counts say the same."""

import io
import time
import zipfile

from service.ops.audit import LOG_NAME
from service.ops.numbered_lines import check_numbers
from tests.service.conftest import files
from tests.torture.ledger import Violation
from tests.torture.operations import check_own_rank

IMAGES_PER_QUERY = 8
IMAGES_READ = 4
EXPIRING_SECONDS = 30.0


def check(world):
    """Compare everything that the service shows with the ledger, and resolve doubts.

    Raises:
        Violation: names the broken promise.
    """
    caller = world.caller("driver")
    # Requests whose client gave up have ended before this one is answered.
    world.running().http.patch("/v1/galleries/default", data={"calibration": "on"})
    _wait_for_jobs(world, caller)
    _wait_for_housekeeping(world)
    listed = caller.http.get("/v1/galleries").json()["results"]
    world.ledger.settle_galleries(gallery["name"] for gallery in listed)
    for gallery in [gallery["name"] for gallery in listed]:
        _check_gallery(world, caller, gallery)
    _check_audit(world)
    if "older copy" in world.running().log.read_text(errors="replace"):
        raise Violation("changed", "the record is taken for an older copy")


def _wait_for_jobs(world, caller):
    for job in caller.http.get("/v1/jobs", params={"limit": "1000"}).json()["results"]:
        if job["state"] in ("queued", "running") or job["job_id"] in world.ledger.jobs:
            caller.wait_for_job(job["job_id"])
    world.ledger.jobs.clear()


def _wait_for_housekeeping(world):
    until = time.monotonic() + EXPIRING_SECONDS
    for gallery in world.ledger.expiring:
        while world.running().http.get(f"/v1/galleries/{gallery}").json()["crops"]:
            if time.monotonic() > until:
                raise Violation("lost", f"crops past their retention stay in {gallery}")
            time.sleep(0.02)
    world.ledger.expiring.clear()


def _check_gallery(world, caller, gallery):
    ledger = world.ledger
    rows = caller.settle(gallery)
    there = {n for n, state in ledger.now.items() if state and ledger.crops[n].gallery == gallery}
    described = caller.http.get(f"/v1/galleries/{gallery}").json()
    if not described["crops"] == len(rows) == len(there):
        raise Violation(
            "lost", f"{gallery}: counts {described['crops']}, lists {len(rows)}, has {len(there)}"
        )
    if described["version"] < ledger.versions.get(gallery, 0):
        raise Violation(
            "changed",
            f"{gallery}: version {described['version']} after {ledger.versions[gallery]}",
        )
    ledger.saw_version(gallery, described["version"])
    _check_searches(world, caller, gallery, sorted(there), {row["crop_id"] for row in rows})
    _check_images(world, caller, gallery, sorted(there))
    _check_exports(world, caller, gallery)


def _check_searches(world, caller, gallery, there, listed):
    crops = [world.ledger.crops[number] for number in there if world.ledger.crops[number].image]
    dead = world.ledger.dead_ids()
    for start in range(0, len(crops), IMAGES_PER_QUERY):
        part = crops[start : start + IMAGES_PER_QUERY]
        answer = caller.http.post(
            f"/v1/galleries/{gallery}/queries",
            files=files(*(crop.image for crop in part)),
            data={"mode": "separate", "scoring": "cosine", "top_k": "1000"},
        )
        if answer.status_code != 200:
            raise Violation("failed", f"query: {answer.status_code} {answer.text}")
        answers = answer.json()["results"]
        for crop, search in zip(part, answers, strict=True):
            check_own_rank(crop, search["results"], dead)
            found = {result["crop_id"] for result in search["results"]}
            if found != listed:
                raise Violation(
                    "lost" if listed - found else "phantom",
                    f"{gallery}: a search of everything misses {sorted(listed - found)} and adds "
                    f"{sorted(found - listed)}",
                )


def _check_images(world, caller, gallery, there):
    kept = [number for number in there if world.ledger.crops[number].image]
    for number in world.chance.sample(kept, min(IMAGES_READ, len(kept))):
        crop = world.ledger.crops[number]
        answer = caller.http.get(f"/v1/galleries/{gallery}/crops/{crop.crop_id}/image")
        if answer.content != crop.image:
            raise Violation("lost", f"the image of crop {number}: {answer.status_code}")


def _check_exports(world, caller, gallery):
    exports = f"/v1/galleries/{gallery}/exports"
    for export in caller.http.get(exports).json()["results"]:
        # Its request or its deletion was not answered: nobody counts on it, but it is whole.
        path = f"{exports}/{export['export_id']}"
        content = caller.http.get(f"{path}/content").content
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            if packed.testzip() is not None:
                raise Violation("half", f"export {export} of {gallery}")
        world.ledger.exports.setdefault(gallery, []).append(content)
        caller.http.delete(path)


def _check_audit(world):
    checked = check_numbers(world.folder / "data" / LOG_NAME)
    if checked.problem is not None:
        raise Violation("changed", checked.problem)
    if checked.first_line > 1 or checked.last_line < world.audited:
        numbers = f"{checked.first_line} to {checked.last_line}"
        raise Violation("lost", f"the audit log has only the lines {numbers}")
    world.audited = checked.last_line
