"""Micro-batches; the model is a stand-in, so that it can be made to fail."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
import torch

from model.crops.decode import CropProblem
from service.engine.device import DevicePool, MicroBatcher
from service.engine.images import Pipeline
from service.errors import DeviceFull, DeviceLost
from service.ops.metrics import Metrics
from service.ops.threads import MonitoredThreadPool
from service.settings import Settings
from tests.service.engine.conftest import POISON, StandInModel, submit, submit_together, vectors


def test_what_is_ready_together_shares_forward_passes(device):
    model = StandInModel()
    batcher = MicroBatcher(device, model.embed, 4, Metrics())
    futures = submit_together(device, batcher, range(1, 11))
    assert vectors(futures) == list(range(1, 11))
    assert model.passes == [4, 4, 2]


def test_an_image_without_a_usable_vector_fails_alone(device):
    batcher = MicroBatcher(device, StandInModel().embed, 8, Metrics())
    zero, good = submit_together(device, batcher, [0, 5])
    assert good.result(5).vector[0] == 5
    assert isinstance(zero.result(5), CropProblem)


def test_an_image_whose_client_left_is_not_embedded(device):
    model = StandInModel()
    batcher = MicroBatcher(device, model.embed, 8, Metrics())
    gate = threading.Event()
    device.submit(gate.wait)
    gone = submit(batcher, 1)
    stays = submit(batcher, 2)
    gone.cancel()
    gate.set()
    stays.result(5)
    assert model.passes == [1]


def test_without_a_device_thread_an_image_is_embedded_by_the_thread_that_submits_it():
    model = StandInModel()
    batcher = MicroBatcher(None, model.embed, 1, Metrics())
    good = submit(batcher, 1)
    poisoned = submit(batcher, POISON)
    assert good.result(0).vector[0] == 1
    assert isinstance(poisoned.result(0), CropProblem)


class Device:
    """A model on a device that computes a batch only once it is waited for, and notes both."""

    def __init__(self):
        self.model = StandInModel()
        self.done = []

    def start(self, crops):
        self.done.append(f"begin {len(crops)}")

        def wait():
            self.done.append(f"wait {len(crops)}")
            return self.model.embed(crops)

        return wait

    def batcher(self, device, max_batch):
        model = self.model
        return MicroBatcher(device, model.embed, max_batch, Metrics(), model.probe, self.start)


def test_a_device_begins_a_batch_before_the_one_before_is_answered(device):
    model = Device()
    futures = submit_together(device, model.batcher(device, 4), range(1, 10))
    assert vectors(futures) == list(range(1, 10))
    assert model.done == ["begin 4", "begin 4", "wait 4", "wait 4", "begin 1", "wait 1"]


def test_an_image_that_fails_on_a_device_leaves_both_batches_whole(device):
    model = Device()
    values = [1, 2, POISON, 4, 5, 6]
    futures = submit_together(device, model.batcher(device, 3), values)
    outcomes = [future.result(5) for future in futures]
    assert isinstance(outcomes[2], CropProblem)
    found = [outcome.vector[0] for outcome in outcomes if not isinstance(outcome, CropProblem)]
    assert found == [1, 2, 4, 5, 6]


def test_a_batch_that_cannot_be_begun_is_halved(device):
    model = Device()
    begin = model.start

    def start(crops):
        if len(crops) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return begin(crops)

    model.start = start
    futures = submit_together(device, model.batcher(device, 4), range(1, 9))
    assert vectors(futures) == list(range(1, 9))
    assert model.done == ["begin 2", "wait 2"] * 4


def test_a_device_that_is_lost_is_told_to_every_image_of_both_batches(device):
    model = Device()
    model.model.error = RuntimeError("CUDA error: an illegal memory access was encountered")
    for future in submit_together(device, model.batcher(device, 4), range(1, 9)):
        with pytest.raises(DeviceLost):
            future.result(5)


def _pipeline(preprocessing, batcher, threads):
    return Pipeline(preprocessing, batcher, threads, threads, Settings())


async def test_where_an_image_finds_no_memory_the_others_of_its_request_are_left(drawn_crops):
    class Batcher:
        embeds_at_once = False

        def submit(self, crop):
            crop.future.set_running_or_notify_cancel()
            crop.future.set_exception(DeviceFull("a single image"))

    gate = threading.Event()
    decoded = []

    def resize(pixels):
        decoded.append(pixels)
        gate.wait(5 if len(decoded) > 1 else 0)
        return pixels

    preprocessing = SimpleNamespace(resize=resize)
    pipeline = _pipeline(preprocessing, Batcher(), MonitoredThreadPool(1, "decode"))
    with pytest.raises(DeviceFull):
        await pipeline.embed([drawn_crops[0].png] * 20)
    gate.set()
    pipeline.threads.shutdown()
    assert len(decoded) <= 3, "images that no request waits for are decoded"


async def test_a_crop_is_embedded_while_photos_wait_for_the_detector(drawn_crops):
    class Detector:
        def detect(self, _):
            gate.wait(5)
            return []

    gate = threading.Event()
    preprocessing = SimpleNamespace(resize=lambda pixels: pixels)
    batcher = MicroBatcher(None, StandInModel().embed, 1, Metrics())
    threads = MonitoredThreadPool(1, "decode")
    large_threads = MonitoredThreadPool(1, "decode large")
    pipeline = Pipeline(preprocessing, batcher, threads, large_threads, Settings())
    photos = [
        asyncio.create_task(pipeline.detect_people(drawn_crops[0].png, Detector()))
        for _ in range(3)
    ]
    await asyncio.sleep(0.05)
    await pipeline.embed([drawn_crops[1].png])
    assert not any(photo.done() for photo in photos)
    gate.set()
    await asyncio.gather(*photos)
    threads.shutdown()
    large_threads.shutdown()


async def test_images_that_wait_while_the_device_is_lost_are_answered(drawn_crops):
    def embed(crops):
        gate.wait(5)
        raise DeviceLost("it is gone")

    whole = SimpleNamespace(resize=lambda pixels: pixels)
    threads = DevicePool(lambda _: None, 1, "decode")
    gate = threading.Event()
    pipeline = _pipeline(whole, MicroBatcher(None, embed, 1, Metrics()), threads)

    asked = [asyncio.create_task(pipeline.embed([drawn_crops[0].png])) for _ in range(3)]
    await asyncio.sleep(0.05)
    gate.set()
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(error) for error in told] == [DeviceLost] * 3
    threads.shutdown()


async def test_the_event_loop_is_woken_once_for_all_images_of_a_request(drawn_crops, monkeypatch):
    woken = []
    loop = asyncio.get_running_loop()
    wake = loop.call_soon_threadsafe

    def counted(*arguments):
        woken.append(1)
        return wake(*arguments)

    class Batcher:
        embeds_at_once = False

        def submit(self, crop):
            crop.future.set_running_or_notify_cancel()
            crop.future.set_result(len(woken))

    preprocessing = SimpleNamespace(resize=lambda pixels: pixels)
    pipeline = _pipeline(preprocessing, Batcher(), MonitoredThreadPool(2, "decode"))
    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    assert await pipeline.embed([drawn_crops[0].png] * 20) == [0] * 20
    assert await pipeline.embed([]) == []
    pipeline.threads.shutdown()
    assert woken == [1]
