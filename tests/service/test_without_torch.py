"""A service on a CPU needs neither PyTorch nor what comes with it, and answers as with it."""

import json
import sys

import pytest

from tests.artefact_files import without_graph
from tests.outside import run_command
from tests.service.conftest import START, Served, served_environment

# As if these were not installed.
MISSING = ("torch", "torchvision", "triton", "sklearn", "scipy", "pandas", "matplotlib")
WITHOUT_TORCH = f"import sys; sys.modules.update(dict.fromkeys({MISSING}))\n"
QUERIES = 20


@pytest.fixture(scope="module")
def light(tiny_artefact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("light")
    settings = {"artefact": tiny_artefact, "data_dir": folder / "data", "runtime": "auto"}
    (folder / "data").mkdir()
    service = Served(folder / "log", WITHOUT_TORCH + START, forked=False, **settings)
    yield service
    service.kill()


@pytest.mark.promise("without-torch")
def test_nothing_that_is_imported_with_the_service_or_its_bench_imports_torch():
    program = WITHOUT_TORCH + "import service.app, service.commands.serve, bench.serve"
    imported = run_command(sys.executable, "-c", program)
    assert (imported.returncode, imported.stderr) == (0, "")


@pytest.mark.promise("without-torch")
def test_twenty_answers_are_those_of_a_service_with_torch(light, start, drawn_crops):
    services = (light, start(runtime="torch"))
    for service in services:
        gallery = service.create("people")
        service.fill(gallery, drawn_crops)
    runtimes = [service.read("/v1/model")["runtime"] for service in services]
    assert runtimes == ["openvino", "torch"]

    for scoring, score, digits in (("cosine", "cosine", 1e-5), ("mnet", "pair_logit", 1e-4)):
        for crop in drawn_crops[: QUERIES // 2]:
            shown, expected = (
                service.search("people", crop.png, scoring=scoring, top_k=20)
                for service in services
            )
            assert len(shown) == 20
            for name in ("identity", "camera", "verdict"):
                assert [result[name] for result in shown] == [result[name] for result in expected]
            scores = [result[score] for result in expected]
            assert [result[score] for result in shown] == pytest.approx(scores, abs=digits)


def test_unnamed_crops_are_grouped(light, images):
    gallery = light.create("unnamed")
    light.enrolled(gallery, *images, camera="a")
    job = light.http.post(f"/v1/galleries/{gallery}/groups").json()
    assert light.ended_job(job)["state"] == "done"


# Each process would need seconds for the imports of the service.
REFUSED_ONE_BY_ONE = """
import json, os
from model.problems import InputProblem
from service.commands.serve import serve

refused = []
for environment in json.loads(sys.argv[1]):
    os.environ |= environment
    try:
        serve()
    except InputProblem as problem:
        refused.append(str(problem))
print(json.dumps(refused))
"""


@pytest.fixture(scope="module")
def refused(tiny_artefact, start, tmp_path_factory):
    """Return the errors of a service without PyTorch that refuses to start, by their reasons."""
    folder = tmp_path_factory.mktemp("refused")
    older = without_graph(tiny_artefact, folder / "older.safetensors")
    filled = start(data_dir=folder / "filled", runtime="torch")
    assert filled.stop() == 0
    reasons = {
        "no graph": {"artefact": older, "data_dir": folder / "data"},
        "a GPU": {"artefact": tiny_artefact, "data_dir": folder / "data", "device": "cuda"},
        "a record": {"artefact": tiny_artefact, "data_dir": folder / "filled"},
    }
    environments = [served_environment(runtime="auto", **settings) for settings in reasons.values()]
    program = WITHOUT_TORCH + REFUSED_ONE_BY_ONE
    ended = run_command(sys.executable, "-c", program, json.dumps(environments), check=True)
    return dict(zip(reasons, json.loads(ended.stdout), strict=True)) | {"older": older}


@pytest.mark.promise("without-torch")
def test_an_artefact_without_a_graph_is_refused_with_the_command_that_adds_it(refused):
    assert refused["no graph"] == (
        f"{refused['older']}: has no OpenVINO graph, which is needed without PyTorch; add it where "
        f"PyTorch is installed, by gmn artefact add-graph {refused['older']}"
    )


def test_a_gpu_is_refused_with_the_extra_that_it_needs(refused):
    assert refused["a GPU"] == (
        "GMN_DEVICE=cuda: device 'cuda' needs PyTorch, which is not installed; "
        "pip install 'gmn-reid[gpu]' in an environment of its own, or use cpu"
    )


def test_a_record_that_torch_filled_is_refused_with_the_remedy(refused):
    said = refused["a record"]
    assert said.startswith("this record's features are computed by torch")
    assert "PyTorch is not installed; pip install 'gmn-reid[gpu]'" in said
    assert "gmn store forget-runtime" in said
