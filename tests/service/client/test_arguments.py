"""Wrong arguments of the client are refused before anything is sent."""

from datetime import datetime

import pytest

from gmn_client import AsyncClient, Client, Image, InvalidInput, ServiceUnreachable


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda client: client.enroll([b"a"], identity="Ann"),
            r"^enroll: got an unexpected keyword argument 'identity'; a label belongs to its image",
        ),
        (
            lambda client: client.enroll([b"a"], labels="Ann"),
            r"^enroll: got an unexpected keyword argument 'labels'; its arguments are images,",
        ),
        (lambda client: client.pairs(b"a"), "^pairs: missing a required argument: 'second'"),
        (lambda client: client.crop("c", "g", "h"), "^crop: too many positional arguments"),
        (lambda client: client.galleries(all=True), "^galleries: got an unexpected keyword"),
        (lambda client: client.watch_job(), "^watch_job: missing a required argument: 'job_id'"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_sent(kind, call, said):
    with pytest.raises(InvalidInput, match=said):
        call(kind("http://127.0.0.1:9"))


def test_a_gallery_in_the_place_of_an_image_is_named_before_anything_is_sent():
    said = r"^enroll: 'hall' is no image file; a gallery is given by name, .*gallery='hall'"
    with Client("http://127.0.0.1:9") as client, pytest.raises(InvalidInput, match=said):
        client.enroll([b"a"], "hall")


NAIVE = datetime(2026, 3, 1, 9, 30)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda client: client.sight(b"a", captured_at=NAIVE), "captured_at"),
        (lambda client: client.sight(Image(b"a", captured_at=NAIVE)), "captured_at"),
        (lambda client: client.enroll([Image(b"a", captured_at=NAIVE)]), "captured_at"),
        (lambda client: client.query(b"a", captured_after=NAIVE), "captured_after"),
        (lambda client: list(client.crops(captured_before=NAIVE)), "captured_before"),
        (lambda client: client.change_crop("c", captured_at=NAIVE), "captured_at"),
        (
            lambda client: client.enroll_frame(
                b"a", [{"x": 0, "y": 0, "width": 9, "height": 9, "captured_at": NAIVE}]
            ),
            "boxes",
        ),
    ],
)
def test_a_time_without_a_zone_is_refused_before_anything_is_sent(call, field):
    said = rf"^{field}: 2026-03-01 09:30:00 has no time zone; give it one"
    with Client("http://127.0.0.1:9") as client, pytest.raises(InvalidInput, match=said):
        call(client)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:8000", "localhost:8000", "service.example", "", "http://", "ftp://a", "/"],
)
def test_an_address_without_http_is_refused_at_once(kind, address):
    with pytest.raises(ServiceUnreachable, match=r"not an address .* http://127\.0\.0\.1:8000"):
        kind(address)
