"""Galleries that are centred by camera, through the service: rankings, thresholds, and switches."""

import asyncio
import contextlib
import itertools
from dataclasses import replace

import numpy as np
import pytest

from model.artefact import load_artefact, read_description, shipped_artefacts
from model.provenance import TrainingData
from service.forgetting import forget_identity
from service.gallery.enroll import ImageToEnroll, as_computed
from service.index.filters import SearchFilter
from service.search import refit
from service.search.calibration import Publication
from service.search.options import PairOptions, QueryOptions, QueryVector
from service.search.query import GalleriesQuery
from service.search.ranking import SearchOutdated
from tests.service.conftest import START, running
from tests.waiting import eventually

PEOPLE = 60
CAMERAS = ("entrance", "yard")
# What a camera adds to the vectors of people, which are as long as their differences.
OFFSET = 1.5
NOISE = 0.45
# A query by this camera, which has no mean, loses that of the gallery.
ELSEWHERE = "gate"


@pytest.fixture(scope="module")
def dimension(cosine_artefact):
    return load_artefact(cosine_artefact).description.embedder.dimension


@pytest.fixture(scope="module")
def vector(dimension):
    """Return a function that draws the vector of one picture of a person."""

    def draw(person, camera, shot=0):
        vector = np.zeros(dimension)
        for seed, length in (
            ((1, person), 1.0),
            ((2, *camera.encode()), OFFSET),
            ((3, person, shot, *camera.encode()), NOISE),
        ):
            vector[:24] += length * np.random.default_rng(seed).normal(size=24)
        return (3.0 * vector).astype(np.float32)

    return draw


@pytest.fixture
def runtime(cosine_artefact, tmp_path, engine):
    with running(cosine_artefact, tmp_path) as opened:
        yield opened


@pytest.fixture
def other(cosine_artefact, tmp_path, runtime):
    """Return another process on the same record."""
    with running(cosine_artefact, tmp_path) as opened:
        yield opened


def default(runtime):
    return runtime.galleries.get("default")


async def enroll(runtime, vector, people=range(PEOPLE), named=True, has_cameras=True):
    """Enroll a crop of each person under each camera."""
    shown = list(itertools.product(CAMERAS, people))
    images = [
        ImageToEnroll(
            image=None,
            identity=f"p{person}" if named else None,
            camera=camera if has_cameras else None,
        )
        for camera, person in shown
    ]
    vectors = [vector(person, camera) for camera, person in shown]
    computed = as_computed(vectors, runtime.model.embedder)
    await runtime.enrollment.enroll(default(runtime), images, computed=computed)


async def forget(runtime, *people):
    """Forget people, and return the places where copies of the last one remain."""
    for person in people:
        forgotten = await forget_identity(runtime, default(runtime), f"p{person}")
    return [place.where for place in forgotten.remaining]


async def fit(runtime):
    return await runtime.fitter.fit_if_due(default(runtime))


async def switch(runtime):
    await runtime.centring.switch(default(runtime))


async def centre(runtime, vector):
    """Fill the default gallery, and centre it."""
    await enroll(runtime, vector)
    await fit(runtime)
    await switch(runtime)
    assert state(runtime).state == "on"


async def change(runtime, **changes):
    await runtime.gallery_changes.change(default(runtime), changes)


def state(runtime):
    return runtime.calibrations.describe_centring(default(runtime))


async def ask(runtime, features, camera=None, **options):
    sent = QueryVector(features, runtime.model.embedder)
    asked = QueryOptions(vector=sent, camera=camera, order="score", **options)
    (answered,) = await runtime.search.answer(GalleriesQuery(["default"], [], asked))
    return answered.answer


def told(answer):
    """Return what does not depend on when an answer was given."""
    results = [
        (crop.crop_id, crop.cosine, crop.probability, crop.verdict) for crop in answer.results
    ]
    return results, answer.needed, answer.calibration.version


def published(runtime):
    (current,) = runtime.calibrations.of(default(runtime))
    stored = runtime.record.calibrations.published(default(runtime).gallery_id)
    return Publication.read(stored[current.score_kind])


