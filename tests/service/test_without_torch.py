"""A service on a CPU needs neither PyTorch nor what comes with it, and answers as with it."""

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
    place = tmp_path_factory.mktemp("light")
    settings = {"artefact": tiny_artefact, "data_dir": place / "data", "runtime": "auto"}
    (place / "data").mkdir()
    service = Served(place / "log", WITHOUT_TORCH + START, forked=False, **settings)
    yield service
    service.kill()


def test_nothing_that_is_imported_with_the_service_or_its_bench_imports_torch():
    program = WITHOUT_TORCH + "import service.http.app, service.commands.serve, bench.serve"
    imported = run_command(sys.executable, "-c", program)
    assert (imported.returncode, imported.stderr) == (0, "")


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


def test_an_artefact_without_a_graph_is_refused_with_the_command_that_adds_it(
    tiny_artefact, tmp_path
):
    older = without_graph(tiny_artefact, tmp_path / "older.safetensors")
    assert refusal(tmp_path, artefact=older) == (
        f"{older}: has no OpenVINO graph, which is needed without PyTorch; add it where PyTorch is "
        f"installed, by gmn artefact add-graph {older}\n"
    )


def test_a_gpu_is_refused_with_the_extra_that_it_needs(tiny_artefact, tmp_path):
    assert refusal(tmp_path, artefact=tiny_artefact, device="cuda") == (
        "GMN_DEVICE=cuda: device 'cuda' needs PyTorch, which is not installed; "
        "pip install 'gmn-reid[gpu]' in an environment of its own, or use cpu\n"
    )


def test_a_record_that_torch_filled_is_refused_with_the_remedy(tiny_artefact, start, tmp_path):
    filled = tmp_path / "filled"
    filled.mkdir()
    assert start(data_dir=filled, runtime="torch").stop() == 0
    said = refusal(filled.parent, artefact=tiny_artefact, data_dir=filled, runtime="auto")
    assert said.startswith("this record's features are computed by torch")
    assert "PyTorch is not installed; pip install 'gmn-reid[gpu]'" in said
    assert "gmn store forget-runtime" in said


def refusal(place, **settings):
    """Return the last line that a service without PyTorch says as it refuses to start."""
    given = {"data_dir": place / "data", "runtime": "auto", **settings}
    program = WITHOUT_TORCH + START
    ended = run_command(sys.executable, "-c", program, env=served_environment(**given))
    assert ended.returncode == 1
    return ended.stderr.splitlines(keepends=True)[-1]
