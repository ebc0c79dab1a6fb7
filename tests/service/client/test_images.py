"""The client takes each kind of image in every call that takes one."""

import asyncio
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from gmn_client import AsyncClient, Client, Image, InvalidInput, RequestRefused
from gmn_client.uploads import image_files
from model.crops.decode import decode_crop
from tests.outside import encoded


@pytest.fixture
def kinds(drawn_crops, tmp_path):
    """Return one picture of one person in every way it can be given."""
    path = tmp_path / "a.png"
    path.write_bytes(drawn_crops[0].png)
    with path.open("rb") as file:
        yield [
            str(path),
            path,
            drawn_crops[0].png,
            bytearray(drawn_crops[0].png),
            file,
            io.BytesIO(drawn_crops[0].png),
            PillowImage.open(path),
            PillowImage.open(path).convert("CMYK"),
            Image(path),
        ]


def test_enroll_query_and_pairs_take_every_kind_of_image(client, kinds):
    enrolled = client.enroll([*kinds[:-1], Image(kinds[0], identity="7", camera="east")])
    assert all(result.crop_id and result.problem is None for result in enrolled.results)
    calls = (lambda kind: client.query(kind).results[0], lambda kind: client.pairs(kind, kinds[0]))
    for kind, call in itertools.product(kinds, calls):
        if hasattr(kind, "seek"):
            kind.seek(0)
        assert call(kind).cosine == pytest.approx(1.0, abs=0.02)


def test_a_turned_picture_is_turned_as_its_file_would_be(client, drawn_crops):
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    turned = PillowImage.open(io.BytesIO(drawn_crops[0].png)).rotate(90, expand=True)
    file = encoded(turned, exif=exif)
    picture = PillowImage.open(io.BytesIO(file))
    assert client.pairs(picture, file).cosine == pytest.approx(1.0, abs=1e-4)
    assert client.pairs(picture, drawn_crops[0].png).cosine == pytest.approx(1.0, abs=0.02)


NO_IMAGES = [
    (7, "a PIL image"),
    (None, "a PIL image"),
    ([[0.0]], r"PIL\.Image\.fromarray"),
    (io.StringIO("text"), "open\\(path, 'rb'\\)"),
    (io.TextIOWrapper(io.BytesIO(b"\xff\xd8")), "opened as text"),
]


@pytest.mark.parametrize(("wrong", "remedy"), NO_IMAGES)
def test_what_is_no_image_is_refused_with_the_remedy(client, wrong, remedy):
    for call in (client.query, lambda image: client.enroll([image])):
        with pytest.raises(InvalidInput, match=remedy):
            call(wrong)


@pytest.mark.parametrize(
    ("call", "options"),
    [("enroll", {}), ("sight", {}), ("embeddings", {}), ("query", {"mode": "separate"})],
)
def test_images_are_given_one_by_one_or_in_a_list_to_every_call(client, drawn_crops, call, options):
    method = getattr(client, call)
    one, other = (crop.png for crop in drawn_crops[:2])
    client.enroll(one)
    for images in ((one, other), ([one, other],), (iter((one, other)),), (one, [other])):
        assert len(method(*images, **options).results) == 2
    with pytest.raises(InvalidInput, match=r"^list is no image; .*give"):
        method([[one, other]], **options)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_label_that_a_call_cannot_use_is_named_and_nothing_is_sent(kind):
    image = Image("no-such.png", identity="Ann", external_id="7")
    client = kind("http://127.0.0.1:9")

    def call(method, *images):
        answer = getattr(client, method)(*images)
        if kind is AsyncClient:
            asyncio.run(answer)

    for method, *images in (
        ("query", "a.png", image),
        ("query_galleries", image),
        ("embeddings", image),
        ("pairs", "a.png", image),
        ("sight", image),
        ("sight_frame", image, []),
    ):
        with pytest.raises(InvalidInput, match=f"identity, external_id: {method} cannot use"):
            call(method, *images)


def test_labels_of_a_frame_are_those_of_its_boxes(client, drawn_crops):
    frame = Image(drawn_crops[0].png, identity="Ann", camera="east", external_id="7")
    box = {"x": 0, "y": 0, "width": 48, "height": 96}
    client.enroll_frame(frame, [box, {**box, "height": 90, "identity": "Bob"}], camera="west")
    labels = [(crop.identity, crop.camera, crop.external_id) for crop in client.crops()]
    assert labels == [("Ann", "east", "7"), ("Bob", "east", "7")]


def test_every_call_with_an_answer_per_image_says_why_the_first_was_refused(client):
    for call in (
        lambda: client.query(b"no image", b"", mode="separate"),
        lambda: client.query(b"no image"),
        lambda: client.embeddings(b"no image", b""),
        lambda: client.pairs(b"no image", b""),
        lambda: client.query_galleries(
            b"no image", b"", mode="separate", galleries=[client.gallery_name]
        ),
        lambda: client.sight(b"no image"),
    ):
        with pytest.raises(RequestRefused) as refused:
            call()
        assert str(refused.value).count("the bytes are not a JPEG") == 1


def test_a_file_that_cannot_be_read_is_named_and_nothing_is_sent(client, drawn_crops, tmp_path):
    with pytest.raises(InvalidInput, match=r"none\.png: cannot be read"):
        client.enroll([drawn_crops[0].png, tmp_path / "none.png"])
    with pytest.raises(InvalidInput, match=r"image: cannot be read \(.*truncated"):
        client.enroll([PillowImage.open(io.BytesIO(drawn_crops[0].png[:-300]))])
    with pytest.raises(InvalidInput, match=r"no-such\.zip"):
        client.import_archive("no-such.zip")
    assert not list(client.crops())


def test_labels_that_are_integers_arrive_as_texts(client, drawn_crops):
    client.enroll([Image(drawn_crops[0].png, identity=7, camera=3, track=5)])
    (crop,) = client.crops()
    assert (crop.identity, crop.camera, crop.track) == ("7", "3", "5")


def test_the_documented_example_runs(service_url, drawn_crops, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[3] / "docs" / "service.md").read_text()
    example = page.partition("```python\n")[2].partition("```")[0]
    for number, name in enumerate(("unnamed", "dora", "photo")):
        (tmp_path / f"{name}.jpg").write_bytes(drawn_crops[number].png)
    monkeypatch.chdir(tmp_path)
    exec(example.replace("http://127.0.0.1:8000", service_url), {})
    dora, unnamed, verdict, *results = capsys.readouterr().out.splitlines()
    assert dora.endswith(" None")
    assert unnamed.endswith(" None")
    assert verdict in ("match", "uncertain", "no_match")
    assert len(results) == 2


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_a_picture_of_16_bit_grey_is_scaled_as_its_file_would_be(mode):
    grey = np.linspace(0, 65_535, 64 * 32).reshape(64, 32)
    file = encoded(PillowImage.fromarray(grey.astype("<u2")))
    stored = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    picture = PillowImage.fromarray(grey.astype(stored))
    assert picture.mode == mode
    [(_, (_, sent))] = image_files([picture])
    expected = decode_crop(file)
    assert np.array_equal(decode_crop(sent), expected)
    assert np.unique(expected).size > 200
