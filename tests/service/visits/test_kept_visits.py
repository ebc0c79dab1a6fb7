"""Visits that are kept: opened again, held in a case, and forgotten with their person."""

import csv
import io
import zipfile
from uuid import uuid4

import pytest

from service.desk.kept_searches import KEPT_VISITS
from tests.outside import problem
from tests.service.visits.test_visits import Passages

pytestmark = pytest.mark.promise("kept-searches")
ANSWERED = (
    "camera",
    "first_seen",
    "last_seen",
    "tracks",
    "crops",
    "verdict",
    "probability",
    "needed",
)


@pytest.fixture
def passages(served, gallery, images):
    return Passages(served, gallery, images[0])


def keep(passages, person, **fields):
    """Return the answer to a search for visits that is kept, and the id of the kept search."""
    answer = passages.asked(person, keep="true", **fields)
    return answer, answer["query_ids"][passages.gallery]


def opened(passages, query_id):
    return passages.read(f"queries/{query_id}")


def answered(visits):
    return [{name: visit[name] for name in ANSWERED} for visit in visits]


def test_kept_visits_open_as_they_were_answered(passages):
    ann, bob, *_ = passages.people
    for number in range(25):
        passages.pass_by(ann, "1", number / 10)
    passages.pass_by(ann, "2", 60, camera="west")
    passages.pass_by(bob, "3", 61)
    assert passages.asked(ann)["query_ids"] == {}
    answer, query_id = keep(passages, ann)
    (listed,) = passages.read("queries")["results"]
    assert (listed["query_id"], listed["kind"]) == (query_id, "visits")
    search = opened(passages, query_id)
    kept = search["visits"]
    assert answered(kept["results"]) == answered(answer["results"])
    assert answered(kept["uncertain"]) == answered(answer["uncertain"])
    assert kept["removed"] == 0
    for visit, before in zip(kept["results"], answer["results"], strict=True):
        assert visit["crop_ids"] == before["crop_ids"][:20]
        assert visit["sha256"] == passages.read(f"crops/{visit['crop_ids'][0]}")["sha256"]
    # Its results can be reviewed as those of any kept search.
    best = search["answer"]["results"][0]["crop_id"]
    url = f"/v1/galleries/{passages.gallery}/queries/{query_id}/reviews"
    fields = {"crop_ids": best, "decision": "confirmed"}
    assert passages.served.http.post(url, data=fields).json()["confirmed"] == 1


def test_kept_visits_have_names_of_today_and_no_deleted_crop(passages):
    ann, *_ = passages.people
    passages.pass_by(ann, "1", 0)
    gone = passages.pass_by(ann, "2", 60, camera="west")
    _, query_id = keep(passages, ann)
    for crop_id in gone:
        passages.served.delete_crop(passages.gallery, crop_id)
    (best, *_) = opened(passages, query_id)["visits"]["results"][0]["crop_ids"]
    url = f"/v1/galleries/{passages.gallery}/crops/{best}"
    passages.served.http.patch(url, data={"identity": "Ann Baker"}).raise_for_status()
    kept = opened(passages, query_id)["visits"]
    assert [(visit["camera"], visit["identity"]) for visit in kept["results"]] == [
        ("east", "Ann Baker")
    ]
    assert kept["removed"] == 1


def test_a_person_of_a_visit_is_forgotten_with_it_and_one_of_an_uncertain_track_is_not(passages):
    ann, bob, *_ = passages.people
    passages.pass_by(ann, "1", 0, identity="Ann")
    passages.pass_by(bob, "2", 1, identity="Bob")
    answer = passages.asked_for_both(ann, bob, keep="true")
    assert [visit["identity"] for visit in answer["uncertain"]] == ["Bob"]
    (query_id,) = answer["query_ids"].values()
    forget = f"/v1/galleries/{passages.gallery}/identities"
    assert passages.served.http.delete(f"{forget}/Bob").json()["kept_searches"] == 0
    kept = opened(passages, query_id)["visits"]
    assert (len(kept["results"]), kept["uncertain"], kept["removed"]) == (1, [], 1)
    assert passages.served.http.delete(f"{forget}/Ann").json()["kept_searches"] == 1
    gone = passages.served.http.get(f"/v1/galleries/{passages.gallery}/queries/{query_id}")
    assert problem(gone) == (404, "unknown_query")


def test_visits_are_forgotten_with_a_person_of_whom_any_of_their_crops_is(passages):
    ann, *_ = passages.people
    passages.pass_by(ann, "1", 0)
    answer, _ = keep(passages, ann)
    # It is not the best crop, which is the first result of the search.
    *_, other = answer["results"][0]["crop_ids"]
    url = f"/v1/galleries/{passages.gallery}"
    named = passages.served.http.patch(f"{url}/crops/{other}", data={"identity": "Ann"})
    named.raise_for_status()
    forgotten = passages.served.http.delete(f"{url}/identities/Ann").json()
    assert (forgotten["removed"], forgotten["kept_searches"]) == (1, 1)
    assert passages.read("queries")["results"] == []


def test_each_of_several_galleries_keeps_its_own_visits(passages, served, images):
    ann, *_ = passages.people
    passages.pass_by(ann, "1", 0)
    hall = Passages(served, served.create(f"hall-{uuid4().hex[:8]}"), images[0])
    hall.pass_by(ann, "9", 30, camera="north")
    searched = {"url": "/v1/visits", "galleries": [passages.gallery, hall.gallery]}
    answer = passages.asked(ann, keep="true", **searched)
    assert set(answer["query_ids"]) == {passages.gallery, hall.gallery}
    for place, camera in ((passages, "east"), (hall, "north")):
        kept = opened(place, answer["query_ids"][place.gallery])
        assert [visit["camera"] for visit in kept["visits"]["results"]] == [camera]
        # Its thresholds were those of a half of the false alarm rate.
        today = f"/v1/galleries/{place.gallery}/queries/{kept['query_id']}/today"
        refused = served.http.get(today)
        assert problem(refused) == (422, "invalid_field")
        assert "galleries of it are not kept" in refused.json()["detail"]


