"""A served gallery answers any sequence of calls as a dictionary does.

`REID_TEST_EXAMPLES` is how many histories are tried (a few by default), `REID_TEST_SEED` which
ones; 0 draws others.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import get_state_machine_test, precondition, rule

from tests.outside import chosen_seed, pages
from tests.service.gallery_machine import BROKEN, EVERYTHING, ServedGallery, World
from tests.service.gallery_model import Merged, Said, Wanted

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("REID_TEST_EXAMPLES", "6"))
# A smaller history would be sought for longer than a test may take.
PHASES = (Phase.generate,) if os.environ.get("CI") else (Phase.generate, Phase.shrink)
STEPS = 20
IMAGES = 8
PEOPLE = ("Ann", "Bob / 2", "Çelik")
CAMERAS = ("east", "west")
# The second and the third are one moment.
MOMENTS = (
    "2026-03-01T09:30:00Z",
    "2026-03-01T10:00:00Z",
    "2026-03-01T11:00:00+01:00",
    "2026-03-02T00:00:00Z",
)

maybe = {"identity": PEOPLE, "camera": CAMERAS, "captured_at": MOMENTS, "external_id": ("1", "2")}
said = st.builds(
    Said,
    image=st.sampled_from([*range(IMAGES), BROKEN]),
    **{name: st.sampled_from([None, *values]) for name, values in maybe.items()},
)
wanted = st.builds(
    Wanted,
    cameras=st.sampled_from([(), (), ("east",), ("east", "west"), ("north",)]),
    exclude_cameras=st.sampled_from([(), (), ("west",), ("north",)]),
    captured_after=st.sampled_from([None, None, *MOMENTS]),
    captured_before=st.sampled_from([None, None, *MOMENTS]),
).filter(lambda one: not one.is_inverted)
how = st.fixed_dictionaries(
    {
        "scoring": st.sampled_from(["mnet", "cosine"]),
        "group_by": st.sampled_from(["crop", "identity"]),
        "order": st.sampled_from(["neighbours", "score"]),
        "top_k": st.sampled_from([EVERYTHING, 3]),
    }
)
pictures = st.integers(0, IMAGES + 1)
which = st.integers(0, 10_000)


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


class GalleryMachine(ServedGallery):
    """Every call that changes or asks one gallery."""

    # --- what changes it

    @rule(images=st.lists(said, min_size=1, max_size=4), key=st.sampled_from([None, None, "k-1"]))
    def enroll(self, images, key):
        known = self.requests.get(key) if key else None
        if known and known[0] != images:
            answer = self.send_images(images, key, 422)
            assert answer.json()["type"] == "urn:gmn:problem:request_conflict"
        elif known:
            self.replayed(known[1], self.send_images(images, key))
        else:
            self.enrolled(images, key, self.send_images(images, key))

    @precondition(lambda self: self.requests)
    @rule(number=which)
    def enroll_again(self, number):
        key = list(self.requests)[number % len(self.requests)]
        images, first = self.requests[key]
        self.replayed(first, self.send_images(images, key))

    @rule(number=which)
    def delete_crop(self, number):
        crop_id = self.some_crop(number)
        if crop_id not in self.model.crops:
            self.call("DELETE", f"/crops/{crop_id}", 404)
            return
        self.model.delete(crop_id)
        answer = self.call("DELETE", f"/crops/{crop_id}").json()
        assert answer == {"gallery_version": self.model.version, "removed": 1}

    @rule(identity=st.sampled_from(PEOPLE), new=st.sampled_from([*PEOPLE, "Dora"]))
    def rename_or_merge(self, identity, new):
        rename = {"path": f"/identities/{identity}", "data": {"new_identity": new}}
        if new == identity:
            self.call("PATCH", status=422, **rename)
            return
        merged = new in self.model.identities()
        crops = self.model.rename(identity, new)
        if not crops:
            self.call("PATCH", status=404, **rename)
            return
        answer = self.call("PATCH", **rename).json()
        merge_id = answer.pop("merge_id")
        assert answer == {
            "gallery_version": self.model.version,
            "identity": new,
            "changed": len(crops),
            "merged": merged,
        }
        assert (merge_id is not None) == merged
        if merged:
            self.model.merges[merge_id] = Merged(identity, new, crops)

    @precondition(lambda self: self.model.merges)
    @rule(number=which)
    def undo_merge(self, number):
        merge_id = list(self.model.merges)[number % len(self.model.merges)]
        identity = self.model.merges[merge_id].identity
        changed = self.model.undo_merge(merge_id)
        answered = self.call("POST", f"/merges/{merge_id}/undo").json()
        assert (answered["identity"], answered["changed"]) == (identity, changed)
        assert answered["gallery_version"] == self.model.version

    @rule(identity=st.sampled_from(PEOPLE))
    def forget(self, identity):
        known = self.model.remembers(identity)
        answer = self.call("DELETE", f"/identities/{identity}", 200 if known else 404)
        if known:
            removed = self.model.forget(identity)
            assert answer.json()["removed"] == removed
            assert answer.json()["gallery_version"] == self.model.version

    @precondition(lambda self: len(self.model.exports) < 3)
    @rule()
    def make_export(self):
        made = self.call("POST", "/exports", 201).json()
        assert (made["version"], made["crops"]) == (self.model.version, len(self.model.crops))
        assert made["export_id"] not in self.model.exports
        self.model.exports[made["export_id"]] = [*self.model.crops]

    @precondition(lambda self: self.model.exports)
    @rule(number=which)
    def import_export(self, number):
        export_id = list(self.model.exports)[number % len(self.model.exports)]
        content = self.call("GET", f"/exports/{export_id}/content").content
        gallery = self.url.removeprefix("/v1/galleries/")
        progress = self.world.served.import_archive(gallery, content)["progress"]
        landed, duplicates, deleted = self.model.import_export(export_id)
        assert landed == 0
        assert (progress["landed"], progress["duplicates"]) == (landed, duplicates)
        assert progress["deleted"] == deleted

    @precondition(lambda self: self.model.exports)
    @rule(number=which)
    def delete_export(self, number):
        export_id = list(self.model.exports)[number % len(self.model.exports)]
        del self.model.exports[export_id]
        self.call("DELETE", f"/exports/{export_id}", 204)
        self.call("GET", f"/exports/{export_id}", 404)

    @rule(chance=st.integers(0, 60))
    def kill_9_and_restart(self, chance):
        if chance == 60:
            self.world.kill_and_restart()

    # --- what asks it

    @rule(images=st.lists(pictures, min_size=1, max_size=2), wanted=wanted, how=how)
    def query_by_images(self, images, wanted, how):
        self.right(self.ask(images, wanted, how), wanted, how)

    @rule(number=which, wanted=wanted, how=how, disjoint=st.booleans())
    def query_by_crop(self, number, wanted, how, disjoint):
        crop_id = self.some_crop(number)
        asked = {"crop_id": crop_id, "camera_disjoint": disjoint, **wanted.fields(), **how}
        if crop_id not in self.model.crops:
            self.call("POST", "/queries", 404, data=asked)
            return
        camera = self.model.crops[crop_id].camera
        wanted = wanted.not_under(camera) if disjoint and camera else wanted
        self.right(self.call("POST", "/queries", data=asked).json(), wanted, how, crop_id)

    @rule(
        limit=st.integers(1, 3),
        asked=st.one_of(
            st.just({}),
            *(
                st.fixed_dictionaries({name: st.sampled_from(maybe[name])})
                for name in ("identity", "camera", "external_id")
            ),
        ),
    )
    def list_page_by_page(self, limit, asked):
        expected = [
            crop_id
            for crop_id, crop in self.model.crops.items()
            if all(getattr(crop, name) == value for name, value in asked.items())
        ]
        listed = list(pages(self.world.served.http, f"{self.url}/crops", limit=limit, **asked))
        assert [crop["crop_id"] for crop in listed] == expected
        names = [
            person["identity"]
            for person in pages(self.world.served.http, f"{self.url}/identities", limit=limit)
        ]
        assert names == list(self.model.identities())


@pytest.mark.promise("4")
def test_a_gallery_does_what_a_dictionary_does(start, tmp_path, images):
    number = chosen_seed()
    print(f"REID_TEST_SEED={number} REID_TEST_EXAMPLES={EXAMPLES}")  # noqa: T201
    world = World(start, tmp_path, images[: IMAGES + 2])
    test = get_state_machine_test(
        lambda: GalleryMachine(world),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            database=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
    seed(number)(test)()
    # Every gallery of every history, once more after the process was killed.
    world.kill_and_restart()
    for machine in world.left:
        machine.holds_what_the_model_holds()
    world.served.kill()