class BruteForce:
    """A gallery with one crop of each person and camera, centred in float64."""

    def __init__(self, vector, people=range(PEOPLE)):
        self.shown = list(itertools.product(CAMERAS, people))
        self.units = np.array([_unit(vector(person, camera)) for camera, person in self.shown])
        of_cameras = self.units.reshape(len(CAMERAS), len(people), -1)
        self.means = dict(zip(CAMERAS, of_cameras.mean(axis=1), strict=True))
        # Each person counts by the crop that was enrolled first.
        self.of_gallery = of_cameras[0].mean(axis=0)
        self.centred = np.array(
            [
                _unit(unit - self.means[camera])
                for unit, (camera, _) in zip(self.units, self.shown, strict=True)
            ]
        )

    def cosines(self, features, camera):
        """Return the cosines of a query with all crops, best first, and who they show."""
        query = _unit(_unit(features) - self.means.get(camera, self.of_gallery))
        cosines = self.centred @ query
        order = np.argsort(-cosines, kind="stable")
        return cosines[order], [self.shown[position] for position in order]

    def mean_level(self):
        """Return the mean level of all crops' searches for others, by the spreads of cameras."""
        levels = []
        for unit, (camera, person) in zip(self.centred, self.shown, strict=True):
            cosines = (self.centred @ unit).reshape(len(CAMERAS), -1).max(axis=0)
            best = np.sort(np.delete(cosines, person))[::-1]
            levels.append(best[1:9].mean() / self.spread(camera))
        return np.mean(levels)

    def spread(self, camera):
        """Return the median |cosine| of a camera's crops, relative to that of all."""
        of_cameras = self.centred.reshape(len(CAMERAS), -1, self.centred.shape[1])
        # The first crop of each person is that of the first camera.
        first = of_cameras[0]
        own = of_cameras[CAMERAS.index(camera)]
        return _median_cosine(own, first) / _median_cosine(first, first)


def _unit(vector):
    vector = vector.astype(np.float64)
    return vector / np.linalg.norm(vector)


def _median_cosine(searching, searched):
    """Return the median |cosine| of different people, who have equal rows in both."""
    cosines = np.abs(searching @ searched.T)
    return np.median(cosines[~np.eye(len(searching), dtype=bool)])


@pytest.mark.parametrize("camera", [*CAMERAS, ELSEWHERE])
async def test_a_centred_gallery_ranks_and_judges_as_brute_force_does(runtime, vector, camera):
    await centre(runtime, vector)
    exact = BruteForce(vector)
    assert state(runtime).cameras == len(CAMERAS)
    assert state(runtime).gain > state(runtime).standard_error
    thresholds = published(runtime)
    assert thresholds.level == pytest.approx(exact.mean_level(), abs=1e-5)
    spread = 1.0
    if camera != ELSEWHERE:
        spread = thresholds.spreads[camera]
        assert spread == pytest.approx(exact.spread(camera), abs=1e-4)
    for person in (3, 400):
        features = vector(person, camera, shot=1)
        answer = await ask(runtime, features, camera, top_k=2 * PEOPLE)
        cosines, shown = exact.cosines(features, camera)
        results = [(crop.camera, int(crop.identity[1:])) for crop in answer.results]
        assert results == shown
        found = [crop.cosine for crop in answer.results]
        np.testing.assert_allclose(found, cosines, rtol=0, atol=1e-6)

        # The level is that of the second to ninth person.
        people = [person for _, person in shown]
        best = [cosines[people.index(person)] for person in dict.fromkeys(people)]
        tail = thresholds.calibration.tail(PEOPLE, spread=spread)
        threshold = tail.threshold(0.01, float(np.mean(best[1:9])))
        expected = ["match" if cosine >= threshold else "other" for cosine in cosines]
        verdicts = [crop.verdict if crop.verdict == "match" else "other" for crop in answer.results]
        assert verdicts == expected
        probabilities = tail.probability(np.array(cosines), float(np.mean(best[1:9])))
        np.testing.assert_allclose(
            [crop.probability for crop in answer.results], probabilities, atol=1e-3
        )
        assert answer.calibration.state == "own"
        assert answer.calibration.version.endswith(thresholds.version)


