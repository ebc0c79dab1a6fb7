"""Runtimes compute the same features; OpenVINO is the real one, and needs to be installed."""

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model.artefact import load_artefact, resolve_artefact
from model.crops.decode import decode_crop
from model.runtimes import OpenVinoRuntime
from model.torch_runtime import TorchRuntime
from service.engine.device import DeviceThread, MicroBatcher, WaitingCrop
from service.engine.networks import Networks, _start_of, load_model
from service.errors import DeviceLost
from service.opening import open_folder
from service.ops.metrics import Metrics
from service.settings import Settings
from tests.forked import run_forked

pytest.importorskip("openvino")

TASKS = Path("/proc/self/task")

DROPPED_BY_ANOTHER_THREAD = """
import signal, sys, threading
from pathlib import Path
from model.artefact import load_artefact
from model.runtimes import OpenVinoRuntime

signal.signal(signal.SIGTERM, lambda *_: print("handled"))
held = [OpenVinoRuntime(load_artefact(Path(sys.argv[1])), "float32")]
dropping = threading.Thread(target=held.clear)
dropping.start()
dropping.join()
signal.raise_signal(signal.SIGTERM)
"""


@pytest.fixture(scope="module", params=["tiny", "bundled"])
def artefact(request, tiny_artefact):
    return load_artefact(tiny_artefact if request.param == "tiny" else resolve_artefact("bundled"))


@pytest.fixture(scope="module")
def crops(artefact, drawn_crops):
    resize = artefact.description.preprocessing.resize
    return np.stack([resize(decode_crop(crop.png)) for crop in drawn_crops])


@pytest.fixture(scope="module")
def openvino(artefact):
    return OpenVinoRuntime(artefact, "float32")


@pytest.fixture(scope="module", params=["torch", "openvino"])
def runtime(request, artefact, openvino):
    return openvino if request.param == "openvino" else TorchRuntime(artefact, "float32")


def _cosines(one, other):
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one.astype(np.float64) * other).sum(axis=1) / lengths


def test_features_are_those_of_the_network(runtime, artefact, crops):
    with torch.inference_mode():
        batch = artefact.description.preprocessing.normalise(torch.from_numpy(crops))
        expected = artefact.embedder(batch).numpy()
    found = runtime.embed(crops)
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    assert _cosines(found, expected).min() > 1 - 1e-6


@pytest.mark.promise("same-features")
def test_a_feature_does_not_depend_on_the_size_of_its_batch(runtime, crops):
    crops = crops[:8]
    together = runtime.embed(crops)
    for size in (1, 3):
        alone = np.concatenate(
            [runtime.embed(crops[start : start + size]) for start in range(0, len(crops), size)]
        )
        np.testing.assert_array_equal(alone, together)


def test_openvino_answers_several_threads_at_once(openvino, crops):
    expected = openvino.embed(crops)
    with ThreadPoolExecutor(openvino.at_once) as threads:
        found = list(threads.map(lambda crop: openvino.embed(crop[None])[0], crops))
    np.testing.assert_array_equal(np.stack(found), expected)


async def test_with_openvino_no_crop_waits_for_another_one_or_for_the_device_thread(
    tiny_artefact, drawn_crops, tmp_path
):
    settings = Settings(artefact=str(tiny_artefact), device="cpu", runtime="openvino")
    gate = threading.Event()
    with contextlib.ExitStack() as held:
        device = held.enter_context(DeviceThread())
        record = held.enter_context(contextlib.closing(open_folder(tmp_path)))
        runtimes = record.runtimes
        model = load_model(
            settings.artefact, settings, device, Metrics(), runtimes, held, is_served=True
        )
        device.submit(gate.wait, 60)
        try:
            images = [crop.png for crop in drawn_crops]
            answers = await model.pipeline.embed(images)
        finally:
            gate.set()
    assert len(answers) == len(drawn_crops)
    assert all(len(answer.vector) == model.networks.dimension for answer in answers)


@pytest.mark.slow
def test_a_batch_that_fails_in_openvino_leaves_the_next_one_whole(openvino, crops):
    expected = openvino.embed(crops)
    with pytest.raises(ValueError, match="broadcast"):
        openvino.embed(np.zeros((9, 5, 5, 3), np.uint8))
    np.testing.assert_array_equal(openvino.embed(crops), expected)


def test_batches_are_begun_in_advance_on_a_device_and_not_on_a_cpu(tiny_artefact):
    artefact = load_artefact(tiny_artefact)
    torch_runtime = TorchRuntime(artefact, "float32")
    assert _start_of(torch_runtime) is None
    assert _start_of(OpenVinoRuntime(artefact, "float32")) is None
    torch_runtime.device = "cuda"
    assert _start_of(torch_runtime) == torch_runtime.start


def test_openvino_that_fails_at_every_image_is_a_lost_device(monkeypatch, tiny_artefact):
    artefact = load_artefact(tiny_artefact)
    networks = Networks(artefact, OpenVinoRuntime(artefact, "float32"))
    idle = SimpleNamespace(get=lambda: (_Failing(), {}, {}), put=id)
    monkeypatch.setattr(networks.runtime, "_idle", idle)
    batcher = MicroBatcher(None, networks.runtime.embed, 1, Metrics(), networks.probe)
    crop = WaitingCrop(np.zeros((64, 32, 3), np.uint8))
    with pytest.raises(DeviceLost) as lost:
        batcher.submit(crop)
    assert "it fails at an image that is known to be good" in lost.value.why
    assert crop.future.exception(0) is lost.value


class _Failing:
    """A request as OpenVINO fails it."""

    def start_async(self):
        raise RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:236")


@pytest.mark.parametrize("name", ["small", "bundled"])
def test_threads_that_compute_do_not_give_way_to_other_programs(name):
    artefact = load_artefact(resolve_artefact(name))
    before = set(TASKS.iterdir())
    runtime = OpenVinoRuntime(artefact, "float32")
    preprocessing = artefact.description.preprocessing
    runtime.embed(np.zeros((1, preprocessing.height, preprocessing.width, 3), np.uint8))
    computing = set(TASKS.iterdir()) - before
    assert computing
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in computing} == {own}


def test_openvino_is_loaded_without_its_telemetry(tmp_path):
    load = "from model.openvino_loading import load_openvino; print(load_openvino().__version__)"
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("CI", None)
    run_forked(load, env=environment).check_returncode()
    # An id by which every import is reported would be kept there.
    assert list(tmp_path.iterdir()) == []


def test_a_signal_is_handled_after_another_thread_has_dropped_a_compiled_network(tiny_artefact):
    finished = run_forked(DROPPED_BY_ANOTHER_THREAD, str(tiny_artefact))
    assert (finished.returncode, finished.stdout) == (0, "handled\n"), finished.stderr
