"""Searches that are kept with their answer, opened again, reviewed, and collected in cases."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from demo.reviewed_searches import fetch_reviews, people_of
from gmn_client import Client, RequestRefused
from gmn_client.models import OpenedSearch, Review
from model.problems import InputProblem
from tests.outside import audit_lines, pages
from tests.service.conftest import Served
from tests.service.http.conftest import make_key
from tests.waiting import eventually
from training.datasets.registry import read_dataset

Connect = Callable[..., Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Clients of a service, which are closed at the end."""
    with contextlib.ExitStack() as held:

        def one(served: Served, *given: Any, **options: Any) -> Client:
            return held.enter_context(Client(str(served.http.base_url), *given, **options))

        yield one


@pytest.fixture
def client(connect: Connect, served: Served, filled: str) -> Client:
    return connect(served, gallery=filled)


def kept(client: Client, crop: Any, **options: Any) -> Any:
    answer = client.query(crop.png, keep=True, keep_picture=True, **options)
    assert answer.query_id, answer.warnings
    return answer


def test_a_kept_search_opens_with_its_scores_and_its_picture(client: Client, drawn_crops) -> None:
    answer = kept(client, drawn_crops[0], top_k=5, purpose="case 7", exclude_cameras=["west"])
    opened = client.kept_search(answer.query_id)
    assert opened.answer == answer
    assert opened.removed == 0
    assert opened.purpose == "case 7"
    assert opened.count == 5
    assert opened.request == {
        "top_k": 5,
        "purpose": "case 7",
        "exclude_cameras": ["west"],
        "images": 1,
    }
    assert opened.best.identity == answer.results[0].identity
    assert client.kept_image(answer.query_id) == drawn_crops[0].png
    assert client.kept_image(answer.query_id, width=16).startswith(b"\xff\xd8")
    listed = list(client.kept_searches())
    assert [search.query_id for search in listed] == [answer.query_id]
    assert (opened.expires_at - opened.created_at).days == 7


def test_a_search_that_was_kept_by_the_withdrawn_scoring_opens(client: Client, drawn_crops) -> None:
    fields = client.kept_search(kept(client, drawn_crops[0]).query_id).model_dump()
    fields["answer"]["scoring"] = "fused"
    assert OpenedSearch.model_validate(fields).answer.scoring == "fused"


def test_nothing_is_kept_unless_asked(client: Client, drawn_crops) -> None:
    assert client.query(drawn_crops[0].png).query_id is None
    without = client.query(drawn_crops[0].png, keep=True)
    assert next(iter(client.kept_searches())).image_url is None
    with pytest.raises(RequestRefused, match="send keep_picture=true"):
        client.kept_image(without.query_id)
    with pytest.raises(RequestRefused, match="needs keep=true"):
        client.query(drawn_crops[0].png, keep_picture=True)


def test_an_opened_search_shows_new_names_and_leaves_out_deleted_crops(
    client: Client, drawn_crops
) -> None:
    answer = kept(client, drawn_crops[0])
    first, second, *_ = answer.results
    client.rename_identity(first.identity, "Ann")
    client.delete_crop(second.crop_id)
    opened = client.kept_search(answer.query_id)
    assert opened.removed == 1
    assert [result.rank for result in opened.answer.results] == [1, *range(3, 11)]
    assert opened.answer.results[0].identity == opened.best.identity == "Ann"


def test_separate_searches_are_kept_one_by_one(client: Client, drawn_crops) -> None:
    images = [drawn_crops[0].png, b"no image", drawn_crops[4].png]
    answers = client.query(*images, mode="separate", keep=True, keep_picture=True).results
    ids = [answer.query_id for answer in (answers[0], answers[2])]
    assert answers[1].problem.code == "not_an_image"
    assert len(set(ids)) == 2
    assert [client.kept_image(crop_id) for crop_id in ids] == [images[0], images[2]]


