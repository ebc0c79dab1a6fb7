"""`gmn demo` as a user runs it, with a small artefact and few people."""

import contextlib
import itertools
import json
import os
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

import gmn
from demo import service
from demo.findings import KNOWN_OUTCOMES, STRANGER_OUTCOMES, Finding, Findings
from gmn_client.commands.bulk import SourceCrop
from gmn_client.models import ModelInfo, QueryAnswer, RankedCrop, Timing
from model.problems import InputProblem
from tests.forked import GMN, Forked, run_gmn
from tests.outside import run_command
from tests.packages import light_environment

# Times and addresses.
CHANGING = ("ms_per_query", "page")
FEW = ["--people", "5", "--strangers", "2"]


def demo_command(artefact, out, *more):
    return ["demo", "--artefact", str(artefact), "--out", str(out), *FEW, *more]


@pytest.fixture(autouse=True)
def known_runtime(monkeypatch):
    """Measuring which runtime is the fastest takes longer than the demo."""
    monkeypatch.setenv("GMN_RUNTIME", "torch")


def services_of(process_id):
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    services = []
    for child in children:
        # Another child may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"\0serve\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                services.append(int(child))
    return services


def crop(identity):
    return SourceCrop(identity, bytes, identity, "c0")


def answered(identity, known, verdict, first=None):
    results = [RankedCrop.model_construct(identity=first, camera="c1")] if first else []
    timing = Timing.model_construct(total=1.0)
    answer = QueryAnswer.model_construct(
        verdict=verdict, results=results, scoring="cosine", timing_ms=timing
    )
    return Finding(crop(identity), known, answer)


def test_the_demo_ends_with_a_page_that_shows_every_ranking(tiny_artefact, tmp_path):
    finished = run_gmn(*demo_command(tiny_artefact, tmp_path / "out"))
    assert finished.returncode == 0, finished.stderr
    result = finished.stdout.splitlines()[0]
    assert re.fullmatch(r"\d of 5 people ranked first, \d false alarms? for 2 strangers\.", result)
    assert "30 crops of 5 drawn people from 3 cameras" in finished.stdout
    assert "Artefact tiny.safetensors: Free of any: nobody is shown" in finished.stdout
    assert "Rank-1 of known people, ranked by mnet" in finished.stdout
    assert re.search(r"\d of 5 +known people found", finished.stdout)
    assert re.search(r"\d of 2 +false alarms: strangers answered match", finished.stdout)
    assert "operating point far_1e-2: 1% of strangers, here 0.0 of 2" in finished.stdout
    assert "At the last query: The model's own thresholds" in finished.stdout
    first, starts, serves, *steps = finished.stderr.splitlines()
    assert first == "Drawing 7 people."
    assert starts == f"Starting a service with the artefact {tiny_artefact}."
    assert serves.startswith("It serves on http://127.0.0.1:")
    assert steps == [
        "Enrolled 30 of 30 crops.",
        "Fitting the thresholds of the gallery.",
        "Asked for 7 of 7 people.",
    ]
    page = (tmp_path / "out" / "index.html").read_text()
    assert f'<h1>Who is this?</h1>\n<p class="result">{result}</p>' in page
    assert "Below are 5 of 5 known people and 2 of 2 strangers" in page
    assert page.count("data:image/png;base64,") == 7 * (1 + 8)
    assert page.count('class="query"') == 7
    assert re.search(r'(src|href)="(?!data:)', page) is None


@pytest.mark.promise("pinned-packages")
@pytest.mark.slow
def test_the_demo_runs_where_only_the_light_environments_packages_are(tiny_artefact, tmp_path):
    command = demo_command(tiny_artefact, tmp_path / "out")
    finished = run_command(
        sys.executable,
        gmn.__file__,
        *command,
        env=light_environment(tmp_path) | {"GMN_RUNTIME": "openvino"},
    )
    assert finished.returncode == 0, finished.stderr
    assert "30 crops of 5 drawn people from 3 cameras" in finished.stdout
    assert (tmp_path / "out" / "index.html").is_file()


@pytest.mark.slow
def test_the_demo_of_an_artefact_without_a_metric_network_ranks_by_cosine(
    cosine_artefact, tmp_path
):
    finished = run_gmn(*demo_command(cosine_artefact, tmp_path / "out", "--json"))
    assert finished.returncode == 0, finished.stderr
    figures = json.loads(finished.stdout)
    assert (figures["artefact"], figures["scoring"]) == ("cosine.safetensors", "cosine")
    assert (figures["crops"], figures["known"], figures["strangers"]) == (30, 5, 2)
    assert 0.0 <= figures["rank_1"] <= 1.0
    assert 0.0 <= figures["mAP"] <= 1.0
    assert sum(figures[outcome] for outcome in KNOWN_OUTCOMES) == 5
    assert sum(figures[outcome] for outcome in STRANGER_OUTCOMES) == 2
    page = (tmp_path / "out" / "index.html").read_text()
    assert "M-Net" not in page
    assert "The model is artefact cosine.safetensors: Free of any" in page


