"""`gmn demo` as a user runs it, with a small artefact and few people."""

import contextlib
import json
import re
import signal
import sys
import time
from pathlib import Path

import pytest

import gmn
from demo.findings import KNOWN_OUTCOMES, STRANGER_OUTCOMES, Finding, Findings
from gmn_client.models import ModelInfo, QueryAnswer
from service.commands.bulk import SourceCrop
from tests.forked import GMN, Forked, run_gmn
from tests.outside import run_command
from tests.packages import light_environment

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


def answered(identity, known, verdict):
    answer = QueryAnswer.model_construct(verdict=verdict, results=[])
    return Finding(crop(identity), known, answer)


def test_the_demo_ends_with_a_page_that_shows_every_ranking(tiny_artefact, tmp_path):
    finished = run_gmn(*demo_command(tiny_artefact, tmp_path / "out"))
    assert finished.returncode == 0, finished.stderr
    assert "30 crops of 5 drawn people from 3 cameras" in finished.stdout
    assert "Artefact tiny.safetensors: Free of any: nobody is shown" in finished.stdout
    assert "Rank-1 of known people, ranked by mnet" in finished.stdout
    assert re.search(r"\d of 5 +known people found", finished.stdout)
    assert re.search(r"\d of 2 +false alarms: strangers answered match", finished.stdout)
    assert "operating point far_1e-2: 1% of strangers, here 0.0 of 2" in finished.stdout
    assert "At the last query: The model's own thresholds" in finished.stdout
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Below are 5 of 5 known people and 2 of 2 strangers" in page
    assert page.count("data:image/png;base64,") == 7 * (1 + 8)
    assert page.count('class="query"') == 7
    assert re.search(r'(src|href)="(?!data:)', page) is None


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
    for service in services:
        assert not Path(f"/proc/{service}").exists()
