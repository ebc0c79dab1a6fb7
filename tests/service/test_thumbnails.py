"""Small pictures: of a size, asked for again before each use, and gone with their crop."""

import io

import numpy as np
import pytest
from PIL import Image

from model.crops.frames import png_of
from service.engine.images import PicturePolicy
from service.http.thumbnails import thumbnail
from tests.outside import encoded, problem, refused_fields


@pytest.fixture
def enrolled(served, gallery, images):
    (crop_id,) = served.enrolled(gallery, images[0], identity="Ann")
    return f"/v1/galleries/{gallery}/crops/{crop_id}"


def test_a_small_picture_is_a_jpeg_of_that_width(client, served, enrolled, images):
    whole = Image.open(io.BytesIO(images[0]))
    answer = served.http.get(f"{enrolled}/image", params={"width": 20})
    small = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "private, no-cache"
    assert (small.format, small.size) == ("JPEG", (20, 20 * whole.height // whole.width))
    # It is never enlarged.
    large = client.image(enrolled.rpartition("/")[2], width=512)
    assert Image.open(io.BytesIO(large)).size == whole.size


def test_a_small_picture_that_the_client_has_is_not_sent_again_until_it_is_deleted(
    served, enrolled
):
    url = f"{enrolled}/image?width=64"
    tag = served.http.get(url).headers["etag"]
    assert served.http.get(f"{enrolled}/image?width=65").headers["etag"] != tag
    for held in (tag, f"W/{tag}", f'"other", {tag}'):
        again = served.http.get(url, headers={"If-None-Match": held})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert served.http.get(url, headers={"If-None-Match": '"other"'}).status_code == 200
    served.http.delete(enrolled)
    gone = served.http.get(url, headers={"If-None-Match": tag})
    assert problem(gone) == (404, "unknown_crop")


@pytest.mark.parametrize("width", ["15", "513", "wide"])
def test_a_width_out_of_bounds_is_named(served, enrolled, width):
    answer = served.http.get(f"{enrolled}/image", params={"width": width})
    assert refused_fields(answer) == {"width"}


def test_a_small_picture_is_upright_without_metadata_and_no_longer_than_a_jpeg_can_be():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x8298] = "by Ann"
    turned = encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    small = Image.open(io.BytesIO(thumbnail(turned, 16)))
    assert small.size == (16, 32)
    assert not small.getexif()
    long = encoded(Image.new("RGB", (8, 70_000)))
    assert Image.open(io.BytesIO(thumbnail(long, 16))).height == 128


def test_a_kept_picture_is_small_however_wide_the_image():
    noise = np.random.default_rng(0).integers(0, 256, (8, 70_000, 3), np.uint8)
    wide = Image.fromarray(noise)
    kept = PicturePolicy("original", keep_metadata=False, max_original_bytes=256 * 1024).prepare(
        png_of(wide), wide, None
    )
    assert wide.size == (70_000, 8)
    picture = Image.open(io.BytesIO(kept.picture))
    assert (picture.format, picture.size) == ("JPEG", (1024, 1))
