"""Searches that are kept with their answer, opened again, reviewed, and collected in cases."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import socket
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from uuid import uuid4

import pytest

from demo.reviewed_searches import fetch_reviews, people_of
from gmn_client import Client, RequestRefused
from gmn_client.models import Review
from model.problems import InputProblem
from tests.outside import audit_lines, pages
from tests.service.http.conftest import make_key
from tests.waiting import eventually
from training.datasets.registry import read_dataset

pytestmark = pytest.mark.promise("kept-searches")


@pytest.fixture
def connect():
    """Yield a function that opens clients of a service, which are closed at the end."""
    with contextlib.ExitStack() as held:

        def one(served, *given, **options):
            return held.enter_context(served.connect(*given, **options))

        yield one


@pytest.fixture
def client(connect, served, filled):
    return connect(served, gallery=filled)


def kept(client, image, **options):
    answer = client.query(image, keep=True, keep_picture=True, **options)
    assert answer.query_id, answer.warnings
    return answer


def kept_ids(client):
    return [search.query_id for search in client.kept_searches()]


def test_a_kept_search_opens_with_its_scores_and_its_picture(client, images):
    asked = {"top_k": 5, "purpose": "case 7", "exclude_cameras": ["west"]}
    answer = kept(client, images[0], **asked)
    opened = client.kept_search(answer.query_id)
    assert opened.answer == answer
    assert (opened.removed, opened.purpose, opened.count) == (0, "case 7", 5)
    assert opened.request == {**asked, "images": 1}
    # Names of people are not kept, but a reader learns that the search was restricted.
    restricted = kept(client, images[0], identities=[answer.results[0].identity])
    assert client.kept_search(restricted.query_id).request["left_out"] == ["identities"]
    client.delete_kept_search(restricted.query_id)
    assert opened.best.identity == answer.results[0].identity
    assert client.kept_image(answer.query_id) == images[0]
    assert client.kept_image(answer.query_id, width=16).startswith(b"\xff\xd8")
    assert kept_ids(client) == [answer.query_id]
    assert (opened.expires_at - opened.created_at).days == 7


def test_nothing_is_kept_unless_asked(client, images):
    assert client.query(images[0]).query_id is None
    without = client.query(images[0], keep=True)
    assert next(iter(client.kept_searches())).image_url is None
    with pytest.raises(RequestRefused, match="send keep_picture=true"):
        client.kept_image(without.query_id)
    with pytest.raises(RequestRefused, match="needs keep=true"):
        client.query(images[0], keep_picture=True)


def test_an_opened_search_shows_new_names_and_leaves_out_deleted_crops(client, images):
    answer = kept(client, images[0])
    first, second, *_ = answer.results
    client.rename_identity(first.identity, "Ann")
    client.change_crop(first.crop_id, metadata={"doors": [1, 2]})
    client.delete_crop(second.crop_id)
    opened = client.kept_search(answer.query_id)
    assert opened.removed == 1
    assert opened.answer.results[0].metadata == {"doors": [1, 2]}
    assert [result.rank for result in opened.answer.results] == [1, *range(3, 11)]
    assert opened.answer.results[0].identity == opened.best.identity == "Ann"


def test_separate_searches_are_kept_one_by_one(client, images):
    sent = [images[0], b"no image", images[4]]
    first, refused, last = client.query(
        *sent, mode="separate", keep=True, keep_picture=True
    ).results
    assert refused.problem.code == "not_an_image"
    assert client.kept_image(first.query_id) == sent[0]
    assert client.kept_image(last.query_id) == sent[2]


def test_pages_of_kept_searches_are_the_newest_first(client, served, images):
    ids = [client.query(images[0], keep=True).query_id for _ in range(3)]
    path = f"/v1/galleries/{client.gallery_name}/queries"
    assert [search["query_id"] for search in pages(served.http, path, limit=2)] == ids[::-1]


def test_a_search_shows_a_person_by_its_crop_its_match_and_what_was_confirmed(
    connect, served, gallery, images
):
    client = connect(served, gallery=gallery)
    names = ["Ann", "Ann", "Ann", "Bob"]
    _, deleted, ann, bob = served.enrolled(gallery, *images[:3], images[4], identity=names)
    match = kept(client, images[0], scoring="cosine")
    matched_the_deleted = kept(client, images[1], scoring="cosine")
    unknown, confirmed, rejected = (kept(client, images[12], scoring="cosine") for _ in range(3))
    assert (match.verdict, unknown.verdict) == ("match", "no_match")
    client.review(confirmed.query_id, ann, decision="confirmed")
    client.review(rejected.query_id, ann, decision="rejected")
    like_ann = client.query_like(ann, keep=True)
    like_bob = client.query_like(bob, keep=True)
    client.delete_crop(deleted)
    assert client.kept_search(matched_the_deleted.query_id).removed == 1
    assert client.forget("Ann").kept_searches == 3
    left = [like_bob.query_id, rejected.query_id, unknown.query_id]
    assert kept_ids(client) == left
    for gone in (match, matched_the_deleted, confirmed, like_ann):
        with pytest.raises(RequestRefused, match="keeps no search"):
            client.kept_search(gone.query_id)
    gone_image = served.http.get(f"/v1/galleries/{gallery}/queries/{match.query_id}/image")
    assert gone_image.json()["type"].endswith(":unknown_query")
    assert [result.crop_id for result in client.kept_search(left[-1]).answer.results] == [bob]


@pytest.mark.slow
def test_the_oldest_searches_give_place_but_for_those_in_cases_and_a_restart_keeps_them(
    connect, start, tmp_path, images
):
    served = start(tmp_path, kept_queries=2)
    client = connect(served)
    client.enroll(images)
    ids = [kept(client, images[0]).query_id for _ in range(3)]
    case = client.create_case("case")
    client.hold_search(case.case_id, ids[1])
    newest = kept(client, images[0]).query_id
    served.kill()
    client = connect(start(tmp_path, kept_queries=2))
    assert kept_ids(client) == [newest, ids[1]]
    assert client.kept_image(newest) == images[0]
    client.hold_search(case.case_id, newest)
    refused = client.query(images[0], keep=True)
    assert refused.query_id is None
    assert "cases hold all searches" in refused.warnings[0]


def test_reviews_name_crops_and_enroll_the_picture(client, images):
    answer = kept(client, images[0])
    first, second, third, *_ = (result.crop_id for result in answer.results)
    names = {"identity": "Ann", "enroll": True, "camera": "desk"}
    found = client.review(answer.query_id, first, second, decision="confirmed", **names)
    assert (found.confirmed, found.rejected) == (2, 0)
    assert {review.identity for review in found.reviews} == {found.best.identity} == {"Ann"}
    enrolled = client.crop(found.enrolled_crop_id)
    assert (enrolled.identity, enrolled.camera) == ("Ann", "desk")
    assert client.image(found.enrolled_crop_id) == images[0]
    client.review(answer.query_id, third, decision="rejected")
    decisions = {review.crop_id: review.decision for review in client.reviews()}
    assert decisions == {first: "confirmed", second: "confirmed", third: "rejected"}
    client.review(answer.query_id, first, third, decision="open")
    assert [review.crop_id for review in client.reviews()] == [second]


def test_reviews_that_cannot_be_change_nothing(client, images):
    answer = client.query(images[0], keep=True)
    pictured = kept(client, images[0])
    first = answer.results[0]
    other = next(result for result in answer.results if result.identity != first.identity)
    enrolling = {"decision": "confirmed", "enroll": True}
    for search, crop_ids, options, reason in (
        (answer, ["0" * 32], {"decision": "confirmed"}, "is no kept result"),
        (answer, [first.crop_id], enrolling, "was not kept"),
        (answer, [first.crop_id], {"decision": "rejected", "identity": "A"}, "go with decision"),
        (answer, [first.crop_id], {"decision": "confirmed", "camera": "a"}, "go with enroll"),
        (pictured, [first.crop_id, other.crop_id], enrolling, "bear 2 names"),
    ):
        with pytest.raises(RequestRefused, match=reason):
            client.review(search.query_id, *crop_ids, **options)
    assert list(client.reviews()) == []


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Jörg Müßig", "Jörg Müßig"),
        *((f"{sign}Ann", f"'{sign}Ann") for sign in "=+-@"),
    ],
)
def test_reviews_are_a_table_with_umlauts_and_without_formulas(
    client, served, images, name, written
):
    answer = kept(client, images[0])
    crop_id = answer.results[0].crop_id
    client.review(answer.query_id, crop_id, decision="confirmed", identity=name)
    table = served.http.get(f"/v1/galleries/{client.gallery_name}/reviews.csv")
    # It is sent while it is read, so that a long one takes no memory.
    assert "content-length" not in table.headers
    # Excel takes a table without this mark for one in another encoding.
    assert table.content.startswith("\ufeffquery_id,".encode())
    head, line = table.content.decode("utf-8-sig").splitlines()
    assert head.startswith("query_id,crop_id,identity,decision,")
    assert line.startswith(f"{answer.query_id},{crop_id},{written},confirmed,")


def test_a_table_of_reviews_is_sent_in_few_pieces(client, served, images):
    # Each piece costs the event loop, for which other requests wait.
    answer = client.query(images[0], keep=True, top_k=20)
    crop_ids = [result.crop_id for result in answer.results]
    client.review(answer.query_id, *crop_ids, decision="rejected")
    url = served.http.base_url
    with socket.create_connection((url.host, url.port)) as connection:
        path = f"/v1/galleries/{client.gallery_name}/reviews.csv"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {url.host}\r\n\r\n".encode())
        received = b""
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += connection.recv(65_536)
    assert received.count(answer.query_id.encode()) == 20
    # Two chunks and the end, each after a line with its length.
    assert len(re.findall(rb"^[0-9a-f]+\r$", received, re.MULTILINE)) == 3


def test_a_page_of_reviews_has_those_of_a_hundred_searches_at_most(client, served, images):
    for _ in range(5):
        client.query(*images[:24], mode="separate", keep=True, top_k=1)
    address = f"/v1/galleries/{client.gallery_name}/reviews"
    page = served.http.get(address, params={"limit": 1000}).json()
    searches = kept_ids(client)
    assert (len(searches), page["next_cursor"]) == (120, searches[99])


def test_a_case_holds_searches_and_exports_them_with_their_checksums(client, images):
    query_ids = [kept(client, images[number], top_k=3).query_id for number in (0, 4)]
    results = client.kept_search(query_ids[0]).answer.results
    client.review(query_ids[0], results[1].crop_id, decision="confirmed", identity="<b>Ann")
    case = client.create_case("Bag & coat", "Seen <twice>")
    for query_id in query_ids:
        client.hold_search(case.case_id, query_id, f"note on {query_id}")
    client.change_case(case.case_id, notes="Seen <three> times")
    held = client.case(case.case_id)
    assert [query.query_id for query in held.queries] == query_ids
    assert (held.count, held.name, held.notes) == (2, "Bag & coat", "Seen <three> times")
    listed = {search.query_id: search.expires_at for search in client.case_searches(case.case_id)}
    assert listed == dict.fromkeys(query_ids)
    export = zipfile.ZipFile(io.BytesIO(client.export_case(case.case_id)))
    sums = [line.split("  ") for line in export.read("SHA256SUMS").decode().splitlines()]
    assert {name for _, name in sums} | {"SHA256SUMS"} == set(export.namelist())
    for digest, name in sums:
        assert hashlib.sha256(export.read(name)).hexdigest() == digest
    page = export.read("index.html").decode()
    for text in ("Bag &amp; coat", "Seen &lt;three&gt; times", "&lt;b&gt;Ann", "note on "):
        assert text in page
    pictures = {name for name in export.namelist() if name.startswith("pictures/")}
    assert set(re.findall(r'src="([^"]*)"', page)) == pictures
    assert export.read("results.csv").startswith("\ufeffquery_id,".encode())
    table = export.read("results.csv").decode("utf-8-sig").splitlines()
    assert len(table) == 1 + 2 * 3
    assert "confirmed" in table[2].split(",")
    assert export.read(f"pictures/search-{query_ids[0]}.png") == images[0]


def test_a_deleted_case_takes_along_what_it_alone_held(client, images):
    one, both = (kept(client, images[0]).query_id for _ in range(2))
    first, second = (client.create_case(name).case_id for name in ("first", "second"))
    for case_id, query_id in ((first, one), (first, both), (second, both)):
        client.hold_search(case_id, query_id)
    assert client.delete_case(first).removed == 1
    assert [case.name for case in client.cases()] == ["second"]
    assert client.kept_search(both).case_ids == [second]
    assert client.release_search(second, both).queries == []
    assert client.kept_search(both).expires_at is not None
    for call in (
        lambda: client.case(first),
        lambda: client.export_case(first),
        lambda: client.hold_search(first, both),
        lambda: list(client.case_searches(first)),
    ):
        with pytest.raises(RequestRefused, match="has no case"):
            call()


@pytest.mark.promise("cases-after-forgetting")
def test_forgetting_reaches_into_cases(client, images):
    answer = kept(client, images[0])
    first = answer.results[0]
    client.review(answer.query_id, first.crop_id, decision="confirmed")
    case_id = client.create_case("case").case_id
    before = client.hold_search(case_id, answer.query_id, "note")
    known = client.identity(first.identity)
    assert (known.kept_searches, known.cases) == (1, {case_id: 1})
    forgotten = client.forget(first.identity)
    assert (forgotten.kept_searches, forgotten.cases) == (1, {case_id: 1})
    after = client.case(case_id)
    assert after.queries == []
    assert after.changed_at > before.changed_at
    ((day, count),) = after.deleted_searches.items()
    assert count == 1
    export = zipfile.ZipFile(io.BytesIO(client.export_case(case_id)))
    assert f"1 search deleted on {day}." in export.read("index.html").decode()


class Desk(NamedTuple):
    """Clients of two keys that may search and of an administrator, in one gallery."""

    bob: Client
    eve: Client
    admin: Client


@pytest.fixture(scope="module")
def desk_dir(tmp_path_factory, engine):
    return tmp_path_factory.mktemp("desk")


@pytest.fixture(scope="module")
def keys(desk_dir):
    return [make_key(desk_dir, "--scope", scope) for scope in ("query", "query", "admin")]


@pytest.fixture(scope="module")
def small_desk(open_service, desk_dir, keys):
    return open_service(desk_dir, kept_queries=4)


@pytest.fixture
def desk(connect, small_desk, keys, images):
    gallery = f"desk-{uuid4().hex[:8]}"
    desk = Desk(*(connect(small_desk, key, gallery=gallery) for key in keys))
    desk.admin.create_gallery(gallery)
    desk.admin.enroll(images[:3])
    return desk


def needs_admin(*calls):
    for call in calls:
        with pytest.raises(RequestRefused, match="needs admin"):
            call()


def test_keys_see_their_own_searches_and_open_those_they_are_given(desk, images):
    bob, eve, admin = desk
    query_id = bob.query(images[0], keep=True).query_id
    assert kept_ids(eve) == []
    assert [search.query_id for search in admin.kept_searches(everyone=True)] == [query_id]
    assert eve.kept_search(query_id).key_id == bob.kept_search(query_id).key_id
    needs_admin(
        lambda: list(eve.kept_searches(everyone=True)),
        lambda: eve.delete_kept_search(query_id),
    )
    bob.delete_kept_search(query_id)
    assert kept_ids(bob) == []


def test_cases_are_changed_by_the_key_that_made_them(desk, desk_dir, images):
    bob, eve, admin = desk
    case_id = bob.create_case("case").case_id
    query_id = eve.query(images[0], keep=True).query_id
    eve.hold_search(case_id, query_id)
    needs_admin(
        lambda: eve.change_case(case_id, name="other"),
        lambda: eve.release_search(case_id, query_id),
        lambda: eve.delete_case(case_id),
    )
    assert admin.change_case(case_id, name="other").name == "other"
    opened = eve.kept_search(query_id)
    eve.review(query_id, opened.best.crop_id, decision="rejected")
    bob.export_case(case_id)
    assert bob.delete_case(case_id).removed == 0
    assert eve.kept_search(query_id).expires_at is not None

    def events(about):
        lines = audit_lines(desk_dir)
        ids = [(line, (line.get("query_id"), line.get("case_id"))) for line in lines]
        return {(line["event"], line["phase"]) for line, named in ids if about in named}

    of_search = ("query", "open_kept_search", "hold_search", "review")
    eventually(lambda: events(query_id) == {(event, "done") for event in of_search})
    of_case = ("create_case", "hold_search", "change_case", "export_case", "delete_case")
    expected = {(event, "done") for event in of_case} | {("delete_case", "asked")}
    eventually(lambda: events(case_id) == expected)


@pytest.mark.promise("scopes")
def test_a_deleted_case_leaves_the_searches_of_other_keys(desk, images):
    bob, eve, _ = desk
    answer = bob.query(images[0], keep=True)
    crop_id = answer.results[0].crop_id
    bob.review(answer.query_id, crop_id, decision="rejected")
    case_id = eve.create_case("x").case_id
    own = eve.query(images[0], keep=True).query_id
    for query_id in (answer.query_id, own):
        eve.hold_search(case_id, query_id)
    assert eve.delete_case(case_id).removed == 1
    opened = bob.kept_search(answer.query_id)
    assert (opened.case_ids, opened.expires_at is None) == ([], False)
    assert [review.crop_id for review in bob.reviews()] == [crop_id]


@pytest.mark.promise("scopes")
def test_notes_and_decisions_are_changed_by_the_key_that_made_them(desk, images):
    bob, eve, _ = desk
    answer = bob.query(images[0], keep=True)
    query_id = answer.query_id
    crop_id = answer.results[0].crop_id
    case_id = bob.create_case("b").case_id
    bob.hold_search(case_id, query_id, "seen")
    assert eve.hold_search(case_id, query_id, "seen").queries[0].note == "seen"
    bob.review(query_id, crop_id, decision="confirmed")
    needs_admin(
        lambda: eve.hold_search(case_id, query_id, "not seen"),
        lambda: eve.review(query_id, crop_id, decision="rejected"),
        lambda: eve.review(query_id, crop_id, decision="open"),
    )
    assert [query.note for query in bob.case(case_id).queries] == ["seen"]
    assert [review.decision for review in bob.reviews()] == ["confirmed"]


@pytest.mark.promise("scopes")
def test_no_cursor_of_reviews_names_a_search_of_another_key(desk, images):
    bob, eve, _ = desk
    for _ in range(3):
        answer = bob.query(images[0], keep=True)
        bob.review(answer.query_id, answer.results[0].crop_id, decision="confirmed")
    page = eve._http.get(url=f"/v1/galleries/{eve.gallery_name}/reviews?limit=1").json()
    assert page == {"results": [], "next_cursor": None}
    assert len(list(bob.reviews())) == 3


def test_of_two_keys_that_review_a_result_at_once_one_is_refused(desk, images):
    bob, eve, _ = desk
    answer = bob.query(images[0], keep=True)
    together = threading.Barrier(2)

    def review(decided):
        reviewer, crop_id, decision = decided
        together.wait(20)
        with contextlib.suppress(RequestRefused):
            reviewer.review(answer.query_id, crop_id, decision=decision)
            return decision

    with ThreadPoolExecutor(2) as pool:
        for result in answer.results:
            crop_id = result.crop_id
            decided = [(bob, crop_id, "confirmed"), (eve, crop_id, "rejected")]
            accepted = set(pool.map(review, decided)) - {None}
            reviews = {review.crop_id: review.decision for review in bob.reviews()}
            assert accepted == {reviews[crop_id]}


@pytest.mark.promise("shares")
def test_a_key_holds_half_of_the_searches_at_most(desk, images):
    bob, eve, _ = desk
    ids = [eve.query(images[0], keep=True).query_id for _ in range(3)]
    for number in range(2):
        eve.hold_search(eve.create_case(f"{number}").case_id, ids[number])
    with pytest.raises(RequestRefused, match="half of GMN_KEPT_QUERIES"):
        eve.hold_search(eve.create_case("more").case_id, ids[2])
    own = bob.query(images[0], keep=True).query_id
    bob.hold_search(bob.create_case("b").case_id, own)
    assert bob.kept_search(own).expires_at is None


def test_a_key_holds_no_more_searches_in_cases_of_others(desk, images):
    bob, eve, _ = desk
    cases = [eve.create_case("e").case_id, bob.create_case("b").case_id]
    ids = [eve.query(images[0], keep=True).query_id for _ in range(3)]
    for case_id, query_id in zip(cases, ids, strict=False):
        eve.hold_search(case_id, query_id)
    with pytest.raises(RequestRefused, match="half of GMN_KEPT_QUERIES"):
        eve.hold_search(cases[1], ids[2])
    own = bob.query(images[0], keep=True).query_id
    assert bob.hold_search(cases[1], own).count == 2


@pytest.mark.promise("shares")
@pytest.mark.slow
def test_a_key_begins_half_of_the_cases_of_a_gallery_at_most(desk):
    bob, eve, _ = desk
    for number in range(500):
        eve.create_case(str(number))
    with pytest.raises(RequestRefused, match="500 for a key without admin"):
        eve.create_case("one more")
    assert bob.create_case("first").name == "first"


def test_reviews_are_a_data_set_to_train_on(client, served, images, tmp_path, monkeypatch):
    monkeypatch.setenv("GMN_URL", str(served.http.base_url))
    folder = tmp_path / "run" / "reviews"
    with pytest.raises(InputProblem, match="no search has a confirmed result"):
        fetch_reviews(client.gallery_name, folder)
    searches = [kept(client, images[n], top_k=24, camera="gate") for n in (0, 4)]
    for place, decision, identity in (
        (0, "confirmed", "0000"),
        (0, "rejected", "0003"),
        (1, "confirmed", "0001"),
        (1, "rejected", "0001"),
        (1, "rejected", "0002"),
    ):
        answer = searches[place]
        crops = [result.crop_id for result in answer.results if result.identity == identity]
        client.review(answer.query_id, crops[decision == "rejected"], decision=decision)
    assert "3 pictures of 2 people; 1 contradictory" in fetch_reviews(client.gallery_name, folder)
    records = read_dataset(f"manifest:{folder}").records
    found = {(record.identity, record.camera): record.content() for record in records}
    assert found["0000", "gate"] == images[0]
    assert {record.identity for record in records} == {"0000", "0003"}


@pytest.mark.parametrize(
    ("others", "left_out"),
    [
        ([], set()),
        ([("q1", "b", "Bob"), ("q3", "b", "Bob")], {"q1", "q2", "q3"}),
        ([("q3", "a", "Ann"), ("q3", "b", "Bob")], {"q3"}),
        ([("q2", "x", "Ann", "rejected")], {"q2"}),
    ],
)
def test_an_unnamed_crop_joins_searches_but_never_two_names(others, left_out):
    def review(query_id, crop_id, identity, decision="confirmed"):
        return Review.model_construct(
            query_id=query_id, crop_id=crop_id, identity=identity, decision=decision
        )

    joined = [("q1", "u", None), ("q2", "u", None), ("q2", "a", "Ann")]
    people, contradictory = people_of([review(*one) for one in [*joined, *others]])
    assert contradictory == left_out
    assert others or set(people.values()) == {"Ann"}
