"""What a kept search and a case prove: files, digests, who decided, and the verdict of today."""

import hashlib
import io
import re
import struct
import zipfile
import zlib

import pytest

from gmn_client import Client, Image, RequestRefused
from gmn_client.models import Box
from tests.service.http.conftest import make_key

pytestmark = pytest.mark.promise("kept-searches")
KEPT = {"keep": True, "keep_picture": True}


@pytest.fixture
def client(served, filled):
    with served.connect(gallery=filled) as client:
        yield client


def digest(content):
    return hashlib.sha256(content).hexdigest()


def page_of(client, *query_ids):
    """Return the page of the export of a case with these searches, and the archive."""
    case_id = client.create_case("Bag at gate 3").case_id
    for query_id in query_ids:
        client.hold_search(case_id, query_id)
    archive = zipfile.ZipFile(io.BytesIO(client.export_case(case_id)))
    return archive.read("index.html").decode(), archive


def test_a_kept_search_has_the_digest_of_each_file_and_its_name_if_its_picture_is_kept(
    client, images
):
    named = Image(images[0], name="Bahnhof Zürich\u202e.png")
    opened = client.kept_search(client.query(named, **KEPT).query_id)
    (file,) = opened.files
    assert (file.sha256, file.name, file.box) == (digest(images[0]), "Bahnhof Zürich.png", None)
    (unnamed,) = client.kept_search(client.query(named, keep=True).query_id).files
    assert (unnamed.sha256, unnamed.name) == (digest(images[0]), None)
    long = Image(images[0], name="x" * 500)
    (cut,) = client.kept_search(client.query(long, **KEPT).query_id).files
    assert cut.name == "x" * 128
    assert client.kept_search(client.query_like(crop_of(client), keep=True).query_id).files == []


def read_from_the_beginning(content):
    """Return the files of a ZIP by the headers before them, as programs that read a stream do."""
    read = {}
    at = 0
    while content[at : at + 4] == b"PK\x03\x04":
        fields = struct.unpack("<4x5H3I2H", content[at : at + 30])
        _, flags, method, _, _, checksum, size, unpacked_size, name_length, extra_length = fields
        assert (flags & 8, method) == (0, zipfile.ZIP_STORED)
        assert size == unpacked_size
        name_end = at + 30 + name_length
        begin = name_end + extra_length
        file = content[begin : begin + size]
        assert zlib.crc32(file) == checksum
        read[content[at + 30 : name_end].decode()] = file
        at = begin + size
    assert content[at : at + 4] == b"PK\x01\x02"
    return read


def test_an_export_can_be_read_from_its_beginning_without_its_end(client, images):
    case_id = client.create_case("Bag at gate 3").case_id
    for image in images[:2]:
        client.hold_search(case_id, client.query(image, **KEPT).query_id)
    content = client.export_case(case_id)
    read = read_from_the_beginning(content)
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert read == {name: archive.read(name) for name in archive.namelist()}
    assert archive.testzip() is None
    lines = read.pop("SHA256SUMS").decode().splitlines()
    assert lines == [f"{digest(file)}  {name}" for name, file in read.items()]
    assert sum(name.startswith("pictures/") for name in read) > 2


def crop_of(client):
    return next(iter(client.crops())).crop_id


def test_each_search_of_several_has_its_own_file_and_one_of_boxes_their_frame(client, images):
    first, _, last = client.query(
        images[0], b"no image", images[4], mode="separate", keep=True
    ).results
    for answer, image in ((first, images[0]), (last, images[4])):
        assert [file.sha256 for file in client.kept_search(answer.query_id).files] == [
            digest(image)
        ]
    box = {"x": 4, "y": 0, "width": 40, "height": 90}
    answer = client.query(images[0], boxes=[box], **KEPT)
    (file,) = client.kept_search(answer.query_id).files
    assert (file.sha256, file.box) == (digest(images[0]), Box(**box))


def test_a_decision_has_the_note_of_its_key_at_that_time_and_the_digest_of_the_picture(
    start, tmp_path, images
):
    data = tmp_path / "data"
    key = make_key(data, "--scope", "admin", "--note", "Inspector Hill")
    with Client(str(start(data).http.base_url), key) as client:
        client.enroll(images[:2])
        answer = client.query(images[0], **KEPT)
        crop_id = answer.results[0].crop_id
        client.review(answer.query_id, crop_id, decision="confirmed")
        (review,) = client.kept_search(answer.query_id).reviews
        assert (review.key_note, review.sha256) == ("Inspector Hill", client.crop(crop_id).sha256)
        (listed,) = client.reviews()
        assert (listed.key_note, listed.sha256) == (review.key_note, review.sha256)
        page, _ = page_of(client, answer.query_id)
        assert re.search(r"Confirmed by\s+key \w+\s+\(Inspector Hill\), \d{4}-", page)