async def test_people_are_found_under_another_camera_who_were_not_found_before(runtime, vector):
    await enroll(runtime, vector)
    await change(runtime, centring="off")

    async def found():
        await fit(runtime)
        await switch(runtime)
        answers = [
            await ask(runtime, vector(person, "yard", shot=1), "yard", camera_disjoint=True)
            for person in range(PEOPLE)
        ]
        return sum(answer.verdict == "match" for answer in answers)

    without = await found()
    assert state(runtime).state == "off"
    await change(runtime, centring="auto")
    centred = await found()
    assert state(runtime).state == "on"
    assert centred > without


async def test_a_gallery_of_one_camera_is_not_centred_but_judges_by_the_spread_of_the_other(
    runtime, vector
):
    people = range(PEOPLE)
    shown = [("entrance", person, f"p{person}", None) for person in people]
    shown += [("yard", PEOPLE + person, None, f"t{person}") for person in people]
    images = [
        ImageToEnroll(image=None, identity=identity, camera=camera, track=track)
        for camera, _, identity, track in shown
    ]

    def seen(camera, person):
        """Return a picture of which the yard's are half noise in directions of their own."""
        features = vector(person, camera)
        if camera == "yard":
            random = np.random.default_rng((4, person))
            features[24:48] = 0.7 * np.linalg.norm(features) * _unit(random.normal(size=24))
        return features

    vectors = [seen(camera, person) for camera, person, _, _ in shown]
    computed = as_computed(vectors, runtime.model.embedder)
    await runtime.enrollment.enroll(default(runtime), images, computed=computed)
    await fit(runtime)
    await switch(runtime)
    assert state(runtime).state == "not_enough"
    thresholds = published(runtime)
    assert thresholds.spreads["entrance"] == 1.0
    assert thresholds.spreads["yard"] < 0.95

    features = seen("yard", 400)
    needed = {}
    for camera in (*CAMERAS, ELSEWHERE):
        answer = await ask(runtime, features, camera, top_k=PEOPLE, wanted=SearchFilter(named=True))
        cosines = [crop.cosine for crop in answer.results]
        level = float(np.mean(cosines[1:9]))
        tail = thresholds.calibration.tail(PEOPLE, spread=thresholds.spreads.get(camera, 1.0))
        probabilities = tail.probability(np.array(cosines), level)
        np.testing.assert_allclose(
            [crop.probability for crop in answer.results], probabilities, atol=1e-3
        )
        needed[camera] = tail.threshold(0.01, level)
    assert needed["yard"] < needed["entrance"] == needed[ELSEWHERE]


@pytest.mark.promise("centring")
async def test_until_a_gallery_has_switched_its_searches_keep_both_means_and_thresholds(
    runtime, vector
):
    await enroll(runtime, vector)
    await change(runtime, centring="off")
    await fit(runtime)
    features = vector(3, "yard", shot=1)
    plain = told(await ask(runtime, features, "yard"))
    await change(runtime, centring="auto")
    await fit(runtime)
    assert published(runtime).centring.means is not None
    assert state(runtime).state == "not_fitted"
    assert told(await ask(runtime, features, "yard")) == plain
    await switch(runtime)
    centred = told(await ask(runtime, features, "yard"))
    assert centred[0] != plain[0]
    assert centred[2] != plain[2]

    # Other means take their turn in the same way.
    await enroll(runtime, vector, range(PEOPLE, 2 * PEOPLE))
    before = await ask(runtime, features, "yard")
    await fit(runtime)
    assert told(await ask(runtime, features, "yard")) == told(before)
    await switch(runtime)
    after = await ask(runtime, features, "yard")
    assert after.calibration.version != before.calibration.version
    assert after.calibration.identities == 2 * PEOPLE


async def test_a_search_that_began_before_a_switch_is_repeated(runtime, vector, monkeypatch):
    await enroll(runtime, vector)
    await fit(runtime)
    plan = type(runtime.search)._plan_searches
    plans = []

    async def plan_and_switch(self, query):
        planned = await plan(self, query)
        plans.append(planned)
        await switch(runtime)
        return planned

    monkeypatch.setattr(type(runtime.search), "_plan_searches", plan_and_switch)
    answer = await ask(runtime, vector(3, "yard", shot=1), "yard")
    assert len(plans) == 2
    assert answer.calibration.version.endswith(published(runtime).version)
    ((outdated, _), (repeated, _)) = plans
    with pytest.raises(SearchOutdated):
        outdated["default"].propose()
    assert repeated["default"].propose().candidates.cosines[0] == answer.results[0].cosine


