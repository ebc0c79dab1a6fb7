"""`gmn evaluate`: its figures and files, and what it refuses."""

import json
import re
from pathlib import Path

import pytest

from model.artefact import load_artefact
from tests.training.runs import run_here


def measured(*words):
    ran = run_here("evaluate", *words, "--json")
    assert ran.status == 0, ran.err
    return json.loads(ran.out)


@pytest.fixture(scope="module")
def report(fast_artefact, people, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    asked = ("--scoring", "cosine,mnet,k_reciprocal", "--out", out, "--no-pictures")
    found = measured(fast_artefact, "--data", people, *asked)
    assert found == json.loads((out / "report.json").read_text())
    return found, (out / "report.html").read_text()


def test_the_json_holds_every_scoring_with_intervals(report):
    result = report[0]["datasets"][0]
    assert result["protocol"] == "camera east against west"
    assert (result["queries"], result["gallery"], result["identities"]) == (12, 12, 6)
    assert list(result["scorings"]) == ["cosine", "mnet", "k_reciprocal"]
    for name in ("cosine", "mnet"):
        scoring = result["scorings"][name]
        figure = scoring["metrics"]["mAP"]
        assert 0.5 < figure["low"] <= figure["mean"] <= figure["high"] <= 1.0
        assert scoring["over_identities"]["mAP"]["mean"] == figure["mean"]
        assert [point["asked"] for point in scoring["operating_points"]] == [0.1, 0.01, 0.001]
        assert 0.0 <= scoring["expected_calibration_error"] <= 1.0
        assert sum(scoring["distribution"]["genuine"]) == 24
        assert sum(scoring["distribution"]["impostor"]) == 120
    assert "mnet - cosine" in result["differences"]


def test_a_re_ranking_has_metrics_and_no_operating_points(report):
    scoring = report[0]["datasets"][0]["scorings"]["k_reciprocal"]
    assert 0.0 < scoring["metrics"]["mAP"]["mean"] <= 1.0
    assert scoring["operating_points"] == []


@pytest.fixture(scope="module")
def centred_report(fast_artefact, tmp_path_factory):
    out = tmp_path_factory.mktemp("centred")
    many = "synthetic:7,identities=210,domains=1,cameras=3,crops=1"
    asked = ("--data", many, "--scoring", "cosine,centred", "--out", out, "--no-pictures")
    plain = measured(fast_artefact, *asked[:2], "--scoring", "cosine")
    return plain, measured(fast_artefact, *asked), (out / "report.html").read_text()


def test_centred_vectors_have_all_figures_but_those_of_the_artefacts_calibration(centred_report):
    _, found, page = centred_report
    (result,) = found["datasets"]
    centred = result["scorings"]["centred"]
    assert centred["half_enrolled"]["enrolled"] == 105
    assert centred["verification"]
    assert centred["likelihood"]["people"] == 105
    assert centred["likelihood"] != result["scorings"]["cosine"]["likelihood"]
    assert centred["operating_points"] == []
    assert centred["expected_calibration_error"] is None
    gain = result["differences"]["centred - cosine"]["mAP"]["mean"]
    means = [result["scorings"][name]["metrics"]["mAP"]["mean"] for name in ("centred", "cosine")]
    assert gain == pytest.approx(means[0] - means[1])
    assert gain != 0.0
    assert result["centring"]["cameras_with_mean"] == result["centring"]["cameras"] == 3
    assert "3 of 3 cameras had a mean; people left out of the means gained" in page


def test_centring_changes_no_plain_figure(centred_report):
    plain, found, _ = centred_report
    (without,), (beside,) = plain["datasets"], found["datasets"]
    assert without["scorings"]["cosine"] == beside["scorings"]["cosine"]
    assert without["centring"] is None


def test_a_gallery_of_few_people_ranks_as_without_centring(fast_artefact, people):
    ran = run_here("evaluate", fast_artefact, "--data", people, "--scoring", "cosine,centred")
    assert "Nothing is centred: the gallery shows fewer than the 50 people" in ran.out
    found = measured(fast_artefact, "--data", people, "--scoring", "cosine,centred")
    scorings = found["datasets"][0]["scorings"]
    assert scorings["centred"]["metrics"] == scorings["cosine"]["metrics"]


def test_the_page_stands_alone_and_says_what_the_weights_may_be_used_for(report):
    page = report[1]
    assert "every person is drawn" in page
    assert not re.search(r'(?:src|href)="(?!data:image/svg)|url\(', page)
    assert page.count("<img") == 4


def test_some_people_by_one_scoring_of_a_runs_folder_can_be_asked_for(
    fast_artefact, people, tmp_path
):
    (tmp_path / "model.safetensors").write_bytes(fast_artefact.read_bytes())
    asked = ("--scoring", "cosine", "--split", "held-out")
    found = measured(tmp_path, "--data", people, *asked)
    known = load_artefact(fast_artefact).description
    assert found["artefact_fingerprint"] == known.artefact_fingerprint
    (result,) = found["datasets"]
    assert list(result["scorings"]) == ["cosine"]
    assert 0 < result["identities"] < 6


def test_tables_are_printed_whole_at_80_columns(fast_artefact, people, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    printed = run_here("evaluate", fast_artefact, "--data", people).out
    assert "camera east against west" in printed
    tables = printed[printed.index("Ranking, %") :]
    assert "mnet - cosine" in tables
    assert "far_1e-2" in tables
    assert max(len(line) for line in tables.splitlines()) <= 80


def test_the_cost_of_likelihood_ratios_is_printed_where_each_half_has_100_people(
    fast_artefact, people, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    many = "synthetic:7,identities=210,domains=1,cameras=2,crops=1"
    ran = run_here("evaluate", fast_artefact, "--data", many)
    assert ran.status == 0, ran.err
    title = "Likelihood ratios of two crops"
    table = ran.out[ran.out.index(title) :]
    assert "minCllr" in table
    for scoring in ("cosine", "mnet"):
        (line,) = [line for line in table.splitlines() if line.startswith(scoring)]
        fitted_to, cllr, min_cllr = line.split()[1:4]
        assert fitted_to == "105"
        assert 0.0 < float(min_cllr) <= float(cllr) < 1.0
    assert title not in run_here("evaluate", fast_artefact, "--data", people).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--scoring", "cosine,fused"),
            "--scoring names fused; name some of cosine, mnet, centred, k_rec",
        ),
    ],
)
def test_what_there_is_none_of_is_refused(words, message, fast_artefact, people):
    ran = run_here("evaluate", fast_artefact, "--data", people, *words)
    assert ran.status == 2
    assert message in ran.err