def test_a_kept_search_is_repeated_and_the_repetition_is_neither_kept_nor_learnt_from(
    client, served, images
):
    searches = {
        "picture": client.query(images[0], purpose="case 7", cameras=["east"], **KEPT),
        "crop": client.query_like(crop_of(client), keep=True),
        "crops": client.query(crop_id=[crop.crop_id for crop in client.crops()][:2], keep=True),
    }
    for name, answer in searches.items():
        today = client.repeat_kept_search(answer.query_id)
        assert today.query_id is None, name
        found = {result.crop_id: result.probability for result in today.results}
        for result in answer.results:
            assert found[result.crop_id] == pytest.approx(result.probability, abs=1e-5), name
    assert len(list(client.kept_searches())) == len(searches)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"keep": True}, "was not kept"),
        ({"identities": ["0000"], **KEPT}, "identities of it are not kept"),
    ],
)
def test_a_search_of_which_not_all_is_kept_is_not_repeated(client, images, fields, reason):
    query_id = client.query(images[0], **fields).query_id
    with pytest.raises(RequestRefused, match=reason):
        client.repeat_kept_search(query_id)


def test_searches_by_several_pictures_and_by_a_vector_are_not_repeated(client, images):
    several = client.query(*images[:2], **KEPT)
    with pytest.raises(RequestRefused, match="by 2 pictures cannot be repeated"):
        client.repeat_kept_search(several.query_id)
    embedded = client.embeddings(images[0])
    (result,) = embedded.results
    by_vector = client.query_vector(result.embedding, embedded.embedding_fingerprint, keep=True)
    with pytest.raises(RequestRefused, match="by a vector cannot be repeated"):
        client.repeat_kept_search(by_vector.query_id)


def test_the_page_of_a_case_has_both_pictures_and_what_proves_them(client, images):
    answer = client.query(Image(images[0], name="gate 3.png"), camera="gate", **KEPT)
    first = answer.results[0]
    client.review(answer.query_id, first.crop_id, decision="confirmed")
    like = client.query_like(first.crop_id, keep=True)
    client.review(like.query_id, like.results[0].crop_id, decision="confirmed")
    page, archive = page_of(client, answer.query_id, like.query_id)
    pairs = [part.partition("<h3>")[0] for part in page.split('<div class="pair">')[1:]]
    assert [pair.count("<img ") for pair in pairs] == [2, 2]
    by_picture, by_crop = pairs
    known = client.crop(first.crop_id)
    people = len(list(client.identities()))
    assert f"covered {answer.crops_searched} crops and\n{people} people with a name" in page
    for text in (
        *("File gate 3.png", digest(images[0]), "gate,\ntime unknown"),
        *(f"Crop {first.crop_id}", known.sha256, f"{known.camera}, "),
        *(f"Then: {first.verdict}", "Today: the same", "Confirmed by"),
    ):
        assert text in by_picture
    assert f"Crop {first.crop_id}" in by_crop
    assert known.sha256 in by_crop
    pictures = re.findall(r'src="([^"]*)"', page)
    assert archive.read(pictures[0]) == images[0]


def test_the_page_of_a_case_tells_the_verdict_of_today_if_the_thresholds_have_changed(
    served, gallery, images
):
    with served.connect(gallery=gallery) as client:
        client.enroll(images[:3])
        # Among few people the thresholds are other ones after every change.
        answer = client.query(images[0], purpose="case 7", **KEPT)
        crop_id = answer.results[0].crop_id
        client.review(answer.query_id, crop_id, decision="confirmed")
        without_picture = client.query(images[0], keep=True).query_id
        before, _ = page_of(client, answer.query_id, without_picture)
        assert before.count("by thresholds that are the same") == 2
        client.enroll(images[3:])
        page, archive = page_of(client, answer.query_id, without_picture)
        assert page.count("of the same search today: <strong>") == 1
        assert page.count("as the search cannot be repeated") == 1
        today = client.repeat_kept_search(answer.query_id)
        result = next(result for result in today.results if result.crop_id == crop_id)
        probability = f"{100 * result.probability:.1f}%"
        assert re.search(rf"Today: {result.verdict.replace('_', ' ')},\s+{probability}", page)
        assert ",verdict_today," in archive.read("results.csv").decode()
