"""Enrollments that are stored together have the outcomes that each has alone."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import NeedsReindex, RequestConflict
from service.record.transaction import Reader
from service.record.values import (
    CommittedEnrollment,
    EnrollmentRequest,
    RequestKey,
    new_crop_id,
)
from tests.service.gallery.new_crops import (
    EMBEDDER,
    OTHER_EMBEDDER,
    listed,
    new_crop,
    new_gallery,
    open_record,
)

pytestmark = pytest.mark.promise("stored-together")

# SQLite has no integer of this size: the crop fails amid the writes.
UNSTORABLE = {"image_bytes": 2**70}
CROPS = st.builds(
    lambda unstorable, *labels, **said: new_crop(*labels, **said, **unstorable),
    st.sampled_from([{}] * 7 + [UNSTORABLE]),
    st.integers(1, 4),
    # "é" in two Unicode forms.
    st.sampled_from(["a", "b", None, "\u00e9", "e\u0301"]),
    st.sampled_from(["east", "west"]),
    external_id=st.sampled_from([None, "first", "second"]),
    track=st.sampled_from([None, "17"]),
    metadata=st.sampled_from([{}, {"door": 1}]),
)
STORABLE = CROPS.filter(lambda crop: crop.record.image_bytes < UNSTORABLE["image_bytes"])
KEYS = st.builds(RequestKey, st.sampled_from("xyz"), st.sampled_from(["digest", "other"]))
REQUESTS = st.builds(
    EnrollmentRequest,
    st.sampled_from([EMBEDDER] * 5 + [OTHER_EMBEDDER]),
    st.lists(CROPS, max_size=3),
    st.none() | KEYS,
    st.sampled_from([None, None, "import"]),
)


def request(*crops, key=None, embedder=EMBEDDER):
    return EnrollmentRequest(embedder, crops, key)


def describe(outcome):
    if isinstance(outcome, Exception):
        return type(outcome), str(outcome)
    return replace(outcome, version=0)


def store_alone(record, gallery, sent):
    try:
        return record.crops.enroll(
            gallery, sent.embedder, sent.crops, sent.key, None, sent.import_job
        )
    except Exception as error:
        return error


def read_imported(record, gallery):
    statement = "SELECT slot, job_id FROM imported_crops WHERE gallery_id = ? ORDER BY slot"
    return Reader(record.database).tuples(statement, (gallery,))


@pytest.fixture
def pair(tmp_path):
    """Two records: requests are stored together in the first, and alone in the second."""
    folders = [tmp_path / "together", tmp_path / "alone"]
    for folder in folders:
        folder.mkdir()
    with open_record(folders[0]) as together, open_record(folders[1]) as alone:
        yield together, alone


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STORABLE, max_size=2), st.lists(REQUESTS, min_size=2, max_size=6))
def test_requests_stored_together_have_the_outcomes_that_they_have_alone(pair, stored, requests):
    together, alone = pair
    name = new_crop_id()
    for record in pair:
        gallery = new_gallery(record, name)
        record.crops.enroll(gallery, EMBEDDER, stored)
    outcomes = together.crops.enroll_together(gallery, requests)
    expected = [store_alone(alone, gallery, sent) for sent in requests]
    assert list(map(describe, outcomes)) == list(map(describe, expected))
    assert listed(together, gallery) == listed(alone, gallery)
    assert read_imported(together, gallery) == read_imported(alone, gallery)
    # A repeated request gets its first answer.
    again = [together.crops.enroll_together(gallery, [sent])[0] for sent in requests]
    repeated = [store_alone(alone, gallery, sent) for sent in requests]
    assert list(map(describe, again)) == list(map(describe, repeated))


def test_each_answer_names_a_version_that_has_its_crops(record, gallery):
    requests = [request(new_crop(number), new_crop(9)) for number in range(1, 5)]
    outcomes = record.crops.enroll_together(gallery, requests)
    statement = "SELECT crop_id, changed FROM crops WHERE gallery_id = ?"
    changed = dict(Reader(record.database).tuples(statement, (gallery,)))
    for outcome in outcomes:
        assert max(changed[image.crop_id] for image in outcome.landed) <= outcome.version
    assert outcomes[-1].version == record.galleries.get(gallery).version


def test_requests_that_are_alike_are_one_commit(record, gallery):
    newest = Reader(record.database).newest_commit
    before = newest()
    requests = [request(new_crop(number), key=RequestKey(f"{number}", "d")) for number in range(8)]
    outcomes = record.crops.enroll_together(gallery, requests)
    assert newest() == before + 1
    assert [outcome.added[0].slot for outcome in outcomes] == list(range(1, 9))


def test_a_request_that_fails_leaves_those_stored_with_it_as_they_are(record, gallery):
    record.crops.enroll(gallery, EMBEDDER, [new_crop(0)], RequestKey("used", "digest"))
    first = request(new_crop(1), key=RequestKey("first", "digest"))
    outcomes = record.crops.enroll_together(
        gallery,
        [
            first,
            request(new_crop(2), key=RequestKey("used", "another digest")),
            request(new_crop(3)),
            request(new_crop(4), embedder=OTHER_EMBEDDER),
            request(new_crop(5)),
            request(new_crop(6, **UNSTORABLE)),
            request(new_crop(7)),
            first,
        ],
    )
    assert [type(outcome) for outcome in outcomes] == [
        CommittedEnrollment,
        RequestConflict,
        CommittedEnrollment,
        NeedsReindex,
        CommittedEnrollment,
        OverflowError,
        CommittedEnrollment,
        CommittedEnrollment,
    ]
    *_, repeated = outcomes
    assert repeated.replayed
    assert [image.crop_id for image in repeated.landed] == outcomes[0].crop_ids
    stored = [crop.sha256 for crop in listed(record, gallery)]
    assert stored == [new_crop(number).record.sha256 for number in (0, 1, 3, 5, 7)]


def test_one_key_in_one_batch_stands_for_one_request(record, gallery):
    key = RequestKey("key", "digest")
    first, again = record.crops.enroll_together(
        gallery, [request(new_crop(1), key=key), request(new_crop(1), key=key)]
    )
    assert again.replayed
    assert not first.replayed
    assert [image.crop_id for image in again.landed] == first.crop_ids
    assert [image.duplicate for image in again.landed] == [False]
