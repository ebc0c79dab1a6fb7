"""No row of the record keeps the place, the time or the track of a crop that is deleted."""

import contextlib
from datetime import datetime

import pytest

from service.opening import open_folder
from service.record.schema import TABLES, as_micros
from service.record.transaction import Reader
from tests.engines import database_url
from tests.service.visits.test_visits import Passages

# When nobody else was seen, in minutes after the morning.
ALONE = 600
PLACE = "Platz 4711"
TRACK = "Spur 4711"


@pytest.fixture
def served(open_service, tmp_path):
    (tmp_path / "data").mkdir()
    return open_service(tmp_path / "data")


@pytest.fixture
def passages(served, images):
    return Passages(served, served.create("square", retention_days="365"), images[0])


def rows_with(folder, *texts):
    """Return each row of the record that has one of some texts, with its table."""
    with contextlib.closing(open_folder(folder, database_url(folder))) as record:
        found = []
        for table in TABLES:
            for row in Reader(record.database).tuples(f"SELECT * FROM {table}"):
                told = " ".join(
                    value.decode("latin-1") if isinstance(value, bytes) else str(value)
                    for value in row
                )
                found += [(table, text) for text in texts if text in told]
        return found


def forget(passages, crop_ids):
    url = f"/v1/galleries/{passages.gallery}/identities/Fay"
    assert passages.served.http.delete(url).json()["removed"] == len(crop_ids)


def delete_each(passages, crop_ids):
    for crop_id in crop_ids:
        passages.served.delete_crop(passages.gallery, crop_id)


def delete_matching(passages, _):
    url = f"/v1/galleries/{passages.gallery}/crops"
    answer = passages.served.http.delete(url, params={"camera": PLACE})
    assert answer.status_code == 200, answer.text


@pytest.mark.promise("2")
@pytest.mark.parametrize("remove", [forget, delete_each, delete_matching])
def test_a_deleted_crop_leaves_no_place_time_or_track(passages, served, remove, tmp_path):
    http = served.http
    ann, *_, fay = passages.people
    for number in range(3):
        passages.pass_by(ann, str(number), 10 * number, identity=ann)
    crop_ids = passages.pass_by(
        fay, TRACK, ALONE, camera=PLACE, identity=fay, external_id="Datei 4711"
    )
    moment = datetime.fromisoformat(
        served.read(f"/v1/galleries/{passages.gallery}/crops/{crop_ids[0]}")["captured_at"]
    )
    traces = (PLACE, TRACK, "Datei 4711", f"{moment:%Y-%m-%dT%H:%M}", str(as_micros(moment))[:10])
    # Searches for somebody else have her among their uncertain visits and last results.
    answer = passages.asked(ann, keep="true", operating_point="far_1e-3")
    query_id = answer["query_ids"][passages.gallery]
    case = http.post(f"/v1/galleries/{passages.gallery}/cases", data={"name": "c"}).json()
    held = http.put(
        f"/v1/galleries/{passages.gallery}/cases/{case['case_id']}/queries/{query_id}",
        data={"note": ""},
    )
    assert held.status_code == 200, held.text
    kept = served.read(f"/v1/galleries/{passages.gallery}/queries/{query_id}")["visits"]
    assert PLACE in {visit["camera"] for visit in kept["uncertain"]}
    job = http.post(f"/v1/galleries/{passages.gallery}/groups")
    assert job.status_code == 202, job.text
    served.ended_job(job.json())

    remove(passages, crop_ids)
    search = served.read(f"/v1/galleries/{passages.gallery}/queries/{query_id}")
    assert search["visits"]["removed"] == 1
    assert len(search["visits"]["results"]) == len(kept["results"])
    served.stop()
    assert rows_with(tmp_path / "data", *traces) == []