def test_only_the_galleries_that_are_named_keep_a_search_of_several(passages, served, images):
    ann, *_ = passages.people
    passages.pass_by(ann, "1", 0)
    hall = Passages(served, served.create(f"hall-{uuid4().hex[:8]}"), images[0])
    hall.pass_by(ann, "9", 30, camera="north")
    searched = {"url": "/v1/visits", "galleries": [passages.gallery, hall.gallery]}
    every = passages.asked(ann, keep="true", **searched)
    before = len(passages.read("queries")["results"])
    answer = passages.asked(ann, keep="true", keep_in=hall.gallery, **searched)
    assert set(answer["query_ids"]) == {hall.gallery}
    assert len(passages.read("queries")["results"]) == before
    # It is judged as in the search of all.
    kept, of_all = (opened(hall, asked["query_ids"][hall.gallery]) for asked in (answer, every))
    assert kept["answer"]["needed"] == of_all["answer"]["needed"]
    for fields in ({"keep_in": hall.gallery}, {"keep": "true", "keep_in": "default"}):
        refused = served.http.post(
            "/v1/visits",
            data={"galleries": hall.gallery, "unnamed": "true", **fields},
            files={"images": ("a.png", images[0])},
        )
        assert problem(refused) == (422, "invalid_field")


def test_visits_by_a_crop_of_another_gallery_are_forgotten_with_its_person(served, gallery, images):
    people = served.create(f"people-{uuid4().hex[:8]}")
    (ann,) = served.enrolled(people, images[0], identity="Ann")
    served.enrolled(gallery, images[1], camera="east", track="1")
    asked = {"crop_id": ann, "gallery": people, "galleries": gallery, "keep": "true"}
    answer = served.http.post("/v1/visits", data=asked).json()
    query_id = answer["query_ids"][gallery]
    kept = served.read(f"/v1/galleries/{gallery}/queries/{query_id}")
    assert (kept["crop_id"], kept["request"]["gallery"]) == (ann, people)
    today = served.read(f"/v1/galleries/{gallery}/queries/{query_id}/today")
    assert today["results"] == kept["answer"]["results"]
    forgotten = served.http.delete(f"/v1/galleries/{people}/identities/Ann").json()
    assert forgotten["kept_searches"] == 1
    assert served.read(f"/v1/galleries/{gallery}/queries")["results"] == []


def test_a_kept_search_and_its_case_say_that_visits_are_missing(served, passages):
    ann, *_ = passages.people
    for number in range(KEPT_VISITS + 1):
        passages.pass_by(ann, f"{number}", 10 * number, identity="Ann")
    answer, query_id = keep(passages, ann, top_k=3 * KEPT_VISITS + 3)
    assert (len(answer["results"]), answer["incomplete"]) == (KEPT_VISITS + 1, [passages.gallery])
    search = opened(passages, query_id)
    more, kept = search["answer"]["warnings"]
    assert "there may be more visits" in more
    assert "100 of 101 visits and uncertain tracks are kept" in kept
    url = f"/v1/galleries/{passages.gallery}/cases"
    case_id = served.http.post(url, data={"name": "Bag"}).json()["case_id"]
    served.http.put(f"{url}/{case_id}/queries/{query_id}").raise_for_status()
    archive = zipfile.ZipFile(io.BytesIO(served.http.get(f"{url}/{case_id}/export").content))
    rows = list(csv.DictReader(io.StringIO(archive.read("visits.csv").decode("utf-8-sig"))))
    assert {row["warnings"] for row in rows} == {f"{more}; {kept}"}
    page = archive.read("index.html").decode()
    assert all(warning in page for warning in (more, kept))


def test_a_case_holds_visits_and_exports_them(served, gallery, images):
    passages = Passages(served, gallery, images[0])
    served.enrolled(
        gallery,
        *images[1:3],
        identity="Jörg",
        camera="=east",
        track="7",
        captured_at="2026-03-01T08:00:00Z",
    )
    url = f"/v1/galleries/{gallery}"
    sent = {"images": ("Zürich.png", images[0])}
    fields = {"keep": "true", "keep_picture": "true", "operating_point": "far_1e-1"}
    answer = served.http.post(f"{url}/visits", files=sent, data=fields).json()
    (visit,) = answer["results"]
    query_id = answer["query_ids"][gallery]
    case_id = served.http.post(f"{url}/cases", data={"name": "Bag"}).json()["case_id"]
    served.http.put(f"{url}/cases/{case_id}/queries/{query_id}").raise_for_status()
    export = served.http.get(f"{url}/cases/{case_id}/export").content
    archive = zipfile.ZipFile(io.BytesIO(export))
    page = archive.read("index.html").decode()
    best = passages.read(f"crops/{visit['crop_ids'][0]}")
    for text in (
        "Zürich.png",
        "1 visit, 0 uncertain tracks",
        "2 pictures",
        best["sha256"],
        best["crop_id"],
    ):
        assert text in page
    assert archive.read("visits.csv").startswith("\ufeffquery_id,".encode())
    (row,) = csv.DictReader(io.StringIO(archive.read("visits.csv").decode("utf-8-sig")))
    assert (row["query_id"], row["identity"], row["camera"]) == (query_id, "Jörg", "'=east")
    assert (row["tracks"], row["crops"], row["sha256"]) == ("7", "2", best["sha256"])
    assert archive.read(row["picture"]) in images[1:3]
