"""Promises of the record, asked of a served data directory from outside."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.forked import run_gmn

DEFAULT = "/v1/galleries/default"


def listed(served) -> dict[str, str]:
    answer = served.http.get(f"{DEFAULT}/crops?limit=1000")
    assert answer.status_code == 200
    return {crop["crop_id"]: crop["identity"] for crop in answer.json()["results"]}


def delete(served, crop_id: str) -> None:
    answer = served.http.delete(f"{DEFAULT}/crops/{crop_id}")
    assert answer.status_code == 200, answer.text


def take_snapshot(served) -> str:
    answer = served.http.post(f"{DEFAULT}/snapshots")
    assert answer.status_code == 201, answer.text
    return answer.json()["snapshot_id"]


def restore_snapshot(served, snapshot_id: str) -> int:
    answer = served.http.post(f"{DEFAULT}/snapshots/{snapshot_id}/restore")
    assert answer.status_code == 200, answer.text
    return answer.json()["crops"]


def flip_bit_of_vector(path: Path, vector: np.ndarray) -> bool:
    """Find float32 numbers in the direction of a vector in a file, and change the first of them."""
    content = bytearray(path.read_bytes()) if path.is_file() else bytearray()
    first, second, third = vector[:3]
    for offset in range(4):
        numbers = np.frombuffer(content[offset : len(content) - (len(content) - offset) % 4], "<f4")
        with np.errstate(all="ignore"):
            alike = np.isclose(numbers[1:-1] * first, numbers[:-2] * second, rtol=1e-4, atol=0)
            alike &= np.isclose(numbers[2:] * first, numbers[:-2] * third, rtol=1e-4, atol=0)
            alike &= (np.abs(numbers[:-2]) > 1e-4) & (np.abs(numbers[:-2]) < 1e4)
        if alike.any():
            content[offset + 4 * int(alike.argmax()) + 2] ^= 0x40
            path.write_bytes(content)
            return True
    return False


@pytest.mark.slow
def test_a_service_killed_amid_a_request_of_several_images_has_none_of_them(
    start, tmp_path, drawn_crops
):
    images = [crop.png for crop in drawn_crops[:4]]
    served = start(data_dir=tmp_path, failpoint="enroll.crop-written:3")
    with pytest.raises(httpx.TransportError):
        served.enroll("default", *images)
    assert served.ended_with() == -signal.SIGKILL
    checked = run_gmn("store", "verify", "--data-dir", str(tmp_path))
    assert checked.returncode == 0, checked.stdout
    again = start(data_dir=tmp_path)
    assert listed(again) == {}
    assert again.found("default", images[0], top_k=24) == []
    assert len(again.enrolled("default", *images)) == 4


@pytest.mark.slow
def test_a_crop_deleted_since_a_snapshot_is_in_no_restore_of_it(start, tmp_path, drawn_crops):
    served = start(data_dir=tmp_path)
    images = [crop.png for crop in drawn_crops[:4]]
    crop_ids = served.enrolled("default", *images)
    snapshot_id = take_snapshot(served)
    delete(served, crop_ids[1])
    assert restore_snapshot(served, snapshot_id) == 3
    kept = {*crop_ids} - {crop_ids[1]}
    assert listed(served).keys() == kept
    assert {*served.found("default", images[1], top_k=24)} == kept
    served.kill()
    again = start(data_dir=tmp_path)
    assert restore_snapshot(again, snapshot_id) == 3
    assert {*again.found("default", images[1], top_k=24)} == kept


@pytest.mark.slow
def test_crops_enrolled_after_deletions_are_each_found_by_their_own_image(
    start, tmp_path, drawn_crops
):
    served = start(data_dir=tmp_path)
    images = [crop.png for crop in drawn_crops]
    crop_ids = served.enrolled("default", *images[:6])
    for crop_id in crop_ids[:3]:
        delete(served, crop_id)
    crop_ids = crop_ids[3:] + served.enrolled("default", *images[6:12])
    assert listed(served).keys() == {*crop_ids}
    served.kill()
    again = start(data_dir=tmp_path)
    for crop_id, image in zip(crop_ids, images[3:12], strict=True):
        ranking = again.found("default", image, top_k=24)
        assert ranking[0] == crop_id
        assert sorted(ranking) == sorted(crop_ids)


@pytest.mark.slow
def test_nothing_deleted_since_a_backup_is_in_its_restore_or_in_the_snapshots_beside_it(
    start, tmp_path, drawn_crops, monkeypatch
):
    data = tmp_path / "data"
    served = start(data_dir=data)
    images = [crop.png for crop in drawn_crops[:4]]
    crop_ids = served.enrolled("default", *images, identity=["Ann", "Bob", "Cid", "Dan"])
    snapshot_id = take_snapshot(served)
    made = run_gmn("backup", str(tmp_path / "backups"), "--data-dir", str(data))
    assert made.returncode == 0, made.stderr
    delete(served, crop_ids[0])
    forgotten = served.http.delete(f"{DEFAULT}/identities/Bob")
    assert (forgotten.status_code, forgotten.json()["removed"]) == (200, 1)
    renamed = served.http.patch(f"{DEFAULT}/identities/Cid", data={"new_identity": "Eve"})
    assert renamed.status_code == 200
    assert served.stop() == 0
    monkeypatch.setenv("GMN_DATA_DIR", str(data))
    new = tmp_path / "new"
    ran = run_gmn("restore", made.stdout.split()[-1], "--data-dir", str(new))
    assert ran.returncode == 0, ran.stderr
    assert "default: 2 crops, 2 left out as deleted since" in ran.stdout
    for file in filter(Path.is_file, new.rglob("*")):
        assert images[0][60:120] not in file.read_bytes(), file
    again = start(data_dir=new)
    # A new name is no deletion.
    assert listed(again) == dict(zip(crop_ids[2:], ["Cid", "Dan"], strict=True))
    assert {*again.found("default", images[0], top_k=24)} == {*crop_ids[2:]}
    assert again.http.get(f"{DEFAULT}/crops/{crop_ids[0]}/image").status_code == 404
    assert again.read(f"{DEFAULT}/snapshots/{snapshot_id}")["crops"] == 2
    assert restore_snapshot(again, snapshot_id) == 2
    assert {*again.found("default", images[0], top_k=24)} == {*crop_ids[2:]}


@pytest.mark.slow
def test_an_older_copy_of_the_record_is_searched_as_it_is_or_refused(start, tmp_path, drawn_crops):
    data = tmp_path / "data"
    served = start(data_dir=data)
    images = [crop.png for crop in drawn_crops]
    crop_ids = served.enrolled("default", *images[:6], identity="Ann")
    assert served.stop() == 0
    older = shutil.copytree(data, tmp_path / "older")
    again = start(data_dir=data)
    delete(again, crop_ids[0])
    again.enrolled("default", *images[12:18], identity="Bob")
    assert again.stop() == 0
    # Derived files stay; the record and the note of its last commit are of before.
    for path in older.iterdir():
        if path.is_file():
            shutil.copy(path, data / path.name)
    put_back = start(data_dir=data)
    # A deletion holds although the copy was made before it.
    assert listed(put_back) == dict.fromkeys(crop_ids[1:], "Ann")
    assert crop_ids[0] not in put_back.found("default", images[0], top_k=24)
    crop_ids = crop_ids[1:]
    images = images[1:]
    for crop_id, image in zip(crop_ids, images, strict=False):
        assert put_back.found("default", image, top_k=24)[0] == crop_id
    # Both histories go on under the same numbers, and only one of them is searched.
    more = put_back.enrolled("default", *images[5:11], identity="Cid")
    assert put_back.stop() == 0
    last = start(data_dir=data)
    for crop_id, image in zip(crop_ids + more, images[:11], strict=True):
        ranking = last.found("default", image, top_k=24)
        assert ranking[0] == crop_id
        assert sorted(ranking) == sorted(crop_ids + more)


@pytest.mark.slow
def test_a_flipped_bit_of_a_vector_is_named_and_its_crop_is_left_out_of_a_recovery(
    start, tmp_path, drawn_crops
):
    data = tmp_path / "data"
    served = start(data_dir=data)
    images = [crop.png for crop in drawn_crops[:6]]
    crop_ids = served.enrolled("default", *images)
    answer = served.http.get(f"{DEFAULT}/crops/{crop_ids[2]}", params={"include_vector": True})
    assert answer.status_code == 200
    vector = np.array(answer.json()["vector"], np.float32)
    assert served.stop() == 0
    damaged = [path for path in sorted(data.rglob("*")) if flip_bit_of_vector(path, vector)]
    assert damaged
    checked = run_gmn("store", "verify", "--data-dir", str(data))
    assert checked.returncode == 1, checked.stdout
    assert crop_ids[2] in checked.stdout
    new = tmp_path / "new"
    recovered = run_gmn("store", "recover", "--data-dir", str(data), "--into", str(new))
    assert recovered.returncode == 0, recovered.stderr
    again = start(data_dir=new)
    kept = {*crop_ids} - {crop_ids[2]}
    assert listed(again).keys() == kept
    assert {*again.found("default", images[2], top_k=24)} == kept