@pytest.mark.promise("centring")
async def test_searches_while_a_gallery_switches_to_and_fro_are_judged_by_the_right_pair(
    runtime, vector
):
    await centre(runtime, vector)
    features = vector(3, "yard", shot=1)
    possible = [told(await ask(runtime, features, "yard"))]
    await change(runtime, centring="off")
    possible.append(told(await ask(runtime, features, "yard")))
    await change(runtime, centring="auto")
    answers = []
    done = asyncio.Event()

    async def search():
        while not done.is_set():
            answers.append(told(await ask(runtime, features, "yard")))

    searching = [asyncio.create_task(search()) for _ in range(3)]
    for _ in range(8):
        await switch(runtime)
        answers.append(told(await ask(runtime, features, "yard")))
        await change(runtime, centring="off")
        uncentred = await ask(runtime, features, "yard")
        assert uncentred.calibration.state == "artefact"
        answers.append(told(uncentred))
        await change(runtime, centring="auto")
    done.set()
    await asyncio.gather(*searching)
    assert {possible.index(answer) for answer in answers} == {0, 1}


async def test_a_restart_and_another_process_answer_the_same(
    runtime, other, vector, cosine_artefact, tmp_path
):
    await centre(runtime, vector)
    questions = [(person, camera) for person in (3, 400) for camera in (*CAMERAS, ELSEWHERE)]

    async def answers(asked):
        return [
            told(await ask(asked, vector(person, camera, shot=1), camera))
            for person, camera in questions
        ]

    expected = await answers(runtime)
    eventually(lambda: other.calibrations.wanted_means(default(other)) is not None)
    await switch(other)
    assert await answers(other) == expected
    # Without a switch: a gallery is centred when it is read.
    with running(cosine_artefact, tmp_path) as restarted:
        assert state(restarted) == state(runtime)
        assert await answers(restarted) == expected


async def test_without_calibration_answers_are_those_before_centring(runtime, vector):
    await enroll(runtime, vector)
    features = vector(3, "yard", shot=1)
    await change(runtime, calibration="off")
    plain = told(await ask(runtime, features, "yard"))
    await change(runtime, calibration="on")
    await fit(runtime)
    await switch(runtime)
    centred = told(await ask(runtime, features, "yard"))
    assert centred[0] != plain[0]
    await change(runtime, calibration="off")
    assert state(runtime).state == "off"
    assert told(await ask(runtime, features, "yard")) == plain


async def test_deleted_crops_are_not_found_and_leave_the_means_within_a_day(
    runtime, vector, monkeypatch
):
    await enroll(runtime, vector, range(90))
    await fit(runtime)
    await switch(runtime)
    before = published(runtime)
    gone = range(86, 90)
    in_means = "the means by which the gallery is centred"
    assert in_means in await forget(runtime, *gone)
    features = vector(87, "yard", shot=1)
    answer = await ask(runtime, features, "yard", top_k=200)
    assert len(answer.results) == 2 * 86
    assert not {crop.identity for crop in answer.results} & {f"p{person}" for person in gone}

    assert 0.0 < await fit(runtime) <= refit.MEANS_LAST_SECONDS
    assert published(runtime) == before
    monkeypatch.setattr(refit, "MEANS_LAST_SECONDS", 0.0)
    await fit(runtime)
    await switch(runtime)
    exact = BruteForce(vector, range(86))
    means = published(runtime).centring.means.named
    np.testing.assert_allclose(means.gallery, exact.of_gallery, rtol=0, atol=1e-7)
    for camera in CAMERAS:
        np.testing.assert_allclose(means.cameras[camera], exact.means[camera], rtol=0, atol=1e-7)
    # A gallery that has not changed keeps its means.
    kept = published(runtime)
    await fit(runtime)
    assert published(runtime) == kept


