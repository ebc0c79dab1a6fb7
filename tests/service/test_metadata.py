"""The place and the device of a picture are stored nowhere and given to nobody."""

import hashlib
import io
import json
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from model.crops.decode import decode_crop
from tests.forked import run_gmn
from tests.outside import encoded
from tests.service.conftest import files
from tests.service.watch_places import alerts, arm
from tests.waiting import eventually

MARK = b"Marke4711"
FORMATS = ("JPEG", "PNG", "WEBP")
DEFAULT = "/v1/galleries/default"


def marked(image, image_format="JPEG", orientation=6):
    """Return a drawn crop as a phone writes it that is held upright, with the mark in its texts."""
    exif = Image.Exif()
    exif[0x010F] = MARK.decode()
    exif[0x0112] = orientation
    exif.get_ifd(0x8825).update({1: "N", 2: (47.0, 22.0, 1.5), 29: MARK.decode()})
    lying = Image.open(io.BytesIO(image)).convert("RGB").transpose(Image.Transpose.ROTATE_90)
    more = {"exif": exif, "quality": 95}
    if image_format == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Serial", MARK.decode())
        more["pnginfo"] = texts
    if image_format == "WEBP":
        more["xmp"] = MARK
    file = encoded(lying, image_format, **more)
    return file if image_format == "WEBP" else file + MARK


def digest(content):
    return hashlib.sha256(content).hexdigest()


def unpacked(archive):
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        return [packed.read(name) for name in packed.namelist()]


def files_with_mark(folder):
    return [path for path in folder.rglob("*") if path.is_file() and MARK in path.read_bytes()]


def image_of(served, crop_id, gallery="default"):
    answer = served.http.get(f"/v1/galleries/{gallery}/crops/{crop_id}/image")
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.fixture
def sent(images):
    """Return a marked picture of one person in each format, by the format."""
    return {name: marked(images[number], name) for number, name in enumerate(FORMATS)}


@pytest.fixture(params=["in the record", "outside"])
def served(request, open_service, tmp_path):
    more = {"images_url": (tmp_path / "pictures").as_uri()} if request.param == "outside" else {}
    (tmp_path / "data").mkdir()
    return open_service(tmp_path / "data", housekeeping_seconds="0.2", **more)


@pytest.mark.promise("metadata")
def test_no_call_and_no_file_has_the_place_of_a_picture(served, sent, tmp_path):
    for name, file in sent.items():
        (crop_id,) = served.enrolled("default", file, identity=name)
        stored = image_of(served, crop_id)
        assert MARK not in stored
        assert np.array_equal(decode_crop(stored), decode_crop(file))
        assert Image.open(io.BytesIO(stored)).getexif()[0x0112] == 6
        crop = served.read(f"{DEFAULT}/crops/{crop_id}")
        assert (crop["sent_sha256"], crop["sha256"]) == (digest(file), digest(stored))
        # Who sends the same file again is told so.
        again = served.enroll("default", file, identity=name).json()["results"][0]
        assert (again["crop_id"], again["duplicate"]) == (crop_id, True)
        # What is stored, sent anew, is another file.
        named = {"Idempotency-Key": f"once-{name}"}
        for is_repeated in ("false", "true"):
            answer = served.http.post(
                f"{DEFAULT}/crops", files=files(file), data={"camera": "b"}, headers=named
            )
            assert answer.headers.get("Idempotent-Replayed", "false") == is_repeated
    # An import, a kept search with its picture, and an alert.
    job = served.import_zip("default", {"a.jpg": sent["JPEG"], "b.png": sent["PNG"]})
    assert served.ended_job(job)["state"] == "done"
    query_ids = []
    for file in sent.values():
        answer = served.query("default", file, keep="true", keep_picture="true").json()
        query_ids.append(answer["query_id"])
        kept = served.read(f"{DEFAULT}/queries/{answer['query_id']}")
        picture = served.http.get(f"{DEFAULT}/queries/{answer['query_id']}/image").content
        assert MARK not in picture
        (told,) = kept["files"]
        assert (told["sent_sha256"], told["sha256"]) == (digest(file), digest(picture))
    arm(served, "default")
    sighting = served.http.post(
        "/v1/sightings", files=files(sent["JPEG"]), data={"camera": "gate", "wait": "true"}
    )
    assert sighting.status_code == 200, sighting.text
    eventually(lambda: alerts(served))
    (alert,) = alerts(served)
    assert MARK not in served.http.get(f"/v1/alerts/{alert['alert_id']}/image").content
    # An export, and a case.
    assert not any(MARK in content for content in unpacked(served.export("default")))
    case = served.http.post(f"{DEFAULT}/cases", data={"name": "a case"}).json()["case_id"]
    for query_id in query_ids:
        held = served.http.put(f"{DEFAULT}/cases/{case}/queries/{query_id}", data={"note": ""})
        assert held.status_code == 200, held.text
    written = unpacked(served.http.get(f"{DEFAULT}/cases/{case}/export").content)
    assert not any(MARK in content for content in written)
    # The hash of the evidence that was sent is in its tables.
    assert any(digest(sent["PNG"]).encode() in content for content in written)
    served.stop()
    assert files_with_mark(tmp_path) == []


