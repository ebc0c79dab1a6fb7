"""Leave-one-identity-out searches through an index outside the process."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from model.calibration import Fusion
from service.engine.device import DeviceThread
from service.ops.health import MonitoredThreadPool
from service.search.leave_one_out import NamedCrops, search_left_out
from service.search.leave_one_out_outside import search_left_out_outside
from tests.service.gallery.new_crops import EMBEDDER
from tests.service.milvus.test_searching import Lab, _crop

PEOPLE = 60
CROPS = 2
# A pair's logit depends on the candidate and not on its length.
NETWORKS = SimpleNamespace(
    pair_scores=lambda _, others: others[:, 0] / np.linalg.norm(others, axis=1)
)


@pytest.fixture(params=[False, True], ids=["cosine", "mnet"])
def model(request):
    fusion = Fusion(cosine_weight=1.0, mnet_weight=1.0, offset=0.0) if request.param else None
    scorings = ("cosine", "mnet", "fused") if request.param else ("cosine",)
    calibration = SimpleNamespace(fusion=fusion)
    description = SimpleNamespace(scorings=scorings, calibration=calibration)
    return SimpleNamespace(networks=NETWORKS, description=description)


@pytest.mark.parametrize("cameras", [("east", "west"), ("east",)], ids=["two cameras", "one"])
def test_a_sample_that_is_the_whole_gallery_finds_what_an_index_of_the_process_finds(
    tmp_path, model, cameras
):
    lab = Lab(tmp_path, crops=0)
    crops = [
        _crop(
            number,
            identity=f"person {number % PEOPLE}" if number < PEOPLE * CROPS else None,
            camera=cameras[number % 7 % len(cameras)],
        )
        for number in range(PEOPLE * CROPS + 30)
    ]
    lab.record.crops.enroll(lab.number, EMBEDDER, crops)
    lab.index()
    threads = MonitoredThreadPool(1, "calibration")
    device = DeviceThread()
    pools = SimpleNamespace(calibration=threads)
    runtime = SimpleNamespace(record=lab.record, outside=lab.indexes, pools=pools, device=device)
    gallery = SimpleNamespace(gallery_id=lab.number, index=lab.index_outside)
    with contextlib.closing(lab.record):
        named = NamedCrops.of(lab.inside().table)
        expected = asyncio.run(search_left_out(named, model, device, threads))
        found = asyncio.run(search_left_out_outside(runtime, gallery, model))
    device.shutdown()
    threads.shutdown()
    lab.indexes.close()
    assert found.keys() == expected.keys()
    for scoring, searches in found.items():
        (one,) = searches
        same = expected[scoring][0]
        assert one.identities == same.identities == len(np.unique(one.names)) == PEOPLE
        assert len(one.leaders) == PEOPLE * CROPS
        ours, theirs = (np.sort(each.leaders, axis=0) for each in (one, same))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
