"""A short search and a long one, which run on other threads and find the same."""

import threading

import pytest

from service.gallery.enroll import ImageToEnroll
from service.index import columns as columns
from service.index.filters import SearchFilter, pairs_of
from service.record.values import GallerySettings
from service.search.options import QueryOptions
from service.search.query import GalleriesQuery
from service.search.ranking import Search
from tests.service.conftest import running

OPTIONS = {
    "plain": {},
    "by cosine": {"scoring": "cosine"},
    "by identity": {"group_by": "identity", "top_k": 3},
    "by track": {"group_by": "track"},
    "of one camera": {"wanted": SearchFilter(cameras=("west",))},
    "by metadata": {"wanted": SearchFilter(metadata=pairs_of({"shift": "night"}))},
}


@pytest.fixture(scope="module")
def runtime(tiny_artefact, data_dir):
    with running(tiny_artefact, data_dir) as opened:
        # With PyTorch each search is long.
        opened.model.pipeline.embeds_at_once = True
        yield opened


async def _gallery_of(runtime, name, images):
    await runtime.galleries.create(name, GallerySettings())
    gallery = await runtime.galleries.find(name)
    labelled = [
        ImageToEnroll(
            image=image,
            identity=f"person {number // 3}",
            camera=["west", "north"][number % 2],
            track=f"track {number // 4}",
            metadata={"shift": ["night", "day"][number % 3 == 0]},
        )
        for number, image in enumerate(images)
    ]
    await runtime.enrollment.enroll(gallery, labelled)
    return gallery


async def _answer(runtime, gallery, images, options):
    query = GalleriesQuery([gallery.name], images, options, sample=False)
    (answered,) = await runtime.search.answer(query)
    return answered.answer.model_dump(exclude={"timing_ms"})


@pytest.fixture
def threads_of_steps(monkeypatch):
    """Return a list to which the name of the thread is added that proposes crops."""
    names = []
    propose = Search.propose

    def propose_and_note(search, *args):
        names.append(threading.current_thread().name)
        return propose(search, *args)

    monkeypatch.setattr(Search, "propose", propose_and_note)
    return names


@pytest.mark.parametrize("options", OPTIONS.values(), ids=[*OPTIONS])
async def test_a_short_search_finds_what_a_long_one_does(
    runtime, images, options, monkeypatch, threads_of_steps, request
):
    gallery = await _gallery_of(runtime, request.node.callspec.id, images[1:])
    asked = QueryOptions(**options)
    short = await _answer(runtime, gallery, images[:1], asked)
    monkeypatch.setattr(Search, "is_short", False)
    long = await _answer(runtime, gallery, images[:1], asked)
    assert short["results"]
    assert short == long
    of_short, of_long = threads_of_steps
    assert of_short.startswith("decode threads")
    assert of_long.startswith("device thread")


async def test_a_search_that_has_many_labels_to_read_first_lets_others_run(
    runtime, images, monkeypatch, threads_of_steps
):
    monkeypatch.setattr(columns, "SLOTS_PER_STEP", 2)
    gallery = await _gallery_of(runtime, "unread labels", images[1:])
    asked = QueryOptions(group_by="track")
    first = await _answer(runtime, gallery, images[:1], asked)
    again = await _answer(runtime, gallery, images[:1], asked)
    assert first == again
    of_first, of_again = threads_of_steps
    assert of_first.startswith("device thread")
    assert of_again.startswith("decode threads")
