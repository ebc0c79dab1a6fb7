"""The guide's Milvus: processes search in it, it is killed under them, and they leave it again."""

import time

from tests.compose.checks import ask, compare_with, enroll, enroll_here_and_query_there
from tests.compose.deployment import Failed
from tests.conftest import draw_crop

PERSON = 9_000_000
# A gallery of some hundred crops is filled, or a killed Milvus is up again.
WAIT_SECONDS = 180.0
# The time limit of a search, and some for a loaded machine.
REFUSED_SECONDS = 3.0


def search_in_milvus(it, kept):
    """Filled from the record, searched by all, killed and started again; then left."""
    it.do("search in Milvus")
    it.until_ready()
    seconds = _until(lambda: _all_search(it, kept))
    it.say(f"Milvus filled from the record, searched by all after another {seconds:.1f} s")
    compare_with(it, kept, "in Milvus")
    enroll_here_and_query_there(it, kept)

    it.compose("--profile", "milvus", "kill", "milvus")
    with it.through_the_proxy() as http:
        began = time.monotonic()
        refused = ask(http, next(iter(kept.images.values())))
        seconds = time.monotonic() - began
        if refused.status_code != 503 or "retry-after" not in refused.headers:
            raise Failed(f"without Milvus: {refused.status_code} {refused.text[:300]}")
        if seconds > REFUSED_SECONDS:
            raise Failed(f"without Milvus a search was refused after {seconds:.1f} s only")
        image = draw_crop(PERSON, 0, 0)
        version, crop_id = enroll(http, image, "anybody")
        kept.note(version, crop_id, image)
    it.compose("--profile", "milvus", "start", "milvus")
    back = _until(lambda: _all_search(it, kept))
    it.say(
        f"Milvus killed: a search 503 after {seconds:.1f} s, an enrollment 201; back {back:.1f} s"
    )
    compare_with(it, kept, "after kill -9 of Milvus")
    it.do("compare Milvus with the record")

    it.do("leave Milvus")
    it.until_ready()
    compare_with(it, kept, "after Milvus was left")


def _all_search(it, kept):
    image = next(iter(kept.images.values()))
    with it.processes() as processes:
        answers = [ask(http, image, kept.version) for http in processes]
    return all(answer.status_code == 200 for answer in answers)


def _until(done):
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > WAIT_SECONDS:
            raise Failed(f"not within {WAIT_SECONDS:.0f} s")
        time.sleep(0.5)
    return time.monotonic() - began
