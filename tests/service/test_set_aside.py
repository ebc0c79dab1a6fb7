"""Crops that are set aside: kept, and found by no search, grouping, fit or watch list."""

import zipfile
from io import BytesIO

import pytest

from gmn_client import RequestRefused
from service.search.leave_one_out import NamedCrops
from tests.outside import audit_lines, problem
from tests.service.conftest import running

pytestmark = pytest.mark.promise("set-aside")


@pytest.fixture
def ids(served, gallery, drawn_crops):
    """Enroll eight crops of two people, and return their ids."""
    return served.fill(gallery, drawn_crops[:8], track=["1", "2"] * 4)


def found_by(client, image, **options):
    return {result.crop_id for result in client.query(image, **options).results}


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 100},
        {"top_k": 100, "identities": ["0000"]},
        {"top_k": 100, "group_by": "track"},
        {"top_k": 1},
        {"top_k": 100, "scoring": "cosine"},
    ],
)
def test_no_search_finds_a_crop_that_is_set_aside_until_it_is_taken_back(
    client, images, ids, options
):
    before = found_by(client, images[0], **options)
    assert ids[0] in before
    changed = client.change_crop(ids[0], set_aside=True)
    assert changed.crop.set_aside
    after = found_by(client, images[0], **options)
    assert ids[0] not in after
    assert options["top_k"] == 1 or before - after == {ids[0]} or options["group_by"] == "track"
    client.change_crop(ids[0], set_aside=False)
    assert found_by(client, images[0], **options) == before


def test_a_person_whose_crops_are_set_aside_is_not_found_and_keeps_name_and_crops(
    client, images, ids
):
    for crop_id in ids[:4]:
        client.change_crop(crop_id, set_aside=True)
    answer = client.query(images[0], group_by="identity", top_k=10)
    assert [result.identity for result in answer.results] == ["0001"]
    assert client.identity("0000").crops == 4
    # Its own crops can still be searched by.
    assert [person.identity for person in client.similar("0000")] == ["0001"]
    assert client.query(crop_id=[ids[0]], top_k=100).results[0].identity == "0001"


def test_listings_say_and_choose_what_is_set_aside(client, ids):
    client.change_crop(ids[2], set_aside=True)
    assert [crop.crop_id for crop in client.crops() if crop.set_aside] == [ids[2]]
    assert [crop.crop_id for crop in client.crops(set_aside=True)] == [ids[2]]
    assert [crop.crop_id for crop in client.crops(set_aside=False)] == [*ids[:2], *ids[3:]]
    assert client.crop(ids[2]).set_aside
    gallery = client.gallery()
    assert (gallery.crops, gallery.set_aside) == (8, 1)
    deleted = client.delete_crops(set_aside=True)
    assert deleted.removed == 1
    assert client.gallery().set_aside == 0


def test_the_best_picture_of_a_person_is_one_that_searches_find(client, ids):
    best = client.identity("0000").crop_id
    client.change_crop(best, set_aside=True)
    assert client.identity("0000").crop_id not in (best, None)


def test_a_label_and_setting_aside_are_changed_together_and_nothing_is_refused(client, ids):
    changed = client.change_crop(ids[0], identity="Ann", set_aside=True)
    assert (changed.crop.identity, changed.crop.set_aside) == ("Ann", True)
    with pytest.raises(RequestRefused, match="or set_aside"):
        client.change_crop(ids[0])


def test_a_grouping_leaves_out_what_is_set_aside(served, gallery, client, drawn_crops):
    crops = drawn_crops[:8]
    ids = served.fill(gallery, crops, identity=[""] * len(crops))

    def grouped():
        job = served.http.post(f"/v1/galleries/{gallery}/groups").json()
        assert served.ended_job(job)["state"] == "done"
        return {one for group in client.groups().results for one in group.crop_ids}

    before = grouped()
    first = min(before)
    client.change_crop(first, set_aside=True)
    assert {one for group in client.groups().results for one in group.crop_ids} <= before - {first}
    assert first not in grouped()
    assert len(ids) == len(crops)


def test_an_export_and_its_import_keep_what_is_set_aside(served, gallery, client, images, ids):
    client.change_crop(ids[0], set_aside=True)
    content = served.export(gallery)
    manifest = zipfile.ZipFile(BytesIO(content)).read("manifest.csv").decode()
    assert manifest.count('"True"') == 1
    other = served.create(f"{gallery}.copy")
    assert served.import_archive(other, content)["state"] == "done"
    with served.connect(gallery=other) as copy:
        assert [crop.crop_id for crop in copy.crops(set_aside=True)] == [ids[0]]
        assert ids[0] not in found_by(copy, images[0], top_k=100)
        assert copy.gallery().set_aside == 1


def test_setting_aside_needs_an_administrator_and_is_in_the_audit_log(start, data_dir, images):
    served = start(data_dir=data_dir)
    (crop_id,) = served.enrolled("default", images[0], identity="Ann")
    path = f"/v1/galleries/default/crops/{crop_id}"
    _, administrator = served.make_key("admin")
    _, key = served.make_key("query,enroll,delete", headers=administrator)
    refused = served.http.patch(path, data={"set_aside": "true"}, headers=key)
    assert problem(refused) == (403, "forbidden")
    done = served.http.patch(path, data={"set_aside": "true"}, headers=administrator)
    assert done.json()["crop"]["set_aside"] is True
    lines = [line for line in audit_lines(data_dir, "change_crop") if line["phase"] == "done"]
    assert [(line["crop_ids"], line["set_aside"]) for line in lines] == [([crop_id], True)]


def test_fits_and_watch_lists_read_the_named_crops_without_it(tiny_artefact, tmp_path, drawn_crops):
    """Thresholds are fitted to, and lists watch for, the crops that `NamedCrops` selects."""
    import asyncio

    from service.gallery.enroll import ImageToEnroll

    async def select(runtime):
        gallery = runtime.galleries.get("default")
        images = [ImageToEnroll(image=crop.png, identity="Ann") for crop in drawn_crops[:3]]
        answer, _ = await runtime.enrollment.enroll(gallery, images)
        crop_id = answer.results[1].crop_id
        await runtime.crop_changes.change_crop(gallery, crop_id, {"set_aside": True})
        crops = await runtime.device.run(NamedCrops.of, gallery.own_index.columns)
        return crops.slots.tolist()

    with running(tiny_artefact, tmp_path / "data") as runtime:
        assert asyncio.run(select(runtime)) == [1, 3]


def test_another_process_follows(start, tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("two")
    one = start(data_dir=folder)
    other = start(data_dir=folder)
    crop_id, _ = one.enrolled("default", *images[:2])
    path = f"/v1/galleries/default/crops/{crop_id}"
    for set_aside, expected in (("true", False), ("false", True)):
        changed = one.http.patch(path, data={"set_aside": set_aside}).json()
        version = changed["gallery_version"]
        found = other.search("default", images[0], top_k=10, min_version=version)
        assert (crop_id in {result["crop_id"] for result in found}) == expected