def test_pages_of_kept_searches_are_the_newest_first(client: Client, served, drawn_crops) -> None:
    ids = [client.query(drawn_crops[0].png, keep=True).query_id for _ in range(5)]
    path = f"/v1/galleries/{client.gallery_name}/queries"
    listed = pages(served.http, path, limit=2)
    assert [search["query_id"] for search in listed] == ids[::-1]


def test_a_forgotten_person_takes_the_searches_for_them_along(client: Client, drawn_crops) -> None:
    own = client.crops(identity=drawn_crops[0].identity)
    by_crop = client.query_like(next(own).crop_id, keep=True)
    by_other = client.query_like(next(client.crops(identity="0003")).crop_id, keep=True)
    assert client.forget(drawn_crops[0].identity).kept_searches == 1
    with pytest.raises(RequestRefused, match="keeps no search"):
        client.kept_search(by_crop.query_id)
    assert client.kept_search(by_other.query_id)


def test_a_match_in_first_place_is_forgotten_with_its_picture(
    connect: Connect, served: Served, gallery: str, drawn_crops
) -> None:
    client = connect(served, gallery=gallery)
    served.enroll(gallery, drawn_crops[0].png, identity="Ann")
    match = kept(client, drawn_crops[0], scoring="cosine")
    other = kept(client, drawn_crops[12], scoring="cosine")
    assert (match.verdict, other.verdict) == ("match", "no_match")
    assert client.forget("Ann").kept_searches == 1
    gone = served.http.get(f"/v1/galleries/{gallery}/queries/{match.query_id}/image")
    assert gone.json()["type"].endswith(":unknown_query")
    left = client.kept_search(other.query_id)
    assert (left.removed, left.best, left.answer.results) == (1, None, [])


def test_a_person_whose_only_matched_crop_was_deleted_is_forgotten_all_the_same(
    connect: Connect, served: Served, gallery: str, drawn_crops
) -> None:
    client = connect(served, gallery=gallery)
    served.enroll(gallery, drawn_crops[0].png, drawn_crops[1].png, identity="Ann")
    match = kept(client, drawn_crops[0], scoring="cosine")
    client.delete_crop(match.results[0].crop_id)
    assert client.kept_search(match.query_id).removed == 1
    client.forget("Ann")
    with pytest.raises(RequestRefused, match="keeps no search"):
        client.kept_search(match.query_id)


def test_keys_see_their_own_searches_and_open_those_they_are_given(
    connect: Connect, start, tmp_path: Path, drawn_crops
) -> None:
    keys = [make_key(tmp_path / "data", "--scope", scope) for scope in ("query", "query", "admin")]
    served = start(tmp_path / "data")
    first, second, admin = (connect(served, key) for key in keys)
    admin.enroll([drawn_crops[0].png])
    query_id = first.query(drawn_crops[0].png, keep=True).query_id
    assert list(second.kept_searches()) == []
    assert [search.query_id for search in admin.kept_searches(everyone=True)] == [query_id]
    assert second.kept_search(query_id).key_id == first.kept_search(query_id).key_id
    for refused in (
        lambda: list(second.kept_searches(everyone=True)),
        lambda: second.delete_kept_search(query_id),
    ):
        with pytest.raises(RequestRefused, match="needs admin"):
            refused()
    first.delete_kept_search(query_id)
    assert list(first.kept_searches()) == []


@pytest.mark.slow
def test_the_oldest_searches_give_place_and_restarts_keep_the_others(
    connect: Connect, start, tmp_path: Path, drawn_crops
) -> None:
    served = start(tmp_path / "data", kept_queries=2)
    client = connect(served)
    client.enroll([crop.png for crop in drawn_crops])
    ids = [kept(client, drawn_crops[0]).query_id for _ in range(3)]
    served.kill()
    client = connect(start(tmp_path / "data", kept_queries=2))
    assert [search.query_id for search in client.kept_searches()] == ids[:0:-1]
    assert client.kept_image(ids[2]) == drawn_crops[0].png


