"""Features of `gmn embed` in a gallery: they rank as images do, and wrong files are refused."""

import contextlib
import io
import json

import httpx2
import numpy as np
import pytest

from model.artefact import load_artefact
from model.torch_runtime import TorchRuntime
from tests.outside import problem, zip_of
from tests.service.client.conftest import run_gmn
from tests.waiting import eventually
from training.datasets.record import CropRecord
from training.evaluation.offline import Network, Part, embed_to_file, embed_to_folder

pytestmark = pytest.mark.promise("imported-features")

PATH = "crops/{:02d}.png"


@contextlib.contextmanager
def no_bar(text, total):
    yield lambda _: None


@pytest.fixture(scope="module")
def network(tiny_artefact):
    artefact = load_artefact(tiny_artefact)
    embed = TorchRuntime(artefact, "float32").embed
    description = artefact.description
    return Network(description.preprocessing, embed, description.embedding_fingerprint)


@pytest.fixture(scope="module")
def records(drawn_crops, tmp_path_factory):
    """Return the drawn people as a data set names them."""
    folder = tmp_path_factory.mktemp("people")
    records = []
    for number, crop in enumerate(drawn_crops):
        path = folder / f"{number}.png"
        path.write_bytes(crop.png)
        labels = (PATH.format(number), "drawn", crop.identity, crop.camera, "drawn", path)
        records.append(CropRecord(*labels))
    return records


