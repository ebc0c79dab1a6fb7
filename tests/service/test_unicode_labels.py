"""Labels in several Unicode forms are one label, in every call."""

import csv
import io
import unicodedata

import pytest

from gmn_client import Client
from tests.outside import problem
from tests.service.conftest import files
from tests.service.watch_places import alerts, arm_new

JOSE = "José"
# A keyboard of Vietnamese writes a base and a tone: this is neither NFC nor NFD.
MIXED = "Nguy\u00ea\u0303n"
GATE = "Südtor"
FORMS = ("NFC", "NFD")


def in_form(form, text):
    return unicodedata.normalize(form, text)


def nfd(text):
    return in_form("NFD", text)


def nfc(text):
    return in_form("NFC", text)


def identities(served, gallery, **asked):
    found = served.results(f"/v1/galleries/{gallery}/identities", params=asked)
    return [person["identity"] for person in found]


def crops_of(served, gallery, **asked):
    return [
        crop["crop_id"] for crop in served.results(f"/v1/galleries/{gallery}/crops", params=asked)
    ]


def test_a_name_in_two_forms_is_one_person_with_one_camera_and_track(served, gallery, images):
    for image, form in zip(images, FORMS, strict=False):
        labels = {"identity": JOSE, "camera": GATE, "track": "Spür 1"}
        served.enrolled(gallery, image, **{k: in_form(form, v) for k, v in labels.items()})
    assert identities(served, gallery) == [JOSE]
    (track,) = served.results(f"/v1/galleries/{gallery}/tracks")
    assert (track["track"], track["camera"], track["crops"]) == ("Spür 1", GATE, 2)
    for form in FORMS:
        labels = {"identity": JOSE, "camera": GATE, "track": "Spür 1"}
        for name, text in labels.items():
            assert len(crops_of(served, gallery, **{name: in_form(form, text)})) == 2
        assert identities(served, gallery, query=in_form(form, "josé")) == [JOSE]
        sent = in_form(form, GATE)
        assert len(served.search(gallery, images[2], cameras=sent)) == 2
        assert served.search(gallery, images[2], exclude_cameras=sent) == []
        assert len(served.search(gallery, images[2], identities=in_form(form, JOSE))) == 2
        assert len(served.search(gallery, track=in_form(form, "Spür 1"), camera=sent)) == 0
        tracks = served.results(f"/v1/galleries/{gallery}/tracks", params={"camera": sent})
        assert len(tracks) == 1


def test_the_same_crop_under_another_form_of_its_labels_is_a_duplicate(served, gallery, images):
    labels = {"identity": JOSE, "camera": GATE, "external_id": "Ü 1"}
    first = served.enrolled(gallery, images[0], **labels)
    again = served.enroll(
        gallery, images[0], **{name: nfd(text) for name, text in labels.items()}
    ).json()["results"][0]
    assert (again["crop_id"], again["duplicate"], again["warnings"]) == (*first, True, [])


def test_an_external_id_is_returned_as_sent_and_found_in_any_form(served, gallery, images):
    ids = (nfc("Zürich 1"), nfd("Genève 2"), MIXED, "plain")
    for image, external_id in zip(images, ids, strict=False):
        served.enrolled(gallery, image, external_id=external_id)
        # Each is found at once, although others were looked up before it was stored.
        for form in FORMS:
            asked = {"external_id": in_form(form, external_id)}
            (crop,) = served.results(f"/v1/galleries/{gallery}/crops", params=asked)
            assert crop["external_id"] == external_id
    crop = crops_of(served, gallery, external_id="plain")[0]
    changed = served.http.patch(
        f"/v1/galleries/{gallery}/crops/{crop}", data={"external_id": "O\u0323\u0308"}
    )
    assert changed.json()["crop"]["external_id"] == "O\u0323\u0308"
    assert crops_of(served, gallery, external_id="\u00d6\u0323") == [crop]
    with Client(str(served.http.base_url), gallery=gallery) as client:
        assert client.delete_crops(external_id=nfc(MIXED)).removed == 1