def test_reviews_name_crops_and_enroll_the_picture(client: Client, drawn_crops) -> None:
    answer = kept(client, drawn_crops[0])
    first, second, third, *_ = (result.crop_id for result in answer.results)
    found = client.review(
        answer.query_id,
        first,
        second,
        decision="confirmed",
        identity="Ann",
        enroll=True,
        camera="desk",
    )
    assert (found.confirmed, found.rejected) == (2, 0)
    assert {review.identity for review in found.reviews} == {found.best.identity} == {"Ann"}
    enrolled = client.crop(found.enrolled_crop_id)
    assert (enrolled.identity, enrolled.camera) == ("Ann", "desk")
    assert client.image(found.enrolled_crop_id) == drawn_crops[0].png
    client.review(answer.query_id, third, decision="rejected")
    decisions = {review.crop_id: review.decision for review in client.reviews()}
    assert decisions == {first: "confirmed", second: "confirmed", third: "rejected"}
    client.review(answer.query_id, first, third, decision="open")
    assert [review.crop_id for review in client.reviews()] == [second]


def test_reviews_that_cannot_be_change_nothing(client: Client, drawn_crops) -> None:
    answer = client.query(drawn_crops[0].png, keep=True)
    unknown = next(iter(client.crops(order="-captured"))).crop_id
    if unknown in (result.crop_id for result in answer.results):
        unknown = "0" * 32
    first = answer.results[0]
    other = next(
        result for result in answer.results if result.identity != answer.results[0].identity
    )
    for crop_ids, options, reason in (
        ([unknown], {"decision": "confirmed"}, "is no kept result"),
        ([first.crop_id], {"decision": "confirmed", "enroll": True}, "was not kept"),
        ([first.crop_id], {"decision": "rejected", "identity": "Ann"}, "go with decision"),
        ([first.crop_id], {"decision": "confirmed", "camera": "a"}, "go with enroll"),
    ):
        with pytest.raises(RequestRefused, match=reason):
            client.review(answer.query_id, *crop_ids, **options)
    pictured = kept(client, drawn_crops[0])
    both = (first.crop_id, other.crop_id)
    with pytest.raises(RequestRefused, match="bear 2 names"):
        client.review(pictured.query_id, *both, decision="confirmed", enroll=True)
    assert list(client.reviews()) == []


def test_reviews_are_a_table_without_formulas(client: Client, served, drawn_crops) -> None:
    answer = kept(client, drawn_crops[0])
    crop_id = answer.results[0].crop_id
    client.review(answer.query_id, crop_id, decision="confirmed", identity="=Ann")
    table = served.http.get(f"/v1/galleries/{client.gallery_name}/reviews.csv")
    # It is sent while it is read, so that a long one takes no memory.
    assert "content-length" not in table.headers
    head, line = table.text.splitlines()
    assert head.startswith("query_id,crop_id,identity,decision,")
    assert line.startswith(f"{answer.query_id},{crop_id},'=Ann,confirmed,")


def test_a_confirmed_person_takes_the_picture_along_and_a_rejected_one_does_not(
    client: Client, drawn_crops
) -> None:
    answer = kept(client, drawn_crops[0])
    names = list(dict.fromkeys(result.identity for result in answer.results))[:2]
    crops = [
        next(result.crop_id for result in answer.results if result.identity == name)
        for name in names
    ]
    client.review(answer.query_id, crops[0], decision="confirmed")
    client.review(answer.query_id, crops[1], decision="rejected")
    assert client.forget(names[1]).kept_searches == 0
    assert client.forget(names[0]).kept_searches == 1
    assert list(client.kept_searches()) == []


