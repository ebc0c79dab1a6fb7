"""The runtime of a record's features is measured once and kept; stand-ins have their own clock."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from model import runtimes as computing
from model.artefact import load_artefact, resolve_artefact
from model.precision import cpu_has_bfloat16
from model.problems import InputProblem
from model.runtimes import TorchOptions, build_runtime
from model.torch_runtime import TorchRuntime
from service.engine import runtimes
from service.engine.runtimes import RuntimeChoice, choose_runtime, prefer
from service.errors import StorageFailed
from service.opening import open_folder
from service.settings import Settings
from service.store.command import store as store_command

pytestmark = pytest.mark.promise("same-features")

SECONDS = {"torch": 2.0, "openvino": 1.0}


@pytest.fixture
def artefact(tiny_artefact):
    return load_artefact(tiny_artefact)


@pytest.fixture
def records(tmp_path):
    store = open_folder(tmp_path)
    yield store.runtimes
    store.close()


@pytest.fixture
def built(monkeypatch):
    """Build stand-ins that compute in PyTorch and take the `SECONDS`, and list them."""
    built = []
    clock = [0.0]
    monkeypatch.setattr(runtimes, "time", SimpleNamespace(process_time=lambda: clock[0]))

    class StandIn(TorchRuntime):
        def __init__(self, artefact, name, dtype, options=computing.ON_CPU):
            super().__init__(artefact, "float32")
            self.name = name
            self.dtype = dtype
            self.device = options.device
            self.options = options
            built.append(f"{name} {dtype}")

        def embed(self, crops):
            clock[0] += SECONDS[self.name]
            return super().embed(crops)

    monkeypatch.setattr(computing, "build_runtime", StandIn)
    return built


def _settings(**given):
    return Settings(**{"device": "cpu"} | given)


def _choose(artefact, records, **given):
    return choose_runtime(artefact, _settings(**given), records)


def test_every_pace_is_shown(artefact, records, built):
    runtime, choice = _choose(artefact, records, dtype="float32")
    assert (runtime.name, choice.runtime, choice.dtype) == ("openvino", "openvino", "float32")
    paces = choice.crops_per_cpu_second
    assert paces["openvino float32"] == 2 * paces["torch float32"] > 0


@pytest.mark.parametrize(
    ("seconds", "chosen"), [(1.9, "openvino"), (1.7, "openvino"), (1.5, "torch")]
)
def test_pytorch_is_chosen_only_if_it_is_clearly_faster(
    artefact, records, built, monkeypatch, seconds, chosen
):
    monkeypatch.setattr(sys.modules[__name__], "SECONDS", {"torch": seconds, "openvino": 2.0})
    assert _choose(artefact, records, dtype="float32")[1].runtime == chosen


def rounds_of(**seconds):
    """Return the rounds of the candidates, each with its seconds in every round."""
    rounds = zip(*seconds.values(), strict=True)
    return [dict(zip(seconds, measured, strict=True)) for measured in rounds]


def test_one_disturbed_round_changes_nothing():
    assert prefer(rounds_of(openvino=[1.0, 9.0, 1.0], torch=[3.0, 3.0, 3.0])) == "openvino"
    assert prefer(rounds_of(openvino=[9.0, 9.0, 1.0], torch=[3.0, 3.0, 3.0])) == "openvino"
    assert prefer(rounds_of(openvino=[3.0, 3.0, 3.0], torch=[1.0, 9.0, 1.0])) == "openvino"
    assert prefer(rounds_of(openvino=[3.0, 3.0, 3.0], torch=[1.0, 1.0, 1.0])) == "torch"


def test_of_several_that_are_clearly_faster_the_fastest_is_chosen():
    seconds = {"torch": [2.0, 2.0, 2.0], "bfloat16": [1.0, 2.1, 1.0]}
    assert prefer(rounds_of(float32=[3.0, 3.0, 3.0], **seconds)) == "bfloat16"
    assert prefer(rounds_of(float32=[3.0, 2.0, 3.0], **seconds)) == "float32"


@pytest.mark.parametrize("name", ["small", "bundled"])
def test_a_shipped_artefact_is_computed_by_openvino(records, name):
    pytest.importorskip("openvino")
    choice = _choose(load_artefact(resolve_artefact(name)), records)[1]
    assert choice.runtime == "openvino"
    assert choice.crops_per_cpu_second[choice.name] > choice.crops_per_cpu_second["torch float32"]


def test_bfloat16_is_computed_only_if_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("model.precision.cpu_has_bfloat16", lambda: True)
    formats = {dtype for _, dtype in runtimes._list_candidates(_settings(), "cpu")}
    assert formats == {"float32"}
    asked = runtimes._list_candidates(_settings(dtype="bfloat16"), "cpu")
    assert {dtype for _, dtype in asked} == {"bfloat16"}


def test_a_choice_is_kept_and_not_measured_again(artefact, records, built, monkeypatch):
    _, first = _choose(artefact, records)
    built.clear()
    monkeypatch.setitem(SECONDS, "openvino", 9.0)
    runtime, again = _choose(artefact, records)
    assert again == first
    assert built == [f"{first.runtime} {first.dtype}"]
    assert runtime.name == first.runtime


def test_of_two_that_choose_at_once_the_first_one_counts_for_both(artefact, records, built):
    first = RuntimeChoice(runtime="torch", dtype="float32", device="cpu")
    embedder = artefact.description.embedding_fingerprint

    class Raced:
        def get(self, _):
            return None

        def keep_first(self, embedder, choice):
            records.keep_first(embedder, first.model_dump_json())
            return records.keep_first(embedder, choice)

    runtime, choice = _choose(artefact, Raced())
    assert (choice, runtime.name) == (first, "torch")
    assert RuntimeChoice.model_validate_json(records.get(embedder)) == first


def test_one_that_gives_other_features_is_not_chosen_however_fast(
    artefact, records, built, monkeypatch, caplog
):
    caplog.set_level("INFO")
    real = computing.build_runtime

    def build(artefact, name, *options):
        runtime = real(artefact, name, *options)
        if name == "openvino":
            runtime.embed = lambda crops: np.ones((len(crops), 1280), np.float32)
        return runtime

    monkeypatch.setattr(computing, "build_runtime", build)
    assert _choose(artefact, records)[0].name == "torch"
    # As a choice, and not as a fault.
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert "the choice of a runtime leaves out openvino float32" in caplog.text


def test_without_openvino_it_is_torch(artefact, records, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    runtime, choice = _choose(artefact, records)
    assert (runtime.name, choice.runtime) == ("torch", "torch")


CHOSEN = '{"runtime": "openvino", "dtype": "float32", "device": "cpu"}'
ON_A_GPU = '{"runtime": "torch", "dtype": "float32", "device": "cuda"}'
CONTRADICTED = r"^GMN_.*openvino in float32.*unset GMN_"
REFUSED = {
    "asked for and missing": ("", "openvino", {"runtime": "openvino"}, "pip install 'gmn-reid"),
    "chosen and missing": (CHOSEN, "openvino", {}, r"pip install .*gmn store forget-runtime"),
    "another runtime": (CHOSEN, "", {"runtime": "torch"}, CONTRADICTED),
    "another precision": (CHOSEN, "", {"dtype": "bfloat16"}, CONTRADICTED),
    "a GPU and none there": (ON_A_GPU, "", {"device": "auto"}, r"on cuda.*no GPU.*forget-runtime"),
    "another device": (ON_A_GPU, "", {}, r"^GMN_DEVICE=cpu.*torch in float32 on cuda.*unset GMN_"),
    "an unknown one": ('{"runtime": "onnx"}', "", {}, r"onnx.*forget-runtime"),
}


@pytest.mark.parametrize(("chosen", "missing", "given", "remedy"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_computed_with_is_refused_with_the_remedy(
    artefact, records, monkeypatch, chosen, missing, given, remedy
):
    if chosen:
        records.keep_first(artefact.description.embedding_fingerprint, chosen)
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputProblem, match=remedy):
        _choose(artefact, records, **given)
    assert records.forget() == bool(chosen)


def test_a_cpu_without_bfloat16_refuses_it_in_openvino(artefact, records):
    pytest.importorskip("openvino")
    if cpu_has_bfloat16():
        pytest.skip("this CPU multiplies bfloat16")
    with pytest.raises(InputProblem, match="does not multiply bfloat16; set GMN_DTYPE=float32"):
        _choose(artefact, records, runtime="openvino", dtype="bfloat16")


def test_features_of_another_network_are_refused_at_every_start(artefact, records, monkeypatch):
    _choose(artefact, records, runtime="torch")

    def build(*arguments):
        runtime = build_runtime(*arguments)
        runtime.embed = lambda crops: np.ones((len(crops), 1280), np.float32)
        return runtime

    monkeypatch.setattr(computing, "build_runtime", build)
    with pytest.raises(InputProblem, match=r"gives other features .*forget-runtime"):
        _choose(artefact, records)


def test_a_full_record_is_served_all_the_same(artefact, built):
    class Full:
        def get(self, _):
            return None

        def keep_first(self, *_):
            raise StorageFailed("Redis is full")

    assert _choose(artefact, Full())[0].name == "openvino"


@pytest.fixture
def gpu(built, monkeypatch):
    """Let there be a GPU whose stand-ins compute on the CPU."""
    devices = {"auto": "cuda", "cuda": "cuda", "cpu": "cpu"}
    monkeypatch.setattr(runtimes, "choose_device_name", lambda asked="auto": devices[asked])


def test_on_a_gpu_features_are_computed_in_float32_and_the_choice_is_kept(
    artefact, records, built, gpu
):
    runtime, choice = _choose(artefact, records, device="auto")
    assert (runtime.name, runtime.dtype, runtime.device) == ("torch", "float32", "cuda")
    assert runtime.options == TorchOptions("cuda", max_batch=128, cuda_graphs=False)
    assert choice.description == "torch in float32 on cuda"
    kept = records.get(artefact.description.embedding_fingerprint)
    assert RuntimeChoice.model_validate_json(kept) == choice
    assert _choose(artefact, records, device="cuda")[1] == choice
    assert built == ["torch float32"] * 2


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"device": "cpu"}, r"GMN_DEVICE=cpu: .* on cuda.*forget-runtime"),
        (
            {"device": "cuda", "dtype": "bfloat16"},
            r"GMN_DTYPE=bfloat16: .* on cuda.*forget-runtime",
        ),
    ],
    ids=["a CPU", "another number format"],
)
def test_features_of_a_gpu_are_not_mixed_with_those_of(artefact, records, gpu, given, remedy):
    _choose(artefact, records, device="cuda")
    with pytest.raises(InputProblem, match=remedy):
        _choose(artefact, records, **given)


def test_a_record_of_a_cpu_stays_on_the_cpu_where_there_is_a_gpu(artefact, records, gpu, caplog):
    first = _choose(artefact, records, device="cpu")[1]
    runtime, choice = _choose(artefact, records, device="auto")
    assert (choice, runtime.device) == (first, "cpu")
    assert "the GPU is not used" in caplog.text
    assert "forget-runtime" in caplog.text
    with pytest.raises(InputProblem, match=r"GMN_DEVICE=cuda: .* on cpu.*forget-runtime"):
        _choose(artefact, records, device="cuda")


def test_a_gpu_that_gives_other_features_is_refused(artefact, records, gpu, built, monkeypatch):
    build = computing.build_runtime

    def build_other(*arguments):
        runtime = build(*arguments)
        runtime.embed = lambda crops: np.ones((len(crops), 1280), np.float32)
        return runtime

    monkeypatch.setattr(computing, "build_runtime", build_other)
    with pytest.raises(InputProblem, match="torch in float32 gives other features"):
        _choose(artefact, records, device="cuda")
    assert records.get(artefact.description.embedding_fingerprint) is None


@pytest.mark.slow
def test_a_served_record_shows_its_runtime_keeps_it_and_is_made_to_choose_again(
    start, refused_start, tmp_path
):
    served = start(data_dir=tmp_path / "data", runtime="auto")
    model = served.read("/v1/model")
    called = f"{model['runtime']} {model['dtype']}"
    paces = model["crops_per_second"]
    assert called in paces
    assert {"torch float32", "openvino float32"} <= set(paces)

    forget = ["forget-runtime", "--data-dir", str(tmp_path / "data")]
    refused = CliRunner().invoke(store_command, forget)
    assert "another process is serving it" in str(refused.exception)
    assert served.stop() == 0

    again = start(data_dir=tmp_path / "data", runtime="auto")
    kept = again.read("/v1/model")
    assert (kept["runtime"], kept["crops_per_second"]) == (model["runtime"], paces)
    assert again.stop() == 0

    other = "torch" if model["runtime"] == "openvino" else "openvino"
    said = refused_start(tmp_path / "data", runtime=other)
    assert f"GMN_RUNTIME={other}" in said
    assert "gmn store forget-runtime" in said
    assert CliRunner().invoke(store_command, forget).stdout.startswith("1 forgotten")
    chosen = start(data_dir=tmp_path / "data", runtime=other)
    assert chosen.read("/v1/model")["runtime"] == other
