import csv
import json
import re
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import gmn
from model.problems import InputProblem
from training.commands.evaluate import evaluate


@pytest.fixture(scope="module")
def manifest(drawn_crops, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    with (folder / "people.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "identity", "camera"])
        for number, crop in enumerate(drawn_crops):
            (folder / f"{number}.png").write_bytes(crop.png)
            rows.writerow([f"{number}.png", crop.identity, crop.camera])
    return folder / "people.csv"


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    single = typer.Typer(pretty_exceptions_enable=False)
    single.command()(evaluate)
    return single


def run(app: typer.Typer, *arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def report(app, tiny_artefact, manifest, tmp_path_factory) -> tuple[dict, str]:
    out = tmp_path_factory.mktemp("report")
    spec = f"manifest:{manifest}"
    answer = run(app, tiny_artefact, "--data", spec, "--out", out, "--json", "--no-pictures")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout) == json.loads((out / "report.json").read_text())
    return json.loads(answer.stdout), (out / "report.html").read_text()


def test_the_json_holds_every_scoring_with_intervals(report):
    result = report[0]["datasets"][0]
    assert result["protocol"] == "camera east against west"
    assert (result["queries"], result["gallery"], result["identities"]) == (12, 12, 6)
    assert list(result["scorings"]) == ["cosine", "mnet"]
    for scoring in result["scorings"].values():
        figure = scoring["metrics"]["mAP"]
        assert 0.5 < figure["low"] <= figure["mean"] <= figure["high"] <= 1.0
        assert [point["asked"] for point in scoring["operating_points"]] == [0.1, 0.01, 0.001]
        assert 0.0 <= scoring["expected_calibration_error"] <= 1.0
        assert sum(scoring["distribution"]["genuine"]) == 24
        assert sum(scoring["distribution"]["impostor"]) == 120
    assert list(result["differences"]) == ["mnet - cosine"]


def test_the_page_stands_alone_and_says_what_the_weights_may_be_used_for(report):
    page = report[1]
    assert "every person is drawn" in page
    assert not re.search(r'(?:src|href)="(?!data:image/svg)|url\(', page)
    assert page.count("<img") == 4


def test_one_scoring_alone_can_be_asked_for(app, tiny_artefact, manifest):
    spec = f"manifest:{manifest}"
    answer = run(app, tiny_artefact, "--data", spec, "--scoring", "cosine", "--json")
    result = json.loads(answer.stdout)["datasets"][0]
    assert list(result["scorings"]) == ["cosine"]


def test_held_out_people_are_fewer_than_all(app, tiny_artefact, manifest):
    spec = f"manifest:{manifest}"
    answer = run(app, tiny_artefact, "--data", spec, "--split", "held-out", "--json")
    assert 0 < json.loads(answer.stdout)["datasets"][0]["identities"] < 6


def test_without_json_a_table_is_printed(app, tiny_artefact, manifest):
    answer = run(app, tiny_artefact, "--data", f"manifest:{manifest}")
    assert "camera east against west" in answer.stdout
    assert "far_1e-2" in answer.stdout


def test_tables_are_whole_at_80_columns(app, tiny_artefact, manifest):
    words = [str(tiny_artefact), "--data", f"manifest:{manifest}"]
    answer = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    tables = answer.stdout[answer.stdout.index("Ranking, %") :]
    assert "mnet - cosine" in tables
    assert max(map(len, tables.splitlines())) <= 80


def test_an_unknown_scoring_is_refused(tiny_artefact, manifest):
    with pytest.raises(InputProblem, match="--scoring names fused; choose of cosine, mnet, k_rec"):
        evaluate(str(tiny_artefact), [f"manifest:{manifest}"], scoring="cosine,fused")


def test_a_re_ranking_has_metrics_and_no_operating_points(app, tiny_artefact, manifest):
    words = ["--data", f"manifest:{manifest}", "--scoring", "cosine,mnet,k_reciprocal", "--json"]
    scorings = json.loads(run(app, tiny_artefact, *words).stdout)["datasets"][0]["scorings"]
    assert list(scorings) == ["cosine", "mnet", "k_reciprocal"]
    again = scorings["k_reciprocal"]
    assert 0.0 < again["metrics"]["mAP"]["mean"] <= 1.0
    assert again["operating_points"] == []
    cosine = scorings["cosine"]
    assert cosine["over_identities"]["mAP"]["mean"] == cosine["metrics"]["mAP"]["mean"]


def test_the_folder_of_a_run_stands_for_its_artefact(app, tiny_artefact, manifest, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(tiny_artefact.read_bytes())
    words = ["--data", f"manifest:{manifest}", "--scoring", "cosine", "--json"]
    found = [json.loads(run(app, model, *words).stdout) for model in (tmp_path, tiny_artefact)]
    assert found[0]["artefact_fingerprint"] == found[1]["artefact_fingerprint"]


@pytest.mark.parametrize("option", ["--protocol", "--peer", "--no-premise"])
def test_a_withdrawn_option_names_what_does_the_same(option, capsys):
    assert gmn.run(["evaluate", "bundled", "--data", "synthetic:7", option, "lodo"]) == 2
    said = capsys.readouterr().err
    assert f"{option} is withdrawn: gmn " in said


def test_an_artefact_without_a_metric_network_is_measured_by_cosine(
    app, cosine_artefact, manifest, tmp_path
):
    spec = f"manifest:{manifest}"
    answer = run(app, cosine_artefact, "--data", spec, "--out", tmp_path, "--json")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert list(found["datasets"][0]["scorings"]) == ["cosine"]
    page = tmp_path / "shown"
    shown = run(report_app(), tmp_path, "--out", page)
    assert shown.exit_code == 0, shown.output
    assert (page / "report.html").is_file()
    with pytest.raises(InputProblem, match="offers the scoring cosine alone"):
        CliRunner().invoke(
            app,
            [str(cosine_artefact), "--data", spec, "--scoring", "mnet"],
            catch_exceptions=False,
        )


def report_app() -> typer.Typer:
    from training.commands.evaluate import report

    single = typer.Typer(pretty_exceptions_enable=False)
    single.command()(report)
    return single


def test_the_documented_call_measures_what_the_command_does(
    report, tiny_artefact, manifest, capsys
):
    page = (Path(__file__).parents[3] / "docs" / "programs.md").read_text()
    (example,) = re.findall(r"```python\n([^`]*?import evaluate\n.*?)```", page, re.DOTALL)
    artefact = f"resolve_artefact({str(tiny_artefact)!r})"
    example = example.replace('resolve_artefact("bundled")', artefact)
    exec(example.replace("manifest:mine", f"manifest:{manifest}"), {})
    printed = capsys.readouterr().out.splitlines()
    scorings = report[0]["datasets"][0]["scorings"]
    assert [line.split()[0] for line in printed] == ["cosine", "mnet"]
    for line in printed:
        figure = scorings[line.split()[0]]["metrics"]["mAP"]
        assert f"mean={figure['mean']!r}" in line


def test_junk_is_no_person_of_a_domain_in_the_premise(app, tiny_artefact, tmp_path):
    sets = []
    for name in ("first", "second"):
        rows = ["path,identity,camera"]
        for person in [*range(19), -1]:
            for camera in "ab":
                crop = f"{name}{person}{camera}.png"
                shade = (10 * (person + 2), 90 * (camera == "a"), 150 * (name == "first"))
                Image.new("RGB", (32, 64), shade).save(tmp_path / crop)
                rows.append(f"{crop},{person},{camera}")
        (tmp_path / f"{name}.csv").write_text("\n".join(rows))
        sets += ["--data", f"manifest:{tmp_path / name}.csv"]
    with pytest.raises(InputProblem, match="two domains with 20 people each"):
        CliRunner().invoke(
            app,
            [str(tiny_artefact), *sets, "--premise", "--scoring", "cosine"],
            catch_exceptions=False,
        )
