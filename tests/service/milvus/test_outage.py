"""Milvus away, or hanging: searches are refused at once, writes go on, and all is made up for."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest

from service.errors import IndexUnavailable
from tests.service.milvus.conftest import KINDS
from tests.service.milvus.lab import drawn, drawn_crop, lab
from tests.service.milvus.servers import milvus_server
from tests.waiting import eventually

# A real Milvus loads collections for most of a minute.
RECOVERED_SECONDS = 150.0


@pytest.fixture(params=KINDS)
def alone(request, tmp_path):
    """Return a record with its indexer, and a server that no other test uses."""
    with milvus_server(request.param) as server, lab(tmp_path, server) as one:
        yield one, server


def _refused_seconds(one, gallery):
    began = time.monotonic()
    with pytest.raises(IndexUnavailable, match="Milvus cannot be searched"):
        one.found(gallery, drawn(1))
    return time.monotonic() - began


def _write_while_away(one, gallery, rows):
    added = one.enroll(gallery, drawn_crop(50), drawn_crop(51))
    one.remove(gallery, rows[:2])
    return rows[2:] + added


def _made_up_for(one, gallery, left):
    one.caught_up(gallery, RECOVERED_SECONDS)

    def found():
        with contextlib.suppress(IndexUnavailable):
            return sorted(one.found(gallery, drawn(50))) == left
        return False

    eventually(found, RECOVERED_SECONDS)
    assert not one.writer.differing(gallery.gallery_id)


def test_a_killed_milvus_refuses_at_once_and_is_caught_up_by_itself(alone):
    one, server = alone
    gallery = one.gallery()
    rows = one.enroll(gallery, *(drawn_crop(number) for number in range(20)))
    one.caught_up(gallery)
    server.kill()
    refused = [_refused_seconds(one, gallery) for _ in range(3)]
    # The first may begin a connection anew; the service's own limit cuts it off.
    assert min(refused) < 1.5
    left = _write_while_away(one, gallery, rows)
    server.start()
    _made_up_for(one, gallery, left)


def test_a_milvus_that_hangs_refuses_in_time_and_is_caught_up_by_itself(alone):
    one, server = alone
    gallery = one.gallery()
    rows = one.enroll(gallery, *(drawn_crop(number) for number in range(20)))
    one.caught_up(gallery)
    server.send(signal.SIGSTOP)
    assert _refused_seconds(one, gallery) < 1.5
    left = _write_while_away(one, gallery, rows)
    server.send(signal.SIGCONT)
    _made_up_for(one, gallery, left)


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
