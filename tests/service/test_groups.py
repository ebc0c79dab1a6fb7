"""Crops without a name are grouped by person: suggestions that follow names and deletions."""

import numpy as np
import pytest

from service.jobs import grouping
from service.record.values import ArchivedCrop, LabelledCrop
from tests.outside import problem
from tests.service.conftest import START


@pytest.fixture
def unnamed(served, gallery, drawn_crops):
    """Enroll crops without names, two or three a person, and return each crop's person."""
    shown = [crop for place, crop in enumerate(drawn_crops[::4]) for _ in range(2 + place % 2)]
    # The bytes after a PNG's end make each image another one.
    images = [crop.png + bytes([number]) for number, crop in enumerate(shown)]
    ids = served.enrolled(gallery, *images, camera="east")
    return dict(zip(ids, (crop.identity for crop in shown), strict=True))


def _grouped(served, gallery, **fields):
    job = served.http.post(f"/v1/galleries/{gallery}/groups", data=fields)
    assert job.status_code == 202, job.text
    ended = served.ended_job(job.json())
    assert ended["state"] == "done", (ended, served.log.read_text()[-3000:])
    assert ended["kind"] == "grouping"
    return served.read(f"/v1/galleries/{gallery}/groups")


def test_crops_of_one_person_come_together_and_are_named_in_one_step(served, gallery, unnamed):
    url = f"/v1/galleries/{gallery}"
    before = served.read(f"{url}/groups")
    assert (before["job_id"], before["results"], before["single"]) == (None, [], 0)
    found = _grouped(served, gallery)
    groups = found["results"]
    assert sum(len(group["crop_ids"]) for group in groups) == len(unnamed)
    assert found["single"] == 0
    assert all(0.0 <= group["cohesion"] <= 1.0 for group in groups)
    sizes = [len(group["crop_ids"]) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    assert all(len({unnamed[crop_id] for crop_id in group["crop_ids"]}) == 1 for group in groups)
    first = groups[0]["crop_ids"]
    renamed = served.http.patch(f"{url}/crops", data={"crop_ids": first, "new_identity": "Ann"})
    assert renamed.json()["changed"] == len(first)
    left = served.read(f"{url}/groups")
    assert (left["job_id"], left["results"]) == (found["job_id"], groups[1:])
    # A group of one is none.
    for crop_id in groups[-1]["crop_ids"][1:]:
        served.delete_crop(gallery, crop_id)
    left = served.read(f"{url}/groups")
    assert (left["results"], left["single"]) == (groups[1:-1], 1)


def test_only_crops_of_a_camera_and_without_a_name_are_grouped(served, gallery, images):
    served.enroll(gallery, *images[:6], camera=["east"] * 2 + ["west"] * 4)
    served.enroll(gallery, images[6], camera="west", identity="Ann")
    assert _grouped(served, gallery, camera="west")["gallery_version"] == 2
    (job, *_) = served.results("/v1/jobs", params={"gallery": gallery})
    assert job["progress"] == {"total": 4, "done": 4}
    # No crop passes: an empty result, and no error.
    assert _grouped(served, gallery, camera="north")["results"] == []


@pytest.mark.slow
def test_too_many_crops_are_refused_with_the_remedy(start, images):
    served = start(program=f"from service.jobs import grouping; grouping.MOST_CROPS = 3\n{START}")
    served.enroll("default", *images[:4], camera="east")
    url = "/v1/galleries/default/groups"
    refused = served.http.post(url)
    assert problem(refused) == (422, "invalid_field")
    assert "send a camera or a shorter time" in refused.json()["detail"]
    ended = served.ended_job(served.http.post(url, data={"camera": "east"}).json())
    assert (ended["state"], "more than 3 unnamed crops" in ended["detail"]) == ("failed", True)


@pytest.mark.parametrize("scores", ["cosine", "mnet"])
def test_groups_are_joined_while_their_mean_score_is_above_the_cut(scores):
    rng = np.random.default_rng(5)
    who = np.repeat(np.arange(6), 5)
    same = who[:, None] == who
    scale = {"cosine": 0.1, "mnet": 9.0}[scores]
    pairs = np.where(same, 4.0, -4.0) + rng.normal(size=same.shape)
    pairs = (scale * (pairs + pairs.T)).astype(np.float32)
    groups = grouping._cluster(pairs.copy(), 0.0)
    found = sorted(sorted(places.tolist()) for places, _ in groups)
    assert found == np.arange(30).reshape(6, 5).tolist()
    for places, mean in groups:
        own = pairs[np.ix_(places, places)][np.triu_indices(5, 1)]
        assert mean == pytest.approx(float(own.mean()), abs=1e-4 * scale)
        likeness = pairs[np.ix_(places, places)].mean(axis=1)
        assert likeness[0] == likeness.min()
    assert grouping._cluster(pairs.copy(), float(pairs.max())) == []


def test_only_a_cohesive_track_joins_its_crops():
    person, other = np.eye(2, dtype=np.float32)
    shown = [(person, "1"), (person + 0.1, "1"), (person, "2"), (other, "2"), (other, None)]
    crops = [
        ArchivedCrop(LabelledCrop(slot=n, crop_id=str(n), camera="east", track=track), vector)
        for n, (vector, track) in enumerate(shown)
    ]
    tracks = grouping._find_cohesive_tracks(crops, 0.8)
    assert tracks == [[0, 1]]
    # Without the track no two of these would be joined.
    apart = np.full((5, 5), -1, np.float32)
    ((places, mean),) = grouping._cluster(apart, 0.0, tracks)
    assert sorted(places.tolist()) == [0, 1]
    assert mean == -1