async def test_means_of_deleted_people_go_even_if_too_few_are_left_for_others(
    runtime, vector, monkeypatch
):
    await centre(runtime, vector)
    await forget(runtime, *range(17, PEOPLE))
    features = vector(3, "yard", shot=1)
    among_few = await ask(runtime, features, "yard")
    assert (among_few.calibration.state, among_few.calibration.reason) == ("own", "few_identities")
    assert "at the mean level of their searches" in among_few.calibration.basis
    monkeypatch.setattr(refit, "MEANS_LAST_SECONDS", 0.0)
    await fit(runtime)
    assert state(runtime).state == "not_fitted"
    assert not runtime.record.calibrations.published(default(runtime).gallery_id)
    answer = await ask(runtime, features, "yard")
    assert answer.calibration.state == "artefact"
    assert answer.results[0].cosine == pytest.approx(
        _unit(features) @ _unit(vector(3, "yard")), abs=1e-6
    )
    assert not any("means" in where for where in await forget(runtime, 3))


@pytest.mark.parametrize("people", [1, 12, 30])
async def test_a_filtered_search_of_a_centred_gallery_is_judged_by_its_own_thresholds(
    runtime, vector, people
):
    await centre(runtime, vector)
    thresholds = published(runtime)
    names = frozenset(f"p{person}" for person in range(people))
    wanted = replace(QueryOptions().wanted, identities=names)
    answer = await ask(runtime, vector(400, "yard", shot=1), "yard", wanted=wanted)
    assert answer.calibration.state == "own"
    assert answer.calibration.version.endswith(thresholds.version)
    if people < 18:
        assert answer.calibration.reason == "few_identities"
        spread = thresholds.spreads["yard"]
        tail = thresholds.calibration.tail(people, spread=spread)
        assert answer.needed == pytest.approx(0.91644, abs=1e-3)
        probabilities = tail.probability(
            np.array([crop.cosine for crop in answer.results]), thresholds.level * spread
        )
        np.testing.assert_allclose(
            [crop.probability for crop in answer.results], probabilities, atol=1e-4
        )


async def test_too_few_people_or_no_gain_leave_a_gallery_as_it_is(runtime, vector):
    await enroll(runtime, vector, range(30))
    assert state(runtime).state == "not_fitted"
    await fit(runtime)
    assert state(runtime).state == "not_enough"
    assert published(runtime).centred_by is None
    assert default(runtime).own_index.centred_by is None

    def without_cameras(person, camera):
        return vector(person, "same", shot=CAMERAS.index(camera))

    await enroll(runtime, without_cameras, range(100, 160))
    await forget(runtime, *range(30))
    await fit(runtime)
    described = state(runtime)
    assert (described.state, described.people, described.cameras) == ("no_gain", 60, 0)
    assert described.gain <= described.standard_error
    assert default(runtime).own_index.centred_by is None


async def test_unnamed_crops_count_by_their_track_or_else_by_the_minute(runtime, vector):
    await enroll(runtime, vector, range(30))
    await enroll(runtime, vector, range(200, 300), named=False)
    await fit(runtime)
    # All unnamed crops of a camera without tracks and times count as one.
    assert state(runtime).state == "not_enough"


async def test_a_pair_is_compared_without_the_gallerys_mean(runtime, vector, images):
    options = PairOptions(gallery="default")
    before = await runtime.pairs.compare(images[0], images[1], options)
    await centre(runtime, vector)
    pair = await runtime.pairs.compare(images[0], images[1], options)
    swapped = await runtime.pairs.compare(images[1], images[0], options)
    outcomes = await runtime.model.pipeline.embed([images[0], images[1]])
    mean = published(runtime).centring.means.named.gallery
    first, second = [_unit(_unit(outcome.vector) - mean) for outcome in outcomes]
    assert pair.cosine == pytest.approx(first @ second, abs=1e-5)
    assert swapped == pair
    assert pair.cosine != before.cosine
    plain = await runtime.pairs.compare(images[0], images[1], PairOptions())
    assert plain.cosine == before.cosine
    thresholds = published(runtime)
    tail = thresholds.calibration.tail(PEOPLE)
    probability = tail.probability(np.array([pair.cosine]), thresholds.level)
    assert pair.probability == pytest.approx(float(probability[0]), abs=1e-4)


async def test_background_work_centres_a_gallery_by_itself(runtime, vector, monkeypatch):
    monkeypatch.setattr("service.search.refit.LOOK_EVERY_SECONDS", 0.02)
    monkeypatch.setattr("service.search.centring.LOOK_EVERY_SECONDS", 0.02)
    await enroll(runtime, vector)
    tasks = [
        asyncio.create_task(runtime.fitter.fit_galleries()),
        asyncio.create_task(runtime.centring.keep_centred()),
    ]
    async with asyncio.timeout(60):
        while state(runtime).state != "on":
            await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