def test_a_case_holds_searches_and_exports_them_with_their_checksums(
    client: Client, drawn_crops
) -> None:
    query_ids = [kept(client, drawn_crops[number], top_k=3).query_id for number in (0, 4)]
    results = client.kept_search(query_ids[0]).answer.results
    client.review(query_ids[0], results[1].crop_id, decision="confirmed", identity="<b>Ann")
    case = client.create_case("Bag & coat", "Seen <twice>")
    for query_id in query_ids:
        client.hold_search(case.case_id, query_id, f"note on {query_id}")
    client.change_case(case.case_id, notes="Seen <three> times")
    held = client.case(case.case_id)
    assert [query.query_id for query in held.queries] == query_ids
    assert (held.count, held.name, held.notes) == (2, "Bag & coat", "Seen <three> times")
    listed = list(client.case_searches(case.case_id))
    assert [search.query_id for search in listed] == query_ids[::-1]
    assert {search.expires_at for search in listed} == {None}
    export = zipfile.ZipFile(io.BytesIO(client.export_case(case.case_id)))
    sums = [line.split("  ") for line in export.read("SHA256SUMS").decode().splitlines()]
    assert {name for _, name in sums} | {"SHA256SUMS"} == set(export.namelist())
    for digest, name in sums:
        assert hashlib.sha256(export.read(name)).hexdigest() == digest
    page = export.read("index.html").decode()
    assert "Bag &amp; coat" in page
    assert "Seen &lt;three&gt; times" in page
    assert "&lt;b&gt;Ann" in page
    assert f"note on {query_ids[1]}" in page
    assert set(re.findall(r'src="([^"]*)"', page)) == {
        name for name in export.namelist() if name.startswith("pictures/")
    }
    table = export.read("results.csv").decode().splitlines()
    assert len(table) == 1 + 2 * 3
    assert table[2].split(",")[-3] == "confirmed"
    assert export.read(f"pictures/search-{query_ids[0]}.png") == drawn_crops[0].png


def test_a_deleted_case_takes_along_what_it_alone_held(client: Client, drawn_crops) -> None:
    one, both = (kept(client, drawn_crops[0]).query_id for _ in range(2))
    first = client.create_case("first")
    second = client.create_case("second")
    client.hold_search(first.case_id, one)
    for case in (first, second):
        client.hold_search(case.case_id, both)
    assert client.delete_case(first.case_id).removed == 1
    assert [case.name for case in client.cases()] == ["second"]
    assert client.kept_search(both).case_ids == [second.case_id]
    released = client.release_search(second.case_id, both)
    assert released.queries == []
    assert client.kept_search(both).expires_at is not None
    for call in (
        lambda: client.case(first.case_id),
        lambda: client.export_case(first.case_id),
        lambda: client.hold_search(first.case_id, both),
        lambda: list(client.case_searches(first.case_id)),
    ):
        with pytest.raises(RequestRefused, match="has no case"):
            call()


def test_forgetting_reaches_into_cases(client: Client, drawn_crops) -> None:
    answer = kept(client, drawn_crops[0])
    first = answer.results[0]
    client.review(answer.query_id, first.crop_id, decision="confirmed")
    case = client.create_case("case")
    before = client.hold_search(case.case_id, answer.query_id, "note")
    known = client.identity(first.identity)
    assert (known.kept_searches, known.cases) == (1, {case.case_id: 1})
    forgotten = client.forget(first.identity)
    assert (forgotten.kept_searches, forgotten.cases) == (1, {case.case_id: 1})
    after = client.case(case.case_id)
    assert (after.queries, sum(after.deleted_searches.values())) == ([], 1)
    assert after.changed_at > before.changed_at
    (day,) = after.deleted_searches
    export = zipfile.ZipFile(io.BytesIO(client.export_case(case.case_id)))
    assert f"1 search deleted on {day}." in export.read("index.html").decode()


@pytest.mark.slow
def test_searches_in_cases_outlast_their_days_and_newer_ones(
    connect: Connect, start, tmp_path: Path, drawn_crops
) -> None:
    served = start(tmp_path / "data", kept_queries=2)
    client = connect(served)
    client.enroll([crop.png for crop in drawn_crops])
    ids = [kept(client, drawn_crops[0]).query_id for _ in range(2)]
    case = client.create_case("case")
    client.hold_search(case.case_id, ids[0])
    newest = kept(client, drawn_crops[0]).query_id
    assert [search.query_id for search in client.kept_searches()] == [newest, ids[0]]
    client.hold_search(case.case_id, newest)
    refused = client.query(drawn_crops[0].png, keep=True)
    assert refused.query_id is None
    assert "cases hold all searches" in refused.warnings[0]


