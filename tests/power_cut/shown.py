"""Everything that a service shows of its record, to be compared before and after a power cut."""

import contextlib
import hashlib
import json
import time
from datetime import UTC, datetime

from service.record.deletions import LOG_NAME, read_deletions
from service.record.files import StrayFiles
from service.record.keys import Keys
from service.record.transaction import Reader
from service.store.verify import StoredRecord

IMPORTED = "imported"
ALL_TIME = datetime.max.replace(tzinfo=UTC)
JOBS_END_WITHIN_SECONDS = 20.0


def shown_by(client, data_dir):
    """Everything that a service shows, and what its exports hold.

    Args:
        client: of the service.
        data_dir: its own.
    """
    shown = {"keys": keys_in(data_dir)}
    for gallery in _results(client, "/v1/galleries"):
        name = gallery["name"]
        crops = _results(client, f"/v1/galleries/{name}/crops?limit=1000")
        shown[f"gallery {name}"] = gallery["retention_days"]
        pictures = [_picture(client, name, crop) for crop in crops]
        # An import that goes on after a power cut gives ids of its own.
        shown[f"crops of {name}"] = {
            picture if crop["identity"] == IMPORTED else crop["crop_id"]: [
                crop["identity"],
                crop["camera"],
                picture,
            ]
            for crop, picture in zip(crops, pictures, strict=True)
        }
        shown[f"version of {name}"] = gallery["version"]
        for export in _results(client, f"/v1/galleries/{name}/exports"):
            path = f"/v1/galleries/{name}/exports/{export['export_id']}/content"
            content = client.get(path).content
            shown[f"export {export['export_id']}"] = hashlib.sha256(content).hexdigest()
    return shown


def keys_in(data_dir):
    with _reading(data_dir) as record:
        return sorted(key.key_id for key in Keys(record).all())


def forgotten_pictures(folder, data_dir):
    """Return pictures without a crop that no maintenance will remove."""
    with _reading(data_dir) as record:
        known = {name for _, name in StrayFiles(record).all(ALL_TIME, 1_000_000)}
        known.update(Reader(record).column("SELECT crop_id FROM crops"))
    return {path.name for path in folder.glob("*/*")} - known


def _reading(data_dir):
    return contextlib.closing(StoredRecord(data_dir))


def wait_for_jobs(client):
    until = time.monotonic() + JOBS_END_WITHIN_SECONDS
    while any(job["state"] in ("queued", "running") for job in _results(client, "/v1/jobs")):
        assert time.monotonic() < until, "a job does not end"
        time.sleep(0.02)


def found_by_search(client, gallery, image):
    answer = client.post(
        f"/v1/galleries/{gallery}/queries",
        files=[("images", ("crop", image))],
        data={"top_k": "1000", "rerank_depth": "1"},
    )
    assert answer.status_code == 200, answer.text
    return len(answer.json()["results"])


def asked_in_audit(data_dir):
    log = data_dir / "audit.jsonl"
    if not log.exists():
        return 0
    lines = log.read_bytes().split(b"\n")[:-1]
    return sum(json.loads(line)["phase"] == "asked" for line in lines)


def logged_deletions(data_dir):
    return frozenset(deletion.id for deletion in read_deletions(data_dir / LOG_NAME))


def _results(client, path):
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def _picture(client, gallery, crop):
    answer = client.get(f"/v1/galleries/{gallery}/crops/{crop['crop_id']}/image")
    assert answer.status_code == 200, answer.text
    return hashlib.sha256(answer.content).hexdigest()
