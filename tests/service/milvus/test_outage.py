"""Milvus away, or hanging: searches are refused at once, writes go on, and all is made up for."""

import contextlib
import signal

import pytest

from service.errors import IndexUnavailable
from service.milvus.index import SEARCH_SECONDS
from tests.service.milvus.conftest import KINDS
from tests.service.milvus.lab import drawn, drawn_crop, lab
from tests.service.milvus.servers import milvus_server
from tests.waiting import eventually

pytestmark = pytest.mark.promise("milvus-outage")

# A real Milvus loads collections for most of a minute.
RECOVERED_SECONDS = 150.0


def _require_refusal(one, gallery):
    with pytest.raises(IndexUnavailable, match="Milvus cannot be searched"):
        one.found(gallery, drawn(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trouble", ["killed", "hanging"])
def test_a_milvus_that_is_away_refuses_in_time_and_is_caught_up_by_itself(tmp_path, kind, trouble):
    with milvus_server(kind) as server, lab(tmp_path, server) as one:
        gallery, rows = one.indexed(*range(20))
        if trouble == "killed":
            server.kill()
        else:
            server.send(signal.SIGSTOP)
        # It is refused while the server is away, within the time that a search may take.
        assert SEARCH_SECONDS <= 1.0
        _require_refusal(one, gallery)
        left = rows[2:] + one.enroll(gallery, drawn_crop(50), drawn_crop(51))
        one.remove(gallery, *rows[:2])
        if trouble == "killed":
            server.start()
        else:
            server.send(signal.SIGCONT)
        one.caught_up(gallery, RECOVERED_SECONDS)

        def all_are_found():
            with contextlib.suppress(IndexUnavailable):
                return sorted(one.found(gallery, drawn(50))) == left
            return False

        eventually(all_are_found, RECOVERED_SECONDS)
        assert one.is_whole(gallery)


def test_a_milvus_that_starts_later_is_found(tmp_path):
    with milvus_server("lite") as server:
        server.kill()
        with lab(tmp_path, server) as one:
            gallery = one.gallery()
            rows = one.enroll(gallery, drawn_crop(1))
            assert one.state(gallery).collection == ""
            server.start()
            one.caught_up(gallery)
            assert one.found(gallery, drawn(1)) == rows