def test_a_start_is_waited_for_while_it_takes_processor_time(monkeypatch):
    minutes = []
    clock = SimpleNamespace(sleep=minutes.append, monotonic=lambda: 60.0 * len(minutes))
    monkeypatch.setattr(service, "time", clock)
    seconds = [*range(1, 21), *itertools.repeat(20, 100)]
    monkeypatch.setattr(service, "processor_seconds", lambda _: seconds.pop(0))
    command = (sys.executable, "-c", "import time; print('waits', flush=True); time.sleep(600)")
    with (
        pytest.raises(InputProblem, match="the service makes no progress at its start"),
        service.own_service("small", program=command),
    ):
        pass
    # It moved for twenty minutes, and stood still for two.
    assert 20 <= len(minutes) <= 23


def test_the_service_of_a_demo_starts_in_an_image_too(tiny_artefact, monkeypatch):
    # The image listens on every address, for which a service needs a key.
    monkeypatch.setenv("GMN_HOST", "0.0.0.0")
    with service.own_service(str(tiny_artefact)) as client:
        assert client.url.startswith("http://127.0.0.1:")


def test_a_service_that_ends_at_its_start_is_told_with_its_last_line():
    command = (sys.executable, "-c", "print('the disk is full')")
    with (
        pytest.raises(InputProblem, match="the service did not start: the disk is full"),
        service.own_service("small", program=command),
    ):
        pass


def test_the_result_counts_people_who_are_ranked_first_whatever_the_verdict():
    queries = [
        answered("a", True, "match", first="a"),
        answered("b", True, "uncertain", first="b"),
        answered("c", True, "match", first="a"),
        answered("s", False, "match", first="a"),
        answered("t", False, "no_match", first="b"),
    ]
    model = ModelInfo.model_construct(artefact="", provenance={}, default_scoring="cosine")
    played = Findings(queries, 1, {"1": crop("a")}, "", model)
    assert played.result == "2 of 3 people ranked first, 1 false alarm for 2 strangers."
    assert played.figures["ranked_first"] == 2


@pytest.mark.slow
def test_a_demo_of_one_seed_is_equal_whatever_threads_and_load(
    tiny_artefact, tmp_path, monkeypatch
):
    # Without the variable a service on a CPU would measure which runtime is the fastest.
    monkeypatch.delenv("GMN_RUNTIME")
    # So many people have thresholds of their own.
    people = ["--people", "20", "--strangers", "8"]

    def figures(seed, threads):
        out = tmp_path / f"{seed}-{threads}"
        command = ["demo", "--artefact", str(tiny_artefact), "--out", str(out), *people]
        finished = run_gmn(
            *(*command, "--seed", str(seed), "--json"),
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        assert finished.returncode == 0, finished.stderr
        assert (
            "Thresholds from 20 named people in this gallery, frozen."
            in (out / "index.html").read_text()
        )
        printed = json.loads(finished.stdout)
        return {name: value for name, value in printed.items() if name not in CHANGING}

    first = figures(1, 2)
    with ThreadPoolExecutor(2) as runs:
        # They load the machine for each other.
        busy = [runs.submit(figures, *run) for run in ((1, 1), (2, 2))]
        again, other = [run.result() for run in busy]
    assert first == again
    assert first != other | {"seed": 1}


def test_who_is_shown_depends_on_the_seed_and_not_on_the_answers():
    def shown(seed, verdict):
        findings = tuple(answered(name, name < "s", verdict) for name in "abcdefghstuvwxyz")
        played = Findings(findings, seed, {}, "", ModelInfo.model_construct())
        return [finding.query.name for finding in played.sample(3, 2)]

    chosen = shown(1, "match")
    assert len(set(chosen)) == 5
    assert [name < "s" for name in chosen] == [True] * 3 + [False] * 2
    assert chosen == shown(1, "no_match")
    assert chosen != shown(2, "match")


@pytest.mark.slow
def test_a_terminated_demo_leaves_no_service_behind(tiny_artefact, tmp_path):
    process = Forked(GMN, *demo_command(tiny_artefact, tmp_path / "out"))
    deadline = time.monotonic() + 60
    while not (services := services_of(process.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # By now its child is a service; a moment later it is past starting it.
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    for process_id in services:
        assert not Path(f"/proc/{process_id}").exists()
