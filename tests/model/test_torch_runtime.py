"""The embedder in PyTorch: a feature does not depend on its batch, and weights are cast once."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.profiler import ProfilerActivity, profile

from model.artefact import load_artefact, resolve_artefact
from model.preprocessing import _on_device, drawn_patterns
from model.torch_runtime import (
    BatchSizes,
    TorchRuntime,
    batch_sizes_of,
    recorded,
    split_batch,
)


@pytest.fixture(scope="module")
def artefact(tiny_artefact):
    return load_artefact(tiny_artefact)


@pytest.fixture(scope="module")
def crops(artefact):
    patterns = drawn_patterns(artefact.description.preprocessing)
    noise = np.random.default_rng(0).integers(0, 40, (20, *patterns.shape[1:]), np.uint8)
    return np.resize(patterns, noise.shape) // 2 + noise


@pytest.mark.promise("same-features")
@pytest.mark.parametrize(
    "sizes", [None, BatchSizes(4, (1, 2, 4, 8)), BatchSizes(4, (4, 8))], ids=str
)
def test_a_feature_is_the_same_to_the_last_digit_in_every_batch_and_place(artefact, crops, sizes):
    runtime = TorchRuntime(artefact, "float32", sizes=sizes)
    alone = np.concatenate([runtime.embed(crop[None]) for crop in crops])
    np.testing.assert_array_equal(runtime.embed(crops), alone)
    np.testing.assert_array_equal(runtime.embed(crops[::-1].copy()), alone[::-1])
    for count in (2, 3, 5, 8, 13):
        np.testing.assert_array_equal(runtime.embed(crops[:count]), alone[:count])


def test_on_a_cpu_each_crop_is_computed_alone(artefact):
    assert TorchRuntime(artefact, "float32").batch_sizes == (1,)


class _Unequal(TorchRuntime):
    """Batches of some sizes give other last digits, as on a GPU by other kernels."""

    def _compute(self, batch):
        features = batch.double().mean(dim=(1, 2)).float()
        return features + 1e-6 if len(batch) in (2, 8) else features


class _Placed(_Unequal):
    """The last places of a batch of four have other digits."""

    def _compute(self, batch):
        is_late = torch.arange(len(batch)) >= 2 if len(batch) == 4 else torch.zeros(len(batch))
        return super()._compute(batch) + 1e-3 * is_late[:, None]


class _Small(_Unequal):
    """A batch of sixteen finds no memory."""

    def _compute(self, batch):
        if len(batch) == 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._compute(batch)


@pytest.mark.promise("same-features")
def test_sizes_that_give_other_digits_than_the_reference_are_not_used(artefact, crops):
    runtime = _Unequal(artefact, "float32", sizes=BatchSizes(4, (1, 2, 4, 8, 16)))
    assert runtime.batch_sizes == (1, 4, 16)
    alone = np.concatenate([runtime.embed(crop[None]) for crop in crops])
    for count in (2, 8, 19):
        np.testing.assert_array_equal(runtime.embed(crops[:count]), alone[:count])


@pytest.mark.promise("same-features")
def test_where_a_place_changes_the_digits_each_crop_is_computed_alone(artefact):
    assert _Placed(artefact, "float32", sizes=BatchSizes(4, (1, 4, 16))).batch_sizes == (1,)


def test_a_size_without_memory_is_not_used(artefact):
    assert _Small(artefact, "float32", sizes=BatchSizes(4, (4, 16))).batch_sizes == (4,)


def test_every_size_that_a_batch_may_have_was_computed_before_the_first_batch(artefact, crops):
    computed = []

    class Counted(_Unequal):
        def _compute(self, batch):
            computed.append(len(batch))
            return super()._compute(batch)

    runtime = Counted(artefact, "float32", sizes=BatchSizes(4, (1, 4, 16)))
    at_start = set(computed)
    computed.clear()
    for count in range(1, len(crops) + 1):
        runtime.embed(crops[:count])
    assert set(computed) <= at_start


def test_the_sizes_of_a_gpu_hold_the_largest_batch_and_no_larger_one():
    assert batch_sizes_of("cuda", 128) == BatchSizes(32, (1, 2, 4, 8, 16, 32, 64, 128))
    assert batch_sizes_of("cuda", 40).candidates[-2:] == (32, 64)
    assert batch_sizes_of("cuda", 8).candidates == (1, 2, 4, 8)


def test_batches_that_are_begun_together_have_their_own_features(artefact, crops):
    runtime = TorchRuntime(artefact, "float32")
    first = runtime.start(crops[:3])
    second = runtime.start(crops[3:5])
    np.testing.assert_array_equal(second(), runtime.embed(crops[3:5]))
    np.testing.assert_array_equal(first(), runtime.embed(crops[:3]))


def test_a_batch_is_split_into_passes_of_the_largest_size_and_the_smallest_for_the_rest():
    parts = [(part.start, part.stop, size) for part, size in split_batch(21, (1, 4, 8))]
    assert parts == [(0, 8, 8), (8, 16, 8), (16, 21, 8)]
    assert [size for _, size in split_batch(11, (1, 4, 8))] == [8, 4]
    assert [size for _, size in split_batch(1, (1, 4, 8))] == [1]


def test_a_pass_needs_no_tensor_of_the_cpu(artefact):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    preprocessing = artefact.description.preprocessing
    embedder = TorchRuntime(artefact, "float32")._embedder
    # Tensors without values have the device that they would have.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        weights = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
            for name, tensor in embedder.state_dict().items()
        }
        shape = (4, preprocessing.height, preprocessing.width, 3)
        batch = torch.empty(shape, dtype=torch.uint8, device="cuda")
        features = functional_call(embedder, weights, (preprocessing.normalise(batch),))
    _on_device.cache_clear()
    assert features.device.type == "cuda"
    assert len(features) == 4


class _Streams:
    """Streams and pinned memory of `torch.cuda` on the CPU, where everything is done at once."""

    def __init__(self, monkeypatch):
        self.done = []
        empty = torch.empty

        def unpinned(*shape, **options):
            return empty(*shape, **(options | {"pin_memory": False}))

        monkeypatch.setattr(torch, "empty", unpinned)
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self)
        monkeypatch.setattr(torch.cuda, "Event", lambda: self)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: self.done.append("keep"))

    @contextlib.contextmanager
    def stream(self, _):
        self.done.append("copy")
        yield

    def wait_stream(self, _):
        self.done.append("wait for the copy")

    def record(self):
        self.done.append("note the end")

    def synchronize(self):
        self.done.append("wait for the end")


def test_on_a_gpu_a_batch_is_copied_in_a_stream_of_its_own_and_waited_for_once(
    artefact, crops, monkeypatch
):
    runtime = TorchRuntime(artefact, "float32", sizes=BatchSizes(4, (4,)))
    expected = runtime.embed(crops[:3])
    streams = _Streams(monkeypatch)
    runtime._copies = streams
    wait = runtime.start(crops[:3])
    assert streams.done == ["copy", "wait for the copy", "keep", "note the end"]
    np.testing.assert_array_equal(wait(), expected)
    assert streams.done[4:] == ["wait for the end"]


class _Graph:
    """Graphs of `torch.cuda` on the CPU: a replay computes the recorded call again."""

    def __init__(self, monkeypatch):
        self.computes = []
        self.replays = 0
        names = ("Stream", "current_stream", "stream", "CUDAGraph", "graph")
        for name in names:
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def Stream(self):  # noqa: N802
        return SimpleNamespace(wait_stream=lambda _: None)

    current_stream = Stream

    def stream(self, _):
        return contextlib.nullcontext()

    def CUDAGraph(self):  # noqa: N802
        return self

    def graph(self, *_, **__):
        return contextlib.nullcontext()

    def replay(self):
        self.replays += 1
        static, result, compute = self.computes[-1]
        result.copy_(compute(static))


def test_a_graph_is_recorded_once_and_replays_each_batch(monkeypatch):
    graph = _Graph(monkeypatch)

    def compute(batch):
        result = batch * 2
        graph.computes.append((batch, result, lambda batch: batch * 2))
        return result

    replay = recorded(compute, torch.ones(3))
    calls = len(graph.computes)
    for value in (5.0, 7.0):
        assert torch.equal(replay(torch.full((3,), value)), torch.full((3,), 2 * value))
    assert (len(graph.computes), graph.replays) == (calls, 2)


def test_without_a_gpu_batches_are_computed_without_a_graph_and_the_log_says_so(
    artefact, crops, caplog
):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    runtime = TorchRuntime(artefact, "float32", cuda_graphs=True)
    expected = TorchRuntime(artefact, "float32").embed(crops[:3])
    for _ in range(2):
        np.testing.assert_array_equal(runtime.embed(crops[:3]), expected)
    (message,) = [record.message for record in caplog.records if "CUDA graph" in record.message]
    assert message.startswith("batches of 1 are computed without a CUDA graph: ")


def _casts(runtime, crops):
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        runtime.embed(crops)
    return sum(event.count for event in profiled.key_averages() if event.key == "aten::_to_copy")


def test_a_pass_in_bfloat16_casts_no_weights_of_convolutions():
    runtime = TorchRuntime(load_artefact(resolve_artefact("small")), "bfloat16")
    crops = drawn_patterns(runtime._preprocessing)[:1]
    runtime.embed(crops)
    # It was 368 when autocast cast the weights at each pass.
    assert _casts(runtime, crops) <= 110
    head = [tensor for name, tensor in runtime._embedder.named_parameters() if "head" in name]
    assert {tensor.dtype for tensor in head} == {torch.float32}


def test_weights_that_are_cast_once_give_the_features_of_autocast(artefact, crops):
    runtime = TorchRuntime(artefact, "bfloat16")
    whole = TorchRuntime(artefact, "float32")
    whole.dtype = "bfloat16"
    np.testing.assert_array_equal(runtime.embed(crops[:3]), whole.embed(crops[:3]))
