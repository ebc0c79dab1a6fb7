"""The serving benches: requests are answered, and a missing tool is named."""

import shutil
from pathlib import Path

import httpx2
import pytest

from bench import serve
from demo.story import draw_cast
from model.artefact import load_artefact
from model.problems import InputProblem
from tests.service.conftest import serving

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


@pytest.fixture(scope="module")
def url(tiny_artefact, tmp_path_factory):
    with serving(tiny_artefact, tmp_path_factory.mktemp("bench") / "data") as url:
        yield url


@pytest.fixture(scope="module")
def cast():
    return draw_cast("synthetic", 7, 4, 0, 2)


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch):
    short = {name: load._replace(seconds=1) for name, load in serve.LOADS.items()}
    monkeypatch.setattr(serve, "LOADS", short)


def test_without_wrk_the_remedy_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputProblem, match="apt-get install wrk"):
        serve.bench_serving("serve", None)


@needs_wrk
def test_no_crop_is_enrolled_twice(url, cast, tmp_path):
    load = serve.LOADS["enroll"]
    files = serve.write_forms(tmp_path, load, cast.known)
    pressed = [serve.press(url, load, files, lambda: 0.0) for _ in range(2)]
    answered = sum(figures["images_per_second"] for figures in pressed) * load.seconds
    crops = httpx2.get(f"{url}/v1/galleries/default").json()["crops"]
    # Requests under way at a round's end are not counted.
    assert 0.5 * answered < crops <= 1.5 * answered + 2 * load.in_flight


@needs_wrk
def test_the_bare_app_answers_the_forms_of_queries(tiny_artefact, cast, tmp_path):
    load = serve.LOADS["query"]
    files = serve.write_forms(tmp_path, load, cast.known)
    with serve.bare_app(str(tiny_artefact)) as (url, cpu_seconds):
        figures = serve.press(url, load, files, cpu_seconds)
    assert figures["images_per_second"] > 0
    assert 0 < figures["cpu_ms_per_image"] < 1000


@needs_wrk
@pytest.mark.parametrize("name", ["embed", "query"])
def test_every_request_is_answered_and_timed(url, cast, tmp_path, name):
    load = serve.LOADS[name]
    files = serve.write_forms(tmp_path, load, cast.known)
    figures = serve.press(url, load, files, lambda: 0.0)
    assert figures["images_per_second"] > 0
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] < 60_000


@pytest.mark.slow
@needs_wrk
def test_the_time_of_the_processor_is_measured(tiny_artefact, monkeypatch):
    monkeypatch.setattr("bench.result.ROUNDS", 1)
    monkeypatch.setattr(serve, "PEOPLE", 4)
    (result,) = serve.bench_serving("serve", str(tiny_artefact))
    measured = result.details["served_cpu_ms_per_image"]
    assert 0 < measured < 1000
    assert 0 < result.details["served_p50_ms"] <= result.details["served_p99_ms"]
    assert result.details["app_ratio"] > 0


OTHER_PROGRAM = """
import pathlib, runpy, sys
pathlib.Path(__file__).with_name("started").touch()
sys.path[0] = {root!r}
runpy.run_path({root!r} + "/gmn.py", run_name="__main__")
"""


@pytest.mark.slow
@needs_wrk
def test_the_service_of_another_checkout_takes_part(tiny_artefact, monkeypatch, tmp_path):
    monkeypatch.setattr("bench.result.ROUNDS", 1)
    monkeypatch.setattr(serve, "PEOPLE", 4)
    root = str(Path(serve.__file__).parents[1])
    (tmp_path / "gmn.py").write_text(OTHER_PROGRAM.format(root=root))
    (result,) = serve.bench_serving("query", str(tiny_artefact), tmp_path)
    details = result.details
    assert (tmp_path / "started").exists()
    assert details["against"] == str(tmp_path)
    for ratio, figure in {
        "against_ratio": "images_per_second",
        "against_cpu_ratio": "cpu_ms_per_image",
    }.items():
        expected = details[f"served_{figure}"] / details[f"against_{figure}"]
        assert details[ratio] == pytest.approx(expected, rel=0.02)


@needs_wrk
def test_a_folder_that_is_no_checkout_is_named(tmp_path):
    with pytest.raises(InputProblem, match=f"{tmp_path}: has no gmn.py"):
        serve.bench_serving("serve", None, tmp_path)


@needs_wrk
def test_a_request_that_is_refused_is_no_figure(url, cast, tmp_path):
    load = serve.LOADS["serve"]._replace(path="/v1/galleries/nowhere/queries")
    files = serve.write_forms(tmp_path, load, cast.known)
    with pytest.raises(InputProblem, match="requests failed"):
        serve.press(url, load, files, lambda: 0.0)


def test_the_bare_model_computes_without_the_service(tiny_artefact):
    pytest.importorskip("openvino")
    serve.bare_model(load_artefact(tiny_artefact))()