def test_cases_are_changed_by_the_key_that_made_them(
    connect: Connect, start, tmp_path: Path, drawn_crops
) -> None:
    keys = [make_key(tmp_path / "data", "--scope", scope) for scope in ("query", "query", "admin")]
    served = start(tmp_path / "data")
    first, second, admin = (connect(served, key) for key in keys)
    admin.enroll([drawn_crops[0].png])
    case_id = first.create_case("case").case_id
    query_id = second.query(drawn_crops[0].png, keep=True).query_id
    second.hold_search(case_id, query_id)
    for call in (
        lambda: second.change_case(case_id, name="other"),
        lambda: second.release_search(case_id, query_id),
        lambda: second.delete_case(case_id),
    ):
        with pytest.raises(RequestRefused, match="needs admin"):
            call()
    assert admin.change_case(case_id, name="other").name == "other"
    second.kept_search(query_id)
    second.review(query_id, second.kept_search(query_id).best.crop_id, decision="rejected")
    first.export_case(case_id)
    assert first.delete_case(case_id).removed == 0
    assert second.kept_search(query_id).expires_at is not None

    def events(*ids: str) -> set[tuple[str, str]]:
        lines = audit_lines(tmp_path / "data")
        about = [line for line in lines if {line.get("query_id"), line.get("case_id")} & {*ids}]
        return {(entry["event"], entry["phase"]) for entry in about}

    of_search = ("query", "open_kept_search", "hold_search", "review")
    eventually(lambda: events(query_id) == {(event, "done") for event in of_search})
    of_case = ("create_case", "hold_search", "change_case", "export_case", "delete_case")
    expected = {(event, "done") for event in of_case} | {("delete_case", "asked")}
    eventually(lambda: events(case_id) == expected)


@pytest.fixture
def bob_and_eve(connect: Connect, start, tmp_path: Path, drawn_crops) -> tuple[Client, Client]:
    """Clients with a key of their own that may search, of a service that keeps four searches."""
    keys = [make_key(tmp_path / "data", "--scope", scope) for scope in ("query", "query", "admin")]
    served = start(tmp_path / "data", kept_queries=4)
    bob, eve, admin = (connect(served, key) for key in keys)
    admin.enroll([crop.png for crop in drawn_crops[:3]])
    return bob, eve


def test_a_deleted_case_leaves_the_searches_of_other_keys(bob_and_eve, drawn_crops) -> None:
    bob, eve = bob_and_eve
    answer = bob.query(drawn_crops[0].png, keep=True)
    crop_id = answer.results[0].crop_id
    bob.review(answer.query_id, crop_id, decision="rejected")
    case_id = eve.create_case("x").case_id
    own = eve.query(drawn_crops[0].png, keep=True).query_id
    for query_id in (answer.query_id, own):
        eve.hold_search(case_id, query_id)
    assert eve.delete_case(case_id).removed == 1
    opened = bob.kept_search(answer.query_id)
    assert (opened.case_ids, opened.expires_at is None) == ([], False)
    assert [review.crop_id for review in bob.reviews()] == [crop_id]


def test_notes_and_decisions_are_changed_by_the_key_that_made_them(
    bob_and_eve, drawn_crops
) -> None:
    bob, eve = bob_and_eve
    answer = bob.query(drawn_crops[0].png, keep=True)
    query_id = answer.query_id
    crop_id = answer.results[0].crop_id
    case_id = bob.create_case("b").case_id
    bob.hold_search(case_id, query_id, "seen")
    assert eve.hold_search(case_id, query_id, "seen").queries[0].note == "seen"
    with pytest.raises(RequestRefused, match="needs admin"):
        eve.hold_search(case_id, query_id, "not seen")
    bob.review(query_id, crop_id, decision="confirmed")
    for decision in ("rejected", "open"):
        with pytest.raises(RequestRefused, match="needs admin"):
            eve.review(query_id, crop_id, decision=decision)
    assert [query.note for query in bob.case(case_id).queries] == ["seen"]
    assert [review.decision for review in bob.reviews()] == ["confirmed"]


