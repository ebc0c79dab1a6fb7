"""The client's calls on galleries, identities and snapshots, against a real service process."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest

from gmn_client import Client, Image, InvalidInput, Retries


@pytest.fixture
def filled(client: Client, drawn_crops) -> Client:
    """Return a client whose gallery holds every drawn crop."""
    client.enroll([Image(crop.png, "x.png", crop.identity, crop.camera) for crop in drawn_crops])
    return client


class LosesTheFirstAnswer(httpx.HTTPTransport):
    """Sends every request, and breaks off before the first answer is read."""

    lost = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if not self.lost:
            self.lost = True
            response.close()
            raise httpx.ReadError("broken off", request=request)
        return response


def test_an_enrolment_whose_answer_was_lost_happens_once_and_is_answered_as_it_was(
    service_url: str, gallery: str, drawn_crops
) -> None:
    quick = Retries(longest_wait=0.01)
    transport = LosesTheFirstAnswer()
    with Client(service_url, gallery=gallery, transport=transport, retries=quick) as client:
        enrolment = client.enroll([Image(drawn_crops[0].png, "a.png", "7")])
        assert enrolment.replayed
        assert not enrolment.results[0].duplicate
        assert client.gallery().crops == 1


def test_what_is_known_of_an_image_is_kept_and_found_by_its_own_id(
    client: Client, drawn_crops
) -> None:
    moment = datetime(2024, 5, 1, 12, tzinfo=UTC)
    labels = {"external_id": "cam1/77", "metadata": {"shift": "night", "since": moment}}
    known = Image(drawn_crops[0].png, "a.png", "007", "door", moment, **labels)
    _, second = client.enroll([known, Image(drawn_crops[1].png, "b.png")]).results
    (crop,) = client.crops(external_id="cam1/77")
    assert (crop.identity, crop.camera, crop.captured_at) == ("007", "door", moment)
    assert crop.metadata == {"shift": "night", "since": moment.isoformat()}
    assert (crop.content_type, len(crop.sha256 or "")) == ("image/png", 64)
    assert client.image(crop.crop_id) == drawn_crops[0].png
    unknown = client.crop(second.crop_id or "")
    assert (unknown.identity, unknown.camera, unknown.captured_at) == (None, None, None)
    with pytest.raises(InvalidInput, match="metadata: is not what JSON can hold"):
        client.enroll([Image(drawn_crops[2].png, metadata={"shift": {1, 2}})])


def test_a_gallery_is_made_changed_and_deleted(client: Client) -> None:
    made = client.create_gallery("lobby", retention_days=30, calibration="off")
    assert (made.retention_days, made.state, made.crops) == (30, "ready", 0)
    assert made.calibration is not None
    assert made.calibration.state == "off"
    changed = client.change_gallery("lobby", retention_days=0)
    assert changed.retention_days is None
    assert changed.calibration == made.calibration
    own = client.change_gallery("lobby", calibration="on").calibration
    assert own is not None
    assert own.state == "artefact"
    assert client.delete_gallery("lobby").removed == 0
    assert "lobby" not in {gallery.name for gallery in client.galleries()}


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_lead_elsewhere_is_sent_nowhere(client: Client, name: str) -> None:
    with pytest.raises(InvalidInput):
        client.delete_crop(name)
    with pytest.raises(InvalidInput):
        client.forget(name)
    with pytest.raises(InvalidInput):
        client.delete_gallery(name)
    assert client.gallery().name == client.gallery_name