def test_names_are_changed_merged_and_forgotten_in_any_form(client, served, gallery, images):
    served.enrolled(gallery, *images[:3], identity=["Ann", "Eve", JOSE])
    assert client.rename_identity("Ann", nfd("Zoë")).identity == "Zoë"
    merged = client.rename_identity(nfd("Zoë"), nfd(JOSE))
    assert (merged.identity, merged.merged) == (JOSE, True)
    refused = served.http.patch(
        f"/v1/galleries/{gallery}/identities/{JOSE}", data={"new_identity": nfd(JOSE)}
    )
    assert "is its current name" in refused.json()["detail"]
    eve = crops_of(served, gallery, identity="Eve")
    changed = served.http.patch(
        f"/v1/galleries/{gallery}/crops", data={"crop_ids": eve, "new_identity": nfd(JOSE)}
    )
    assert changed.json()["changed"] == 1
    assert identities(served, gallery) == [JOSE]
    assert served.read(f"/v1/galleries/{gallery}/identities/{nfd(JOSE)}")["crops"] == 3
    assert client.forget(nfd(JOSE)).removed == 3
    assert identities(served, gallery) == []


def test_folders_and_manifests_of_an_import_name_people_in_any_form(served, gallery, images):
    first, second, third, fourth = images[:4]
    folders = {f"{nfd(JOSE)}/1.png": first, f"{nfc(JOSE)}/2.png": second}
    assert served.ended_job(served.import_zip(gallery, folders))["state"] == "done"
    rows = f"path,identity,camera\n{nfc('é.png')},{nfd(JOSE)},{nfd(GATE)}\nü.png,{JOSE},{GATE}\n"
    listed = {nfd("é.png"): third, nfd("ü.png"): fourth, "manifest.csv": rows.encode()}
    job = served.ended_job(served.import_zip(gallery, listed))
    assert (job["state"], job["progress"]["landed"]) == ("done", 2)
    assert identities(served, gallery) == [JOSE]
    assert len(crops_of(served, gallery, identity=JOSE, camera=GATE)) == 2


def test_forgetting_hides_the_name_in_reports_that_have_it_in_another_form(
    client, served, gallery, images
):
    served.enrolled(gallery, images[0], identity=JOSE)
    job = served.import_zip(gallery, {f"{nfd(JOSE)}/1.png": b"no image", "Eve/2.png": images[1]})
    job = served.ended_job(job)

    def report():
        text = served.http.get(f"/v1/jobs/{job['job_id']}/report").text
        return [row["source"] for row in csv.DictReader(io.StringIO(text))]

    assert report() == [f"{nfd(JOSE)}/1.png"]
    client.forget(JOSE)
    assert report() == ["…/1.png"]


@pytest.mark.parametrize("name", ["İstanbul", "Istanbul", nfd("İstanbul"), "ISTANBUL"])
def test_a_search_without_case_finds_the_capital_i_with_a_dot(served, gallery, images, name):
    served.enrolled(gallery, images[0], identity=name)
    for query in ("istanbul", "STANB", "İSTANBUL", nfd("İstanbul")):
        assert identities(served, gallery, query=query) == [nfc(name)]
        assert identities(served, gallery, query=query, sort="crops") == [nfc(name)]
    assert identities(served, gallery, query="ıstanbul") == []


@pytest.mark.parametrize(
    "name",
    [
        "علی\u200cرضا",
        "کورده\u200cواری",
        "ක්\u200dරිෂාන්",
        "क्\u200dषमा",
        "অর্\u200cণব",
        "അന്\u200dവര്",
        "ᠠ\u200dᠡ",
    ],
)
def test_a_joiner_between_letters_of_its_script_is_a_part_of_the_name(
    served, gallery, images, name
):
    fields = {"identity": name, "camera": name, "track": name, "external_id": name}
    (crop_id,) = served.enrolled(gallery, images[0], **fields)
    stored = served.read(f"/v1/galleries/{gallery}/crops/{crop_id}")
    assert {stored[field] for field in fields} == {name}
    assert identities(served, gallery, query=name[1:]) == [name]
    # Without the joiner it is another name.
    plain = name.replace("\u200c", "").replace("\u200d", "")
    assert identities(served, gallery, query=plain) == []
    assert len(served.search(gallery, images[1], identities=name, purpose=name)) == 1
    case = served.http.post(
        f"/v1/galleries/{gallery}/cases", data={"name": name, "notes": f"{name}\n{name}"}
    ).json()
    assert (case["name"], case["notes"]) == (name, f"{name}\n{name}")
    job = served.import_zip(gallery, {f"{name}/1.png": images[2], f"{name}/2.png": b"no image"})
    job = served.ended_job(job)
    assert job["progress"]["landed"] == 1
    # The report has the joiner too, so that forgetting finds the name in it.
    assert f"{name}/2.png" in served.http.get(f"/v1/jobs/{job['job_id']}/report").text


