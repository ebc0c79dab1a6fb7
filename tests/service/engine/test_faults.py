"""The device fails: torch's own errors, raised here where there is no GPU."""

import math

import numpy as np
import pytest
import torch

from model.artefact import load_artefact
from model.crops.decode import CropProblem
from model.torch_runtime import TorchRuntime
from service.engine.device import MicroBatcher, bisect_failures, device_error
from service.engine.networks import PAIRS_PER_PASS, Networks
from service.errors import DeviceFull, DeviceLost
from service.ops.metrics import Metrics
from tests.service.engine.conftest import POISON, StandInModel, submit, submit_together, vectors

# As c10/cuda/CUDAException.cpp of torch 2.12 words them, with the code that it sets beside.
ILLEGAL_ADDRESS = """CUDA error: an illegal memory access was encountered
Search for `cudaErrorIllegalAddress' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information.
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Device-side assertion tracking was not enabled by user."""  # noqa: E501
OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB of "
    "which 1.12 GiB is free."
)


def accelerator_error(text, code=None):
    error = torch.AcceleratorError(text)
    if code is not None:
        error.error_code = code
    return error


LOST = [
    accelerator_error(ILLEGAL_ADDRESS, 700),
    accelerator_error("CUDA error: device-side assert triggered", 710),
    accelerator_error("CUDA error: unspecified launch failure", 719),
    accelerator_error("CUDA error: uncorrectable ECC error encountered", 214),
    accelerator_error("CUDA error: worded as it never was before", 700),
    accelerator_error("CUDA error: something that has no code"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
]
FULL = [
    torch.OutOfMemoryError(OUT_OF_MEMORY),
    torch.cuda.OutOfMemoryError("worded as it never was before"),
    accelerator_error("CUDA error: out of memory", 2),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
OTHERS = [
    accelerator_error("CUDA error: invalid configuration argument", 9),
    RuntimeError("Expected 4D input (got 3D input)"),
    ValueError("CUDA out of memory, says a user"),
]


def test_errors_are_told_apart_by_what_they_mean_for_the_device():
    for error in LOST:
        told = device_error(error)
        assert isinstance(told, DeviceLost), error
        assert told.why == str(error).splitlines()[0]
        assert told.retry_after_s > 0
    for error in FULL:
        assert isinstance(device_error(error), DeviceFull), error
    for error in OTHERS:
        assert device_error(error) is error


def test_a_bad_one_among_many_costs_two_passes_a_halving():
    for bad in range(64):
        passes = []
        done = []

        def work(group, bad=bad, passes=passes, done=done):
            passes.append(len(group))
            if bad in group:
                raise RuntimeError("poison")
            done.extend(group)

        failures = bisect_failures(range(64), work)
        assert [item for item, _ in failures] == [bad]
        assert sorted(done) == [number for number in range(64) if number != bad]
        assert len(passes) == 1 + 2 * math.log2(64)


@pytest.fixture
def small():
    return StandInModel(no_room=torch.OutOfMemoryError(OUT_OF_MEMORY))


@pytest.fixture
def batcher(device, small):
    metrics = Metrics()
    one = MicroBatcher(device, small.embed, 32, metrics, small.probe)
    one.metrics = metrics
    return one


def test_a_batch_without_room_is_halved_until_there_is(device, batcher, small):
    small.room = 10
    values = list(range(20, 52))
    assert vectors(submit_together(device, batcher, values)) == values
    assert small.passes == [32, 16, 8, 8, 16, 8, 8]
    assert batcher.metrics.device_out_of_memory._value.get() == 3


def test_a_single_image_without_room_is_told_to_come_again_and_is_not_to_blame(
    device, batcher, small
):
    small.room = 0
    (future,) = submit_together(device, batcher, [5])
    with pytest.raises(DeviceFull, match="lower GMN_MAX_BATCH") as full:
        future.result(5)
    assert full.value.retry_after_s > 0
    small.room = 1
    assert vectors(submit_together(device, batcher, [5])) == [5]


@pytest.mark.promise("3")
def test_a_poisoned_image_is_isolated_and_the_others_have_their_answers(device, batcher, small):
    values = [*range(20, 51), POISON]
    *good, poisoned = submit_together(device, batcher, values)
    assert vectors(good) == values[:-1]
    problem = poisoned.result(5)
    assert isinstance(problem, CropProblem)
    assert "poison" in problem.detail
    # One more pass probes the device with a good crop.
    assert len(small.passes) == 1 + 2 * math.log2(32) + 1
    assert vectors(submit_together(device, batcher, [9])) == [9]


def test_where_what_is_known_to_be_good_fails_too_the_device_is_lost(device, batcher, small):
    def probe():
        raise RuntimeError("nothing works any more")

    batcher._probe = probe
    (poisoned,) = submit_together(device, batcher, [POISON])
    with pytest.raises(DeviceLost):
        poisoned.result(5)
    # Refused at once or, where it was in line before the thread had noted the loss, answered it.
    with pytest.raises(DeviceLost):
        device.submit(lambda: None).result(5)


def test_when_the_device_is_lost_everybody_in_line_is_told(device, batcher, small):
    small.error = accelerator_error(ILLEGAL_ADDRESS, 700)
    futures = submit_together(device, batcher, range(20, 100))
    for future in futures:
        with pytest.raises(DeviceLost):
            future.result(5)
    assert small.passes == [32]
    for value in (1, 2):
        with pytest.raises(DeviceLost):
            submit(batcher, value).result(5)


@pytest.fixture(scope="module")
def networks(tiny_artefact):
    artefact = load_artefact(tiny_artefact)
    return Networks(artefact, TorchRuntime(artefact, "float32"))


def _failing_pass(monkeypatch, networks, fails):
    """Let M-Net's real pass call `fails` first, which may raise."""
    whole = networks._score_padded

    def run(queries, candidates):
        fails(candidates)
        return whole(queries, candidates)

    monkeypatch.setattr(networks, "_score_padded", run)


def test_a_stored_vector_that_breaks_m_net_is_ranked_without_a_score(monkeypatch, networks):
    random = np.random.default_rng(3)
    queries, candidates = (
        random.normal(size=(rows, networks.dimension)).astype(np.float32) for rows in (2, 300)
    )
    candidates[217, 0] = 1234.5
    whole = networks.pair_scores(queries, candidates)
    passes = []

    def fails(padded):
        passes.append(1)
        assert padded.shape[0] == PAIRS_PER_PASS, "the last digits depend on the height"
        if (padded[:, 0] == 1234.5).any():
            raise RuntimeError("poison")

    _failing_pass(monkeypatch, networks, fails)
    scores = networks.pair_scores(queries, candidates)
    assert np.isnan(scores[217])
    others = np.arange(300) != 217
    np.testing.assert_array_equal(scores[others], whole[others])
    assert len(passes) <= 3 + 2 * 2 * math.ceil(math.log2(300))
    with pytest.raises(RuntimeError, match="poison"):
        networks.pair_scores(queries, candidates[217:218])


@pytest.mark.filterwarnings("error")
def test_stored_vectors_are_scored_as_others_though_nothing_may_write_them(networks):
    vectors = np.random.default_rng(4).normal(size=(2, networks.dimension)).astype(np.float32)
    stored = np.frombuffer(vectors.tobytes(), np.float32).reshape(vectors.shape)
    expected = networks.pair_scores(vectors, vectors)
    torch.set_warn_always(True)
    try:
        np.testing.assert_array_equal(networks.pair_scores(stored, stored), expected)
    finally:
        torch.set_warn_always(False)


def test_m_net_without_room_tries_once_more_and_then_says_so(monkeypatch, networks):
    vectors = np.ones((3, networks.dimension), np.float32)
    whole = networks.pair_scores(vectors, vectors)
    raised = [torch.OutOfMemoryError(OUT_OF_MEMORY)]

    def fails(_):
        if raised:
            raise raised.pop()

    _failing_pass(monkeypatch, networks, fails)
    np.testing.assert_array_equal(networks.pair_scores(vectors, vectors), whole)
    raised += [torch.OutOfMemoryError(OUT_OF_MEMORY) for _ in range(100)]
    with pytest.raises(DeviceFull):
        networks.pair_scores(vectors, vectors)


def test_a_search_that_the_device_has_no_room_for_is_done_in_the_hosts_memory(monkeypatch):
    from service.record.values import ArchivedCrop, LabelledCrop
    from tests.service.filled_index import FilledIndex

    random = np.random.default_rng(5)
    vectors = random.normal(size=(200, 16)).astype(np.float32)
    monkeypatch.setattr("service.index.gallery_index.DELTA_ROWS", 8)
    index = FilledIndex(16)
    index.fill(
        ArchivedCrop(LabelledCrop(slot=number, crop_id=f"{number}"), vector)
        for number, vector in enumerate(vectors, 1)
    )
    index.renew_segment("cpu")
    on_device = index.search(vectors[:1], [None], 10)

    def fails(*_):
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    monkeypatch.setattr("service.index.gpu.DeviceVectors.nearest", fails)
    on_host = index.search(vectors[:1], [None], 10)
    np.testing.assert_array_equal(on_host.slots, on_device.slots)
    np.testing.assert_array_equal(on_host.cosines, on_device.cosines)
