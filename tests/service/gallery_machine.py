"""A served gallery beside its model: requests, and the answers that they must get."""

import secrets
from itertools import pairwise

from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from tests.service.conftest import files
from tests.service.gallery_model import GalleryModel, Said

EVERYTHING = 1000
BROKEN = -1
SAID = ("identity", "camera", "captured_at", "external_id")


class World:
    """The served process, the drawn images, and every gallery that an example has left."""

    def __init__(self, start, data_dir, images):
        self._start = start
        self._data_dir = data_dir
        self.images = images
        self.left = []
        self.served = start(data_dir=data_dir)

    def image(self, number):
        return b"no image" if number == BROKEN else self.images[number]

    def kill_and_restart(self):
        self.served.kill()
        self.served = self._start(data_dir=self._data_dir)


class ServedGallery(RuleBasedStateMachine):
    """One gallery, and the dictionary that it has to equal after every step."""

    def __init__(self, world):
        super().__init__()
        self.world = world
        self.model = GalleryModel()
        self.requests = {}

    @initialize()
    def create(self):
        self.url = f"/v1/galleries/{self.world.served.create(f'model.{secrets.token_hex(8)}')}"

    def call(self, method, path="", status=200, **sent):
        """Send a request, and check its status unless that is 0."""
        answer = self.world.served.http.request(method, f"{self.url}{path}", **sent)
        said = f"{method} {path}: {answer.status_code} {answer.text}"
        assert answer.status_code == status or not status, said
        return answer

    @invariant()
    def holds_what_the_model_holds(self):
        if not hasattr(self, "url"):
            return
        described = self.call("GET").json()
        identities = self.model.identities()
        assert described["version"] == self.model.version
        assert described["crops"] == len(self.model.crops)
        assert described["identities"] == len(identities)
        listed = self.call("GET", f"/crops?limit={EVERYTHING}").json()["results"]
        assert [crop["crop_id"] for crop in listed] == list(self.model.crops)
        for crop in listed:
            self._labelled(crop)
            assert crop["external_id"] == self.model.crops[crop["crop_id"]].external_id
        merges = self.call("GET", "/merges").json()["results"]
        assert [(merge["merge_id"], merge["identity"], merge["into"]) for merge in merges] == [
            (merge_id, merge.identity, merge.into)
            for merge_id, merge in reversed(self.model.merges.items())
        ]
        counted = self.call("GET", "/identities").json()["results"]
        assert {
            person["identity"]: (person["crops"], person["cameras"]) for person in counted
        } == identities

    def teardown(self):
        if hasattr(self, "url"):
            self.world.left.append(self)

    def some_crop(self, number):
        """Draw a crop that is there, was there, or never was."""
        gone = [crop_id for crop_id in self.model.issued if crop_id not in self.model.crops]
        known = [*self.model.crops, *gone, "f" * 32]
        return known[number % len(known)]

    def send_images(self, images, key, status=0):
        fields = {name: [getattr(image, name) or "" for image in images] for name in SAID}
        broken = sum(image.image == BROKEN for image in images)
        some = 207 if broken else 201
        return self.call(
            "POST",
            "/crops",
            status or (422 if broken == len(images) else some),
            files=files(*(self.world.image(image.image) for image in images)),
            data=fields,
            headers={"Idempotency-Key": key} if key else {},
        )

    def enrolled(self, images, key, answer):
        results = answer.json()["results"]
        added = False
        for image, result in zip(images, results, strict=True):
            if image.image == BROKEN:
                assert result["problem"]["type"] == "urn:gmn:problem:not_an_image"
                continue
            crop_id = result["crop_id"]
            known = self.model.stored_as(image)
            assert (result["identity"], result["camera"]) == (image.identity, image.camera)
            assert result["duplicate"] == (known is not None)
            if known is None:
                assert crop_id not in self.model.issued, "an id was given out twice"
                self.model.issued.append(crop_id)
                self.model.crops[crop_id] = image
                added = True
            else:
                assert crop_id == known
        self.model.version += added
        if answer.status_code != 422:
            assert answer.json()["gallery_version"] == self.model.version
            assert "Idempotent-Replayed" not in answer.headers
            if key:
                self.requests[key] = (images, answer.json())

    def replayed(self, first, answer):
        assert answer.headers["Idempotent-Replayed"] == "true"
        again = answer.json()
        assert again["gallery_version"] == first["gallery_version"]
        for result, other in zip(first["results"], again["results"], strict=True):
            assert result == other

    def ask(self, images, wanted, how):
        asked = {"rerank_depth": EVERYTHING, **wanted.fields(), **how}
        sent = files(*(self.world.image(number) for number in images))
        return self.call("POST", "/queries", files=sent, data=asked).json()

    def right(self, answer, wanted, how, without=None):
        assert answer["gallery_version"] == self.model.version
        passing = self.model.passing(wanted, without)
        results = answer["results"]
        found = [result["crop_id"] for result in results]
        grouped = how["group_by"] == "identity"
        assert set(found) <= passing, "a crop that does not pass the filter, or is gone"
        assert len(set(found)) == len(found)
        there = self.model.groups(passing) if grouped else len(passing)
        assert len(found) == min(there, how["top_k"])
        assert [result["rank"] for result in results] == list(range(1, len(results) + 1))
        assert answer["candidates_scored"] == len(passing)
        for result in results:
            self._labelled(result)
        if grouped:
            assert self.model.groups(found) == len(found), "a person was answered twice"
        by = {"mnet": "pair_logit", "cosine": "cosine"}[how["scoring"]]
        if how["order"] == "neighbours" and not grouped:
            assert all(results[0][by] >= result[by] for result in results)
        else:
            assert all(result[by] >= below[by] for result, below in pairwise(results))

    def _labelled(self, shown):
        crop = self.model.crops[shown["crop_id"]]
        assert (shown["identity"], shown["camera"]) == (crop.identity, crop.camera)
        assert Said(0, None, None, shown["captured_at"], None).moment == crop.moment