LOOKS_OFTEN = (
    "from service.search import centring, refit; "
    "centring.LOOK_EVERY_SECONDS = refit.LOOK_EVERY_SECONDS = 0.1\n"
    f"{START}"
)


@pytest.mark.slow
def test_processes_centre_a_gallery_and_a_killed_one_answers_as_before(
    start, vector, cosine_artefact, tmp_path
):
    served = {"data_dir": tmp_path, "artefact": cosine_artefact, "program": LOOKS_OFTEN}
    one = start(**served)
    other = start(**served)
    embedder = one.read("/v1/model")["embedding_fingerprint"]
    with one.connect(gallery="default") as client:
        for camera in CAMERAS:
            vectors = [vector(person, camera).tolist() for person in range(PEOPLE)]
            names = [f"p{person}" for person in range(PEOPLE)]
            client.enroll_vectors(vectors, embedder, identity=names, camera=camera)

    def centring(process):
        return process.read("/v1/galleries/default")["centring"]

    def answer(process):
        with process.connect(gallery="default") as client:
            query = vector(3, "yard", shot=1).tolist()
            found = client.query_vector(query, embedder, camera="yard", order="score")
        shown = [(crop.crop_id, crop.cosine, crop.verdict) for crop in found.results]
        return shown, found.needed, found.calibration_version

    eventually(lambda: centring(one)["state"] == "on")
    eventually(lambda: centring(other)["state"] == "on")
    described = centring(one)
    assert (described["people"], described["cameras"]) == (PEOPLE, len(CAMERAS))
    expected = answer(one)
    assert answer(other) == expected
    cosines, _ = BruteForce(vector).cosines(vector(3, "yard", shot=1), "yard")
    found = [cosine for _, cosine, _ in expected[0]]
    np.testing.assert_allclose(found, cosines[: len(found)], rtol=0, atol=1e-6)
    one.kill()
    again = start(**served)
    assert centring(again) == described
    assert answer(again) == expected

    changed = again.http.patch("/v1/galleries/default", data={"centring": "off"}).json()
    assert changed["centring"]["state"] == "off"
    assert answer(again) != expected
    eventually(lambda: answer(other)[0] == answer(again)[0])


def test_of_the_shipped_artefacts_those_of_other_projects_are_centred():
    shipped = {name: read_description(path) for name, path in shipped_artefacts().items()}
    centred = {name for name, described in shipped.items() if described.centres_by_camera}
    assert centred == {"open", "small-start"}


@pytest.mark.promise("centring")
@pytest.mark.parametrize("trained", [True, False])
async def test_only_weights_that_this_project_did_not_train_are_centred(
    cosine_artefact, vector, tmp_path, engine, trained
):
    """Galleries of other artefacts have the answers and thresholds of those without cameras."""
    whole = load_artefact(cosine_artefact)
    provenance = whole.description.provenance
    if trained:
        data = TrainingData(
            name="drawn",
            spec="drawn",
            terms="none",
            crops=1,
            identities=1,
            cameras=1,
            fingerprints=0,
        )
        provenance = provenance.model_copy(update={"data": (data,)})
    path = tmp_path / "artefact.safetensors"
    whole.save(path, provenance=provenance.model_dump(mode="json"))
    assert load_artefact(path).description.centres_by_camera != trained
    answers = []
    bodies = []
    for setting, has_cameras in (("auto", True), ("off", True), ("auto", False)):
        with running(path, tmp_path / f"{setting} {has_cameras}") as runtime:
            await change(runtime, centring=setting)
            await enroll(runtime, vector, has_cameras=has_cameras)
            await fit(runtime)
            await switch(runtime)
            answer = await ask(runtime, vector(3, "yard", shot=1), "yard", top_k=2 * PEOPLE)
            answers.append([(crop.cosine, crop.probability) for crop in answer.results])
            bodies.append(published(runtime).calibration)
    assert (answers[0] == answers[1]) == trained
    assert (bodies[0] == bodies[1]) == trained
    assert answers[1] == answers[2]
    assert bodies[1] == bodies[2]
