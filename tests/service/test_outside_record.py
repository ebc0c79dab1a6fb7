"""Promises of the record, asked of a served data directory from outside."""

import shutil
import signal

import httpx2
import numpy as np
import pytest

from tests.forked import run_gmn
from tests.outside import figure

DEFAULT = "/v1/galleries/default"
pytestmark = pytest.mark.slow


def listed(served):
    crops = served.results("/v1/galleries/default/crops?limit=1000")
    return {crop["crop_id"]: crop["identity"] for crop in crops}


def verified(data_dir):
    checked = run_gmn("store", "verify", "--data-dir", str(data_dir))
    return checked.returncode, checked.stdout


def each_is_first_by_its_own_image(served, crop_ids, images):
    for crop_id, image in zip(crop_ids, images, strict=True):
        ranking = served.found("default", image, top_k=24)
        assert ranking[0] == crop_id
        assert sorted(ranking) == sorted(crop_ids)


def test_a_service_killed_amid_a_request_of_several_images_has_none_of_them(
    start, tmp_path, images
):
    images = images[:4]
    served = start(tmp_path, failpoint="enroll.crop-written:3")
    with pytest.raises(httpx2.TransportError):
        served.enroll("default", *images)
    assert served.ended_with() == -signal.SIGKILL
    assert verified(tmp_path)[0] == 0
    again = start(tmp_path)
    assert listed(again) == {}
    assert again.found("default", images[0], top_k=24) == []
    assert len(again.enrolled("default", *images)) == 4


def test_crops_enrolled_after_deletions_are_each_found_by_their_own_image(start, tmp_path, images):
    served = start(tmp_path)
    crop_ids = served.enrolled("default", *images[:6])
    for crop_id in crop_ids[:3]:
        served.delete_crop("default", crop_id)
    crop_ids = crop_ids[3:] + served.enrolled("default", *images[6:12])
    assert listed(served).keys() == {*crop_ids}
    served.kill()
    again = start(tmp_path)
    each_is_first_by_its_own_image(again, crop_ids, images[3:12])


def test_an_older_copy_of_the_record_is_served_with_each_deletion(start, tmp_path, images):
    data = tmp_path / "data"
    served = start(data)
    crop_ids = served.enrolled("default", *images[:6], identity="Ann")
    assert served.stop() == 0
    older = shutil.copytree(data, tmp_path / "older")
    again = start(data)
    again.delete_crop("default", crop_ids[0])
    again.enrolled("default", *images[12:18], identity="Bob")
    assert again.stop() == 0
    for path in older.glob("record.sqlite3*"):
        shutil.copy(path, data / path.name)
    put_back = start(data)
    # A deletion holds although the copy was made before it.
    assert listed(put_back) == dict.fromkeys(crop_ids[1:], "Ann")
    # Both histories go on under the same numbers, and only one of them is searched.
    more = put_back.enrolled("default", *images[6:12], identity="Cid")
    assert put_back.stop() == 0
    each_is_first_by_its_own_image(start(data), crop_ids[1:] + more, images[1:12])


@pytest.mark.promise("damage")
def test_a_flipped_bit_of_a_vector_costs_its_crop_which_is_named(start, tmp_path, images):
    data = tmp_path / "data"
    served = start(data)
    images = images[:6]
    crop_ids = served.enrolled("default", *images)
    crop = served.read(f"{DEFAULT}/crops/{crop_ids[2]}", params={"include_vector": True})
    assert served.stop() == 0
    (file,) = data.glob("vectors-*.f32")
    vectors = np.memmap(file, "<f4", "r+").reshape(-1, len(crop["vector"]))
    row = np.argmax(vectors @ crop["vector"] / (np.linalg.norm(vectors, axis=1) + 1e-9))
    vectors.view("<u4")[row, 0] ^= 1 << 22
    status, said = verified(data)
    assert (status, crop_ids[2] in said) == (1, True)
    again = start(data)
    kept = {*crop_ids} - {crop_ids[2]}
    assert {*again.found("default", images[2], top_k=24)} == kept
    assert listed(again).keys() == kept
    assert again.read("/readyz")["damaged_crops"] == 1
    assert figure(again, "gmn_damaged_crops") == 1
    (finding,) = [
        finding["text"]
        for finding in again.read("/v1/doctor")["findings"]
        if "damaged" in finding["text"]
    ]
    assert crop_ids[2] in finding
    again.delete_crop("default", crop_ids[2])
    assert verified(data)[0] == 0
    assert figure(again, "gmn_damaged_crops") == 0
