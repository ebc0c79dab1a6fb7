"""Crops without a name are grouped by person: suggestions that follow names and deletions."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from service.jobs import grouping
from service.record.values import ArchivedCrop, CropLabel
from tests.outside import problem
from tests.service.conftest import START, Served


@pytest.fixture
def unnamed(served, gallery, drawn_crops):
    """Enroll crops without names, two or three a person, and return each crop's person."""
    people = {crop.identity: crop.png for crop in drawn_crops}
    images = []
    who = []
    for place, (identity, png) in enumerate(sorted(people.items())):
        for shade in range(3 if place % 2 else 2):
            picture = Image.open(io.BytesIO(png)).convert("RGB")
            picture.putpixel((0, 0), (shade, shade, shade))
            picture.save(file := io.BytesIO(), "PNG")
            images.append(file.getvalue())
            who.append(identity)
    landed = served.enroll(gallery, *images, camera="east")
    ids = [result["crop_id"] for result in landed.json()["results"]]
    return gallery, dict(zip(ids, who, strict=True))


def _grouped(served, gallery, **fields):
    job = served.http.post(f"/v1/galleries/{gallery}/groups", data=fields)
    assert job.status_code == 202, job.text
    ended = served.ended_job(job.json())
    assert ended["state"] == "done", (ended, served.log.read_text()[-3000:])
    assert ended["kind"] == "grouping"
    return served.read(f"/v1/galleries/{gallery}/groups")


def test_crops_of_one_person_come_together_and_are_named_in_one_step(served, unnamed):
    gallery, people = unnamed
    before = served.read(f"/v1/galleries/{gallery}/groups")
    assert (before["job_id"], before["results"], before["single"]) == (None, [], 0)
    found = _grouped(served, gallery)
    groups = found["results"]
    assert sum(len(group["crop_ids"]) for group in groups) + found["single"] == len(people)
    assert groups
    assert all(0.0 <= group["cohesion"] <= 1.0 for group in groups)
    sizes = [len(group["crop_ids"]) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    assert all(len({people[crop_id] for crop_id in group["crop_ids"]}) == 1 for group in groups)
    assert found["single"] == 0
    first = groups[0]["crop_ids"]
    url = f"/v1/galleries/{gallery}"
    renamed = served.http.patch(f"{url}/crops", data={"crop_ids": first, "new_identity": "Ann"})
    assert renamed.json()["changed"] == len(first)
    left = served.read(f"{url}/groups")
    assert left["job_id"] == found["job_id"]
    assert left["results"] == groups[1:]


def test_a_deleted_crop_leaves_its_group_and_a_group_of_one_is_none(served, unnamed):
    gallery, _ = unnamed
    found = _grouped(served, gallery)
    smallest = found["results"][-1]["crop_ids"]
    for crop_id in smallest[1:]:
        served.http.delete(f"/v1/galleries/{gallery}/crops/{crop_id}")
    left = served.read(f"/v1/galleries/{gallery}/groups")
    assert left["results"] == found["results"][:-1]
    assert left["single"] == found["single"] + 1


def test_only_crops_of_a_camera_and_without_a_name_are_grouped(served, gallery, drawn_crops):
    images = [crop.png for crop in drawn_crops[:6]]
    served.enroll(gallery, *images, camera=["east", "east", "west", "west", "west", "west"])
    served.enroll(gallery, drawn_crops[6].png, camera="west", identity="Ann")
    assert _grouped(served, gallery, camera="west")["gallery_version"] == 2
    (job, *_) = served.results("/v1/jobs", params={"gallery": gallery})
    assert job["progress"] == {"total": 4, "done": 4}
    # No crop passes: an empty result, and no error.
    assert _grouped(served, gallery, camera="north")["results"] == []


@pytest.mark.slow
def test_too_many_crops_are_refused_with_the_remedy(tiny_artefact, tmp_path, drawn_crops):
    program = f"from service.jobs import grouping; grouping.MOST_CROPS = 3\n{START}"
    served = Served(tmp_path / "log", program, artefact=tiny_artefact, data_dir=tmp_path / "data")
    served.enroll("default", *(crop.png for crop in drawn_crops[:4]), camera="east")
    refused = served.http.post("/v1/galleries/default/groups")
    assert problem(refused) == (422, "invalid_field")
    assert "send a camera or a shorter time" in refused.json()["detail"]
    job = served.http.post("/v1/galleries/default/groups", data={"camera": "east"}).json()
    ended = served.ended_job(job)
    assert (ended["state"], "more than 3 unnamed crops" in ended["detail"]) == ("failed", True)
    served.stop()


@pytest.mark.parametrize("scores", ["cosine", "mnet"])
def test_groups_are_joined_while_their_mean_score_is_above_the_cut(scores):
    rng = np.random.default_rng(5)
    who = np.repeat(np.arange(6), 5)
    same = who[:, None] == who
    scale = {"cosine": 0.1, "mnet": 9.0}[scores]
    pairs = np.where(same, 4.0, -4.0) + rng.normal(size=same.shape)
    pairs = (scale * (pairs + pairs.T)).astype(np.float32)
    groups = grouping._cluster(pairs.copy(), 0.0)
    assert sorted(sorted(places.tolist()) for places, _ in groups) == [
        list(range(5 * person, 5 * person + 5)) for person in range(6)
    ]
    for places, mean in groups:
        own = pairs[np.ix_(places, places)][np.triu_indices(5, 1)]
        assert mean == pytest.approx(float(own.mean()), abs=1e-4 * scale)
        likeness = pairs[np.ix_(places, places)].mean(axis=1)
        assert likeness[0] == likeness.min()
    assert grouping._cluster(pairs.copy(), float(pairs.max())) == []


@pytest.mark.slow
def test_a_start_imports_no_scikit_learn():
    program = (
        "import sys; import service.commands.serve, service.maintenance; "
        "sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_only_a_cohesive_track_joins_its_crops():
    person, other = np.eye(2, dtype=np.float32)
    shown = [(person, "1"), (person + 0.1, "1"), (person, "2"), (other, "2"), (other, None)]
    crops = [
        ArchivedCrop(CropLabel(n, str(n), None, "east", None, track=track), vector)
        for n, (vector, track) in enumerate(shown)
    ]
    tracks = grouping._cohesive_tracks(crops, 0.8)
    assert tracks == [[0, 1]]
    # Without the track no two of these would be joined.
    apart = np.full((5, 5), -1, np.float32)
    ((places, mean),) = grouping._cluster(apart, 0.0, tracks)
    assert sorted(places.tolist()) == [0, 1]
    assert mean == -1