def test_an_artefact_without_a_metric_network_is_measured_by_cosine(
    cosine_artefact, people, tmp_path
):
    found = measured(cosine_artefact, "--data", people, "--out", tmp_path)
    assert list(found["datasets"][0]["scorings"]) == ["cosine"]
    assert run_here("report", tmp_path, "--out", tmp_path / "page").status == 0
    assert (tmp_path / "page" / "report.html").is_file()
    refused = run_here("evaluate", cosine_artefact, "--data", people, "--scoring", "mnet")
    assert "offers the scoring cosine alone" in refused.err


def test_the_documented_call_measures_what_the_command_does(report, fast_artefact, people, capsys):
    page = (Path(__file__).parents[3] / "docs" / "programs.md").read_text()
    (example,) = re.findall(r"```python\n([^`]*?import evaluate\n.*?)```", page, re.DOTALL)
    artefact = f"resolve_artefact({str(fast_artefact)!r})"
    example = example.replace('resolve_artefact("bundled")', artefact)
    exec(example.replace("manifest:mine", people), {})
    printed = capsys.readouterr().out.splitlines()
    scorings = report[0]["datasets"][0]["scorings"]
    assert [line.split()[0] for line in printed] == ["cosine", "mnet"]
    for line in printed:
        figure = scorings[line.split()[0]]["metrics"]["mAP"]
        assert f"mean={figure['mean']!r}" in line


def test_queries_are_searched_in_the_gallery_with_distractors_and_without_junk(
    fast_artefact, drawn_crops, tmp_path
):
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / folder).mkdir()
    for number, crop in enumerate(drawn_crops):
        camera = 1 + ("east", "west").index(crop.camera)
        # Two people to train on, two to search for, a distractor, and one who is junk.
        name = {"4": "0000", "5": "-1"}.get(crop.identity[-1], f"{int(crop.identity) + 1:04d}")
        folder = "bounding_box_train" if crop.identity[-1] in "01" else "bounding_box_test"
        if crop.identity[-1] in "23" and number % 2 == 0:
            folder = "query"
        file = tmp_path / folder / f"{name}_c{camera}s1_{number:06d}_00.jpg"
        file.write_bytes(crop.png)
    words = ("--data", f"market1501:{tmp_path}", "--scoring", "cosine")
    (found,) = measured(fast_artefact, *words)["datasets"]
    assert found["protocol"] == "query and gallery splits"
    # 2 people × 2 cameras; the other half of their crops, and 4 each of distractor and junk.
    assert (found["queries"], found["gallery"]) == (4, 12)
    assert 0.0 < found["scorings"]["cosine"]["metrics"]["mAP"]["mean"] <= 1.0
