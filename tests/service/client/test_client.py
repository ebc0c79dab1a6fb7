"""Every call of the client, against a real service process."""

import asyncio
import io
import threading
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from gmn_client import AsyncClient, Client, Image, InvalidInput, RequestRefused
from gmn_client.models import GalleriesAnswer, GalleryAnswer, RefusedGallery, RefusedImage
from tests.outside import encoded


async def test_several_galleries_are_searched_at_once(client, service_url, gallery, drawn_crops):
    enrolled = client.enroll([Image(crop.png) for crop in drawn_crops[:12]]).results
    other = f"{gallery}-other"
    client.create_gallery(other)
    client.enroll([crop.png for crop in drawn_crops[12:]], gallery=other)
    names = [gallery, other]
    image = drawn_crops[0].png
    asked = {"galleries": [*names, "gone"], "top_k": 24}
    answer = client.query_galleries(image, **asked)
    assert {row.gallery for row in answer.results} == {*names}
    *searched, gone = answer.galleries
    assert all(isinstance(entry, GalleryAnswer) for entry in searched)
    assert isinstance(gone, RefusedGallery)
    assert gone.problem.code == "unknown_gallery"
    embedded = client.embeddings(image)
    for vector in (embedded.results[0].embedding, np.array(embedded.results[0].embedding)):
        found = client.query_galleries(
            galleries=names, vector=vector, embedding_fingerprint=embedded.embedding_fingerprint
        )
        assert found.results[0].crop_id == enrolled[0].crop_id

    async def ask():
        async with AsyncClient(service_url) as asking:
            return await asking.query_galleries(image, **asked)

    assert (await ask()).results == answer.results
    with pytest.raises(RequestRefused, match="keep: "):
        client.query_galleries(image, galleries=names, keep=True)
    asked |= {"min_versions": {gallery: client.gallery().version}}
    alone, refused = client.query_galleries(image, b"no image", mode="separate", **asked).results
    assert isinstance(alone, GalleriesAnswer)
    assert alone.results == answer.results
    assert isinstance(refused, RefusedImage)


def test_an_enrolment_of_nothing_but_broken_images_answers_each(client):
    enrolment = client.enroll([Image(b"no image", "a.png"), Image(b"", "b.png")])
    assert all(result.problem is not None for result in enrolment.results)


def test_any_number_of_images_is_enrolled_in_their_order(client, drawn_crops):
    images = [
        Image(drawn_crops[number % len(drawn_crops)].png, identity=f"p{number:03d}")
        for number in range(150)
    ]
    done = []
    enrolled = client.enroll(iter(images), idempotency_key="night-1", progress=done.append)
    assert [result.identity for result in enrolled.results] == [image.identity for image in images]
    assert done == [128, 150]
    again = client.enroll(images, idempotency_key="night-1")
    assert again.replayed
    assert again.results == enrolled.results
    with pytest.raises(InvalidInput, match="idempotency_key"):
        client.enroll(images, idempotency_key="night 1")
    assert client.gallery().crops == len(images)
    assert again.gallery_version == client.gallery().version


def test_a_folder_of_large_pictures_is_enrolled_in_batches_of_what_a_request_may_cost(start):
    served = start(max_cost=24)
    pictures = []
    for number in range(9):
        picture = encoded(PIL.Image.new("RGB", (1000, 2000), (number, 90, 60)))
        pictures.append(Image(picture, f"{number}.png", f"person {number}"))
    progress = []
    with Client(str(served.http.base_url)) as client:
        enrolled = client.enroll(pictures, progress=progress.append)
        assert [crop.identity for crop in enrolled.results] == [
            picture.identity for picture in pictures
        ]
        assert client.gallery("default").crops == 9
    # A picture costs 2.5 of 12: nine were refused, and are halved.
    assert progress == [4, 8, 9]


async def test_the_asynchronous_client_does_the_same(service_url, gallery, drawn_crops):
    async with AsyncClient(service_url, gallery=gallery) as client:
        images = [Image(crop.png, "x.png", crop.identity) for crop in drawn_crops]
        await client.enroll(images)
        queries = [client.query(crop.png, top_k=1) for crop in drawn_crops]
        rankings = await asyncio.gather(*queries)
        found = [ranking.results[0].identity for ranking in rankings]
        assert found == [crop.identity for crop in drawn_crops]
        assert len([crop async for crop in client.crops()]) == len(drawn_crops)
        many = await client.enroll([b"", *(crop.png for crop in drawn_crops)] * 6)
        assert len(many.results) == 6 * (1 + len(drawn_crops))
        assert sum(result.problem is not None for result in many.results) == 6


async def test_the_asynchronous_client_reads_no_file_on_the_event_loop(
    service_url, gallery, drawn_crops, tmp_path, monkeypatch
):
    image = tmp_path / "a.png"
    archive = tmp_path / "a.zip"
    image.write_bytes(drawn_crops[0].png)
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(image, "a.png")
    readers = set()

    class Watched(io.FileIO):
        def read(self, size=-1):
            readers.add(threading.current_thread())
            return super().read(size)

        def readall(self):
            readers.add(threading.current_thread())
            return super().readall()

    monkeypatch.setattr(Path, "open", lambda path, *_, **__: Watched(str(path)))
    async with AsyncClient(service_url, gallery=gallery) as client:
        await client.enroll([image])
        await client.query(image)
        job = await client.import_archive(archive)
        told = [state async for state in client.watch_job(job.job_id)]
        assert told[-1] == await client.wait_for_job(job.job_id)
        assert told[-1].progress.duplicates == 1
        assert await client.job_problems(job.job_id) == []
        assert told[-1] in await client.jobs(gallery)
    assert readers
    assert threading.main_thread() not in readers


def test_what_is_known_of_an_image_is_kept_and_found_by_its_own_id(client, drawn_crops):
    moment = datetime(2024, 5, 1, 12, tzinfo=UTC)
    labels = {"external_id": "cam1/77", "metadata": {"shift": "night", "since": moment}}
    client.enroll([Image(drawn_crops[0].png, "a.png", "007", "door", moment, **labels)])
    (crop,) = client.crops(external_id="cam1/77")
    assert (crop.identity, crop.camera, crop.captured_at) == ("007", "door", moment)
    assert crop.metadata == {"shift": "night", "since": moment.isoformat()}
    assert client.image(crop.crop_id) == drawn_crops[0].png
    with pytest.raises(InvalidInput, match="metadata: is not what JSON can hold"):
        client.enroll([Image(drawn_crops[2].png, metadata={"shift": {1, 2}})])
    box = {"x": np.int64(0), "y": 0, "width": 32, "height": 64}
    with pytest.raises(InvalidInput, match=r"boxes: .*int64; give plain numbers"):
        client.enroll_frame(drawn_crops[2].png, [box])


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_lead_elsewhere_is_sent_nowhere(client, name):
    for call in (client.delete_crop, client.forget, client.delete_gallery):
        with pytest.raises(InvalidInput):
            call(name)
    assert client.gallery().name == client.gallery_name