@pytest.mark.promise("metadata")
def test_what_was_kept_is_stripped_by_a_command_and_by_an_import(
    served, open_service, sent, tmp_path
):
    settings = {"data_dir": tmp_path / "data"}
    if (tmp_path / "pictures").exists():
        settings["images_url"] = (tmp_path / "pictures").as_uri()
    served.stop()
    keeping = open_service(**settings, keep_metadata="true")
    crop_ids = keeping.enrolled("default", *sent.values())
    for crop_id, file in zip(crop_ids, sent.values(), strict=True):
        assert image_of(keeping, crop_id) == file
    answer = keeping.query("default", sent["PNG"], keep="true", keep_picture="true").json()
    picture = f"{DEFAULT}/queries/{answer['query_id']}/image"
    assert keeping.http.get(picture).content == sent["PNG"]
    exported = keeping.export("default")
    assert any(MARK in content for content in unpacked(exported))
    (export,) = keeping.results(f"{DEFAULT}/exports")
    keeping.http.delete(f"{DEFAULT}/exports/{export['export_id']}").raise_for_status()
    keeping.stop()

    environment = {f"GMN_{name.upper()}": str(value) for name, value in settings.items()}
    command = ("store", "strip-metadata", "--json")
    counts = []
    for _ in range(2):
        ran = run_gmn(*command, env=environment)
        assert ran.returncode == 0, ran.stderr
        counts.append(json.loads(ran.stdout)["stripped"])
    assert counts == [4, 0]
    assert files_with_mark(tmp_path) == []
    verified = run_gmn("store", "verify", "--data-dir", str(settings["data_dir"]))
    assert verified.returncode == 0, verified.stdout

    again = open_service(**settings)
    for crop_id, file in zip(crop_ids, sent.values(), strict=True):
        stored = image_of(again, crop_id)
        assert np.array_equal(decode_crop(stored), decode_crop(file))
        crop = again.read(f"{DEFAULT}/crops/{crop_id}")
        assert (crop["sent_sha256"], crop["sha256"]) == (digest(file), digest(stored))
    assert MARK not in again.http.get(picture).content
    (told,) = again.read(f"{DEFAULT}/queries/{answer['query_id']}")["files"]
    assert told["sha256"] == digest(again.http.get(picture).content)
    # An export from before is imported without it, and its crops are known by the files sent.
    again.create("imported")
    job = again.import_archive("imported", exported)
    assert job["progress"]["landed"] == 3, job
    for crop_id, file in zip(crop_ids, sent.values(), strict=True):
        assert MARK not in image_of(again, crop_id, "imported")
        repeated = again.enroll("imported", file).json()["results"][0]
        assert (repeated["crop_id"], repeated["duplicate"]) == (crop_id, True)
    again.stop()
    assert files_with_mark(tmp_path) == []


def test_a_still_has_no_metadata(open_service, images):
    served = open_service()
    served.http.post("/v1/cameras/gate/heartbeat", data={"state": "ok"})
    assert served.http.post("/v1/cameras/gate/still").status_code == 202
    still = marked(images[0], orientation=1)
    sent = served.http.put("/v1/cameras/gate/still", files=files(still))
    assert sent.status_code == 204, sent.text
    assert MARK not in served.http.get("/v1/cameras/gate/still").content


def test_a_file_with_the_embedded_thumbnail_of_another_place_has_none(open_service, images):
    served = open_service()
    thumbnail = encoded(Image.new("RGB", (16, 16)), "JPEG", comment=MARK)
    jpeg = encoded(Image.open(io.BytesIO(images[0])).convert("RGB"), "JPEG")
    segment = struct.pack(">BBH", 0xFF, 0xE0, len(thumbnail) + 8) + b"JFXX\0\x10" + thumbnail
    (crop_id,) = served.enrolled("default", jpeg[:20] + segment + jpeg[20:])
    assert image_of(served, crop_id) == jpeg