@pytest.fixture(scope="module")
def shard(network, records, tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "features.npz"
    embed_to_file(network, records, path, no_bar)
    return path


@pytest.fixture(scope="module")
def arrays(shard):
    with np.load(shard) as stored:
        return dict(stored)


def send(served, gallery, content, **fields):
    sent = {"archive": ("features.npz", content)}
    answer = served.http.post(f"/v1/galleries/{gallery}/imports", files=sent, data=fields)
    assert answer.status_code == 202, answer.text
    return served.ended_job(answer.json())


def packed(arrays, save=np.savez, **changed):
    file = io.BytesIO()
    save(file, **{**arrays, **changed})
    return file.getvalue()


def crops_of(served, gallery):
    return served.results(f"/v1/galleries/{gallery}/crops", params={"limit": 1000})


def test_a_gallery_of_features_ranks_as_that_of_the_images_does(
    served, filled, gallery, shard, drawn_crops
):
    computed = served.create(f"computed.{gallery[-50:]}")
    job = send(served, computed, shard.read_bytes())
    assert (job["state"], job["detail"], job["problems"]) == ("done", None, 0)
    counts = {"total": 24, "done": 24, "landed": 24, "duplicates": 0, "refused": 0, "ignored": 0}
    assert job["progress"] == counts
    for scoring in ("cosine", "mnet"):
        asked = {"top_k": "24", "scoring": scoring, "rerank_depth": "24"}
        for crop in drawn_crops[:5]:
            images, features = (
                served.search(name, crop.png, **asked) for name in (filled, computed)
            )
            for name in ("identity", "camera", "verdict"):
                assert [crop[name] for crop in features] == [crop[name] for crop in images]
            for name in ("cosine", "probability"):
                expected = pytest.approx([crop[name] for crop in images], abs=1e-5)
                assert [crop[name] for crop in features] == expected


def test_of_features_labels_are_kept_and_no_picture(served, gallery, shard, drawn_crops):
    send(served, gallery, shard.read_bytes())
    found = sorted(crops_of(served, gallery), key=lambda crop: crop["external_id"])
    assert [(crop["external_id"], crop["identity"], crop["camera"]) for crop in found] == [
        (PATH.format(n), crop.identity, crop.camera) for n, crop in enumerate(drawn_crops)
    ]
    assert {crop["image_url"] for crop in found} == {None}
    picture = served.http.get(f"/v1/galleries/{gallery}/crops/{found[0]['crop_id']}/image")
    assert problem(picture) == (404, "unknown_picture")


def test_a_crop_is_there_once_whether_it_came_as_image_or_as_features(
    served, gallery, shard, drawn_crops
):
    first = drawn_crops[:1]
    ids = served.fill(gallery, first)
    for landed in (23, 0):
        progress = send(served, gallery, shard.read_bytes())["progress"]
        assert (progress["landed"], progress["duplicates"]) == (landed, 24 - landed)
    assert served.fill(gallery, first) == ids
    assert len(crops_of(served, gallery)) == 24


@pytest.mark.parametrize(
    ("changed", "reason", "remedy"),
    [
        (
            {"embedding_fingerprint": np.array("0" * 64)},
            "and gallery '{}' takes those of",
            "run gmn embed with that artefact",
        ),
        (
            {"features": np.ones((24, 512), np.float32)},
            "vector 1 has 512 numbers, and those of gallery '{}' (tiny.safetensors) have 1,280",
            "send each vector whole, as it was answered or as gmn embed wrote it",
        ),
    ],
    ids=["another embedder", "another dimension"],
)
def test_features_of_another_embedder_are_refused_with_the_remedy(
    served, gallery, arrays, changed, reason, remedy
):
    job = send(served, gallery, packed(arrays, **changed))
    assert job["state"] == "failed"
    assert reason.format(gallery) in job["detail"]
    assert remedy in job["detail"]
    assert crops_of(served, gallery) == []


def test_a_crop_from_the_future_is_a_line_of_the_report_and_the_rest_lands(served, gallery, arrays):
    moments = ["2026-03-01T09:30:00Z"] * 23 + ["2999-01-01T00:00:00Z"]
    job = send(served, gallery, packed(arrays, captured_at=np.array(moments)))
    assert (job["state"], job["progress"]["landed"], job["problems"]) == ("done", 23, 1)
    report = served.http.get(f"/v1/jobs/{job['job_id']}/report").text
    assert f"23,{PATH.format(23)},captured_in_future" in report
    assert crops_of(served, gallery)[0]["captured_at"] == "2026-03-01T09:30:00Z"


def _without(name):
    return lambda arrays: packed({key: array for key, array in arrays.items() if key != name})


def _with(row=3, **changed):
    def damaged(arrays):
        (name, value), *_ = changed.items()
        array = arrays[name].astype(object if isinstance(value, str) else None)
        array[row] = value
        return packed(arrays, **{name: array.astype("U") if isinstance(value, str) else array})

    return damaged


def _announcing(shape):
    """Return a file whose features are far fewer than their header announces."""

    def damaged(arrays):
        member = io.BytesIO()
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        return zip_of({"features.npy": member.getvalue()})

    return damaged


DAMAGED = {
    "cut off": (lambda arrays: packed(arrays)[:-100], "is not a readable .npz"),
    "announces terabytes": (_announcing((10**9, 1280)), "is not a readable .npz"),
    "negative": (_announcing((-1, 1280)), "is not a readable .npz"),
    "compressed": (lambda arrays: packed(arrays, np.savez_compressed), "is compressed"),
    "pickled": (
        lambda arrays: packed(arrays, identities=np.array([{}] * 24, object)),
        "is not a readable .npz",
    ),
    "not finite": (_with(features=np.nan), "not finite"),
    "no length": (_with(features=0.0), "is zero or not finite"),
    "beyond float32's squares": (_with(features=1e30), "not finite"),
    "no cameras": (_without("cameras"), "lacks cameras"),
    "no checksums": (_without("sha256"), "lacks sha256"),
    "fewer identities": (lambda arrays: packed(arrays, identities=np.array(["1"])), "identities"),
    "a checksum that is none": (_with(sha256="ABC"), "invalid sha256"),
    "no time": (_with(captured_at="yesterday"), "crop 3: captured_at: … is not an RFC 3339"),
    "a name of two lines": (_with(identities="a\nb"), "crop 3: identity: …"),
    "a camera with a comma": (_with(cameras="a,b"), "crop 3: camera: …"),
    "a long path": (_with(paths="a" * 300), "crop 3: external_id: …"),
    "too large": (lambda arrays: packed(arrays, more=np.zeros(3_000_000, "u1")), "over the limit"),
}


@pytest.mark.promise("hostile-files")
@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_no_feature_file_fails_with_what_to_do(served, gallery, arrays, damage):
    spoil, named = DAMAGED[damage]
    job = send(served, gallery, spoil(arrays))
    assert job["state"] == "failed"
    assert job["detail"].startswith("archive: ")
    assert named in job["detail"]
    assert not any(secret in job["detail"] for secret in ("yesterday", "/imports/"))
    assert crops_of(served, gallery) == []


def test_labels_for_all_are_refused_beside_features(served, gallery, shard):
    job = send(served, gallery, shard.read_bytes(), camera="east")
    assert (job["state"], job["detail"].split(":")[0]) == ("failed", "camera")


def test_gmn_enrolls_a_folder_of_shards_and_names_the_missing_one(
    served, gallery, network, records, arrays, tmp_path, monkeypatch
):
    monkeypatch.setattr("training.evaluation.offline.SHARD_CROPS", 7)
    monkeypatch.setattr("training.evaluation.offline.BATCH_CROPS", 7)
    embed_to_folder(network, records, tmp_path / "shards", Part(), no_bar)
    url = str(served.http.base_url)
    done = run_gmn(url, gallery, "enroll", str(tmp_path / "shards"), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["sent"], summary["enrolled"], summary["duplicates"]) == (24, 24, 0)
    other = served.create(f"{gallery[:40]}.other")
    damaged = tmp_path / "shards" / "shard-00001-of-00004.npz"
    damaged.write_bytes(_with(features=np.nan)(arrays))
    failed = run_gmn(url, other, "enroll", str(tmp_path / "shards"), "--json")
    assert failed.returncode == 1, failed.stderr
    summary = json.loads(failed.stdout)
    jobs = served.results("/v1/jobs", params={"gallery": other})
    assert {served.ended_job(job)["state"] for job in jobs} == {"done", "failed"}
    assert (summary["state"], summary["enrolled"]) == ("failed", len(crops_of(served, other)))
    (tmp_path / "shards" / "shard-00002-of-00004.npz").unlink()
    refused = run_gmn(url, gallery, "enroll", str(tmp_path / "shards"))
    assert refused.returncode == 2
    assert "1 of 4 shards are missing, the first is shard-00002-of-00004" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", ["import.batch-landed", "job.files-removed"])
def test_an_import_of_features_that_was_killed_goes_on_and_counts_each_crop_once(
    start, shard, tmp_path, failpoint
):
    killed = start(tmp_path, failpoint=failpoint)
    with contextlib.suppress(httpx2.TransportError):
        content = {"archive": ("features.npz", shard.read_bytes())}
        killed.http.post("/v1/galleries/default/imports", files=content)
    killed.process.wait(30)
    killed.kill()
    again = start(tmp_path)
    (job,) = again.results("/v1/jobs")
    job = again.ended_job(job, 30)
    assert (job["state"], job["progress"]["landed"]) == ("done", 24)
    assert again.read("/v1/galleries/default")["crops"] == 24
    # They go after the job has ended.
    eventually(lambda: not list((tmp_path / "imports").iterdir()))