JOINER = "may only stand between two letters of a script that uses it"
REFUSED = {
    "leading": ("\u200cعلی", "U+200C ZERO WIDTH NON-JOINER at position 1", JOINER),
    "trailing": ("علی\u200c", "U+200C ZERO WIDTH NON-JOINER at position 4", JOINER),
    "Latin": ("An\u200dna", "U+200D ZERO WIDTH JOINER at position 3", JOINER),
    "doubled": ("علی\u200c\u200cرضا", "U+200C ZERO WIDTH NON-JOINER at position 4", JOINER),
    "two scripts": ("ی\u200cक", "U+200C ZERO WIDTH NON-JOINER at position 2", JOINER),
    "before a space": ("علی\u200c رضا", "U+200C ZERO WIDTH NON-JOINER at position 4", JOINER),
    "a digit": ("۱\u200c۲", "U+200C ZERO WIDTH NON-JOINER at position 2", JOINER),
    "emoji": ("👩\u200d👧", "U+200D ZERO WIDTH JOINER at position 2", JOINER),
    "no-break space": ("Ann\u00a0Lee", "U+00A0 NO-BREAK SPACE at position 4", "an ordinary space"),
    "zero width space": ("An\u200bn", "U+200B ZERO WIDTH SPACE at position 3", "is not printable"),
    "mark of direction": ("Ann\u200f", "U+200F RIGHT-TO-LEFT MARK at position 4", "not printable"),
    "byte order mark": ("\ufeffAnn", "U+FEFF ZERO WIDTH NO-BREAK SPACE at position 1", "printable"),
    "soft hyphen": ("An\u00adna", "U+00AD SOFT HYPHEN at position 3", "is not printable"),
    "control": ("An\x07n", "U+0007 CONTROL CHARACTER at position 3", "is not printable"),
    "no UTF-8": ("An\ufffdn", "U+FFFD REPLACEMENT CHARACTER at position 3", "not sent as UTF-8"),
}


@pytest.mark.parametrize(("name", "character", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_character_that_no_name_may_contain_is_named_with_its_place(
    served, gallery, images, name, character, reason
):
    for field in ("identity", "camera", "track", "external_id"):
        answer = served.enroll(gallery, images[0], **{field: name})
        assert problem(answer) == (422, "invalid_field")
        detail = answer.json()["detail"]
        assert detail.startswith(f"{field}: ")
        assert f"has the character {character}" in detail
        assert reason in detail
    case = served.http.post(f"/v1/galleries/{gallery}/cases", data={"name": name})
    assert f"has the character {character}" in case.json()["detail"]
    assert served.results(f"/v1/galleries/{gallery}/crops") == []


def test_an_import_names_the_reason_why_a_label_is_refused(served, gallery, images):
    for name, reason in (
        ("An\u200bn", "U+200B ZERO WIDTH SPACE at position 3"),
        ("x" * 257, "has 257 characters, so it is longer than 256 characters"),
        ("\u0958" * 200, "has 400 characters in the Unicode normal form NFC"),
    ):
        rows = f"path,identity\n1.png,{name}\n".encode()
        job = served.import_zip(gallery, {"1.png": images[0], "manifest.csv": rows})
        job = served.ended_job(job)
        assert job["state"] == "failed"
        assert reason in job["detail"]
        assert name[:40] not in job["detail"]


def test_a_watch_list_takes_its_cameras_in_any_form(open_service, tmp_path, drawn_crops):
    served = open_service(tmp_path)
    arm_new(served, "wanted", drawn_crops, cameras=nfd(GATE))
    assert served.read("/v1/galleries/wanted/watch")["settings"]["cameras"] == [GATE]
    for form in FORMS:
        sighted = served.http.post(
            "/v1/sightings",
            files=files(drawn_crops[0].png),
            data={"camera": in_form(form, GATE), "track": "1", "wait": "true"},
        )
        (image,) = sighted.json()["results"]
        assert [match["identity"] for match in image["matches"]] == ["0000"]
    for form in FORMS:
        for asked in (
            {"identity": "0000"},
            {"camera": GATE},
            {"identity": "0000", "gallery": "wanted"},
        ):
            asked = {name: in_form(form, text) for name, text in asked.items()}
            (alert,) = alerts(served, **asked)
            assert (alert["camera"], alert["crops"]) == (GATE, 2)
