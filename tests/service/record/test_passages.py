"""Passages in the record: parts of one track are one passage, and what is hidden leaves nothing."""

from datetime import UTC, datetime, timedelta

import pytest

from service.record.schema import as_micros
from service.watch.tables.passages import (
    KEPT_FOR,
    MOST_PASSAGES,
    BestLook,
    EndedPassage,
    describe_passage,
)
from tests.service.gallery.new_crops import watch_of
from tests.service.record.test_cameras import arm

pytestmark = pytest.mark.promise("passages")
NOW = datetime.now(UTC)


@pytest.fixture
def explained(record, gallery):
    arm(record, gallery, explain_passages=True)
    return gallery


def ended(name=b"17", begin=0, end=10, score=0.2, hidden=False, **more):
    """Return a track, or a part of one, that was open between two seconds from now."""
    look = {"threshold": 0.3, "probability": None, "height": 80, "faults": ("blurred",)}
    look |= {"zone": "door", **more}
    began, until = (NOW + timedelta(seconds=seconds) for seconds in (begin, end))
    return EndedPassage(name, began, until, "gate", "17", BestLook(began, score, **look), hidden)


def passages(record, gallery):
    return watch_of(record).passages.of_list(gallery)


def scores(record, gallery):
    return [passage.score for passage in passages(record, gallery)]


def stored(record, gallery):
    with record.database.read() as reader:
        return reader.rows("passages", "WHERE gallery_id = ?", (gallery,))


def test_a_passage_says_when_where_and_what_was_missing(record, explained):
    watch_of(record).passages.add(explained, [ended(score=0.26)])
    (passage,) = passages(record, explained)
    assert passage.captured_at == NOW
    assert (passage.camera, passage.zone, passage.track) == ("gate", "door", "17")
    assert (passage.score, passage.threshold) == (0.26, 0.3)
    assert passage.margin == pytest.approx(-0.04)
    assert passage.sentence == "0.04 below; 80 pixels high; blurred"


@pytest.mark.parametrize(
    ("margin", "probability", "height", "faults", "sentence"),
    [
        (-0.001, None, 1, [], "less than 0.01 below; 1 pixel high"),
        (
            0.02,
            0.41,
            None,
            [],
            "0.02 above, with a probability of 41%; an alert needs 50%",
        ),
        (
            -0.3,
            None,
            40,
            ["low_resolution", "dark"],
            "0.30 below; 40 pixels high; too few pixels; dark",
        ),
    ],
)
def test_a_passage_in_words(margin, probability, height, faults, sentence):
    assert describe_passage(margin, probability, height, faults) == sentence


def test_a_list_that_explains_nothing_keeps_nothing(record, gallery):
    add = watch_of(record).passages.add
    add(gallery, [ended()])
    arm(record, gallery)
    add(gallery, [ended()])
    assert stored(record, gallery) == []
    arm(record, gallery, explain_passages=True)
    add(gallery, [ended()])
    assert len(stored(record, gallery)) == 1
    arm(record, gallery)
    assert stored(record, gallery) == []


def test_parts_of_one_track_are_one_passage_by_its_best_crop(record, explained):
    add = watch_of(record).passages.add
    add(explained, [ended(begin=0, end=10, score=0.1)])
    add(explained, [ended(begin=15, end=25, score=0.25)])
    assert scores(record, explained) == [0.25, 0.1]
    # The third part shows that the first two are of one track.
    add(explained, [ended(begin=8, end=18, score=0.2)])
    assert scores(record, explained) == [0.25]
    add(explained, [ended(begin=3600, end=3610, score=0.15)])
    assert scores(record, explained) == [0.15, 0.25]


@pytest.mark.parametrize("hidden", [(True, False), (False, True)])
def test_a_track_of_which_another_process_saw_a_hidden_part_leaves_nothing(
    record, explained, hidden
):
    first, second = hidden
    watch_of(record).passages.add(explained, [ended(hidden=first)])
    watch_of(record).passages.add(explained, [ended(begin=5, end=15, hidden=second)])
    assert passages(record, explained) == []
    (row,) = stored(record, explained)
    of_nobody = ("captured_at", "camera", "track", "score", "height", "faults")
    assert {row[column] for column in of_nobody} == {None}


def test_crops_without_a_track_are_passages_of_their_own(record, explained):
    hidden = ended(name=None, hidden=True)
    watch_of(record).passages.add(explained, [ended(name=None), ended(name=None), hidden])
    assert len(stored(record, explained)) == len(passages(record, explained)) == 2


def test_the_newest_five_hundred_are_kept(record, explained):
    tracks = [ended(b"%d" % number, score=float(number)) for number in range(MOST_PASSAGES + 2)]
    watch_of(record).passages.add(explained, tracks)
    found = scores(record, explained)
    assert len(found) == len(stored(record, explained)) == MOST_PASSAGES
    assert (found[0], found[-1]) == (MOST_PASSAGES + 1, 2)


def test_passages_go_after_a_day_and_hidden_ones_after_an_hour(record, explained):
    add = watch_of(record).passages.add
    for name, hidden, age in (
        (b"1", False, KEPT_FOR),
        (b"2", False, timedelta(hours=23)),
        (b"3", True, timedelta(hours=2)),
        (b"4", True, timedelta(minutes=30)),
    ):
        add(explained, [ended(name, hidden=hidden)])
        then = as_micros(NOW - age)
        aged = "UPDATE passages SET noted_at = ? WHERE name = ?"
        record.database.write(
            lambda transaction, *values: transaction.change(*values), aged, (then, name)
        )
    assert len(passages(record, explained)) == 1
    watch_of(record).passages.remove_old()
    assert sorted(row["name"] for row in stored(record, explained)) == [b"2", b"4"]


def test_passages_go_with_their_gallery(record, explained):
    watch_of(record).passages.add(explained, [ended()])
    record.galleries.delete(explained)
    assert stored(record, explained) == []