def test_no_cursor_of_reviews_names_a_search_of_another_key(bob_and_eve, drawn_crops) -> None:
    bob, eve = bob_and_eve
    for _ in range(3):
        answer = bob.query(drawn_crops[0].png, keep=True)
        bob.review(answer.query_id, answer.results[0].crop_id, decision="confirmed")
    asked = {"url": "/v1/galleries/default/reviews?limit=1"}
    page = eve._http.get(**asked).json()
    assert page == {"results": [], "next_cursor": None}
    assert len(list(bob.reviews())) == 3


def test_a_key_holds_half_of_the_searches_at_most(bob_and_eve, drawn_crops) -> None:
    bob, eve = bob_and_eve
    ids = [eve.query(drawn_crops[0].png, keep=True).query_id for _ in range(3)]
    for number in range(2):
        eve.hold_search(eve.create_case(f"{number}").case_id, ids[number])
    with pytest.raises(RequestRefused, match="half of GMN_KEPT_QUERIES"):
        eve.hold_search(eve.create_case("more").case_id, ids[2])
    own = bob.query(drawn_crops[0].png, keep=True).query_id
    bob.hold_search(bob.create_case("b").case_id, own)
    assert bob.kept_search(own).expires_at is None


@pytest.mark.slow
def test_a_key_begins_half_of_the_cases_of_a_gallery_at_most(bob_and_eve) -> None:
    bob, eve = bob_and_eve
    for number in range(500):
        eve.create_case(str(number))
    with pytest.raises(RequestRefused, match="500 for a key without admin"):
        eve.create_case("one more")
    assert bob.create_case("first").name == "first"


def test_reviews_are_a_data_set_to_train_on(
    client: Client, served, drawn_crops, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("GMN_URL", str(served.http.base_url))
    first, second = (
        kept(client, drawn_crops[number], top_k=24, camera="gate") for number in (0, 4)
    )

    def of(answer: Any, identity: str) -> str:
        return next(result.crop_id for result in answer.results if result.identity == identity)

    folder = tmp_path / "run" / "reviews"
    with pytest.raises(InputProblem, match="no search has a confirmed result"):
        fetch_reviews(client.gallery_name, folder)
    client.review(first.query_id, of(first, "0000"), decision="confirmed")
    client.review(first.query_id, of(first, "0003"), decision="rejected")
    for decision, identity in (("confirmed", "0001"), ("rejected", "0001"), ("rejected", "0002")):
        crops = [result.crop_id for result in second.results if result.identity == identity]
        client.review(second.query_id, crops[decision == "rejected"], decision=decision)
    assert "3 pictures of 2 people; 1 contradictory" in fetch_reviews(client.gallery_name, folder)
    records = read_dataset(f"manifest:{folder}").records
    found = {(record.identity, record.camera): record.content() for record in records}
    assert found["0000", "gate"] == drawn_crops[0].png
    assert {record.identity for record in records} == {"0000", "0003"}


def test_an_unnamed_crop_joins_searches_but_never_two_names() -> None:
    def review(query: str, crop: str, identity: str | None, decision: str = "confirmed") -> Review:
        urls = {"query_image_url": None, "image_url": ""}
        known = {"query_id": query, "crop_id": crop, "identity": identity, "decision": decision}
        return Review(**known, **urls, reviewed_at=datetime.now(UTC), key_id="k")

    joined = [review("q1", "u", None), review("q2", "u", None), review("q2", "a", "Ann")]
    people, left_out = people_of(joined)
    assert set(people.values()) == {"Ann"}
    assert not left_out
    people, left_out = people_of([*joined, review("q1", "b", "Bob"), review("q3", "b", "Bob")])
    assert left_out == {"q1", "q2", "q3"}
    people, left_out = people_of([*joined, review("q3", "a", "Ann"), review("q3", "b", "Bob")])
    assert left_out == {"q3"}
    people, left_out = people_of([*joined, review("q2", "x", "Ann", "rejected")])
    assert left_out == {"q2"}
