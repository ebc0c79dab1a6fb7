"""`gmn evaluate` by a protocol: every set by the artefact that has not seen it, and the average."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from model.artefact import Artefact, load_artefact, save_artefact
from model.problems import InputProblem
from model.provenance import TrainingData
from training.commands.evaluate import evaluate
from training.commands.rendering import render_protocol
from training.evaluation.protocol_report import ProtocolReport
from training.evaluation.report import protocol_page
from training.papers import paper_tables
from training.recipe import read_recipe


@pytest.fixture(scope="module")
def manifests(drawn_crops, tmp_path_factory) -> list[Path]:
    """The same drawn people as two data sets, `first` and `second`."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("first", "second"):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "identity", "camera"])
            for number, crop in enumerate(drawn_crops):
                (folder / f"{number}.png").write_bytes(crop.png)
                rows.writerow([f"{number}.png", crop.identity, crop.camera])
    return [folder / "first.csv", folder / "second.csv"]


@pytest.fixture(scope="module")
def runs(tiny_artefact, tmp_path_factory) -> Path:
    """What `gmn train --protocol lodo` leaves: a run for each set, trained on the other."""
    folder = tmp_path_factory.mktemp("runs")
    artefact = load_artefact(tiny_artefact)
    for left_out, trained in (("first", "second"), ("second", "first")):
        data = TrainingData(
            name=trained,
            spec=f"manifest:{trained}.csv",
            terms="",
            crops=24,
            identities=6,
            cameras=2,
        )
        provenance = artefact.description.provenance.model_copy(update={"data": (data,)})
        save_artefact(
            folder / f"without-{left_out}" / "model.safetensors",
            artefact.description.model_copy(update={"provenance": provenance}),
            artefact.embedder,
            artefact.metric_network,
        )
    return folder


def run(*arguments: object):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(evaluate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def specs(manifests: list[Path]) -> list[str]:
    return [word for path in manifests for word in ("--data", f"manifest:{path}")]


@pytest.fixture(scope="module")
def report(runs, manifests, tmp_path_factory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("report")
    answer = run(
        *(runs, "--protocol", "lodo", *specs(manifests), "--out", out, "--json"),
        *("--scoring", "cosine,mnet,k_reciprocal"),
    )
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout), out


def test_every_set_is_measured_by_the_artefact_that_has_not_seen_it(report):
    found = {own["datasets"][0]["name"]: Path(own["artefact"]) for own in report[0]["reports"]}
    assert {name: file.parent.name for name, file in found.items()} == {
        "first": "without-first",
        "second": "without-second",
    }
    assert not any(own["datasets"][0]["seen_in_training"] for own in report[0]["reports"])


def test_the_average_weighs_every_set_the_same(report):
    for name, average in report[0]["averages"].items():
        own = [one["datasets"][0]["scorings"][name] for one in report[0]["reports"]]
        expected = np.mean([scoring["metrics"]["mAP"]["mean"] for scoring in own])
        assert average["mAP"]["mean"] == pytest.approx(expected)
        assert average["mAP"]["low"] <= average["mAP"]["mean"] <= average["mAP"]["high"]
    assert "mnet - cosine" in report[0]["differences"]


def test_a_re_ranking_has_metrics_and_says_why_it_has_no_operating_points(report):
    scorings = report[0]["reports"][0]["datasets"][0]["scorings"]
    assert list(scorings) == ["cosine", "mnet", "k_reciprocal"]
    again = scorings["k_reciprocal"]
    assert 0.0 < again["metrics"]["mAP"]["mean"] <= 1.0
    assert again["operating_points"] == again["verification"] == []
    assert "no pair score" in again["note"]


def test_pair_scores_have_intervals_over_people_and_tar_at_far(report):
    cosine = report[0]["reports"][0]["datasets"][0]["scorings"]["cosine"]
    assert cosine["over_identities"]["mAP"]["mean"] == cosine["metrics"]["mAP"]["mean"]
    (point,) = cosine["verification"]  # 120 impostor pairs show one rate only
    assert point["asked"] == 0.01
    assert point["false_accept_rate"] <= 0.01


def test_the_page_leads_to_the_report_of_every_set(report):
    page = (report[1] / "protocol.html").read_text()
    for name in ("first", "second"):
        assert f'href="{name}/report.html"' in page
        assert (report[1] / name / "report.html").is_file()


def test_an_artefact_that_was_trained_on_a_set_is_refused(runs, manifests):
    one = str(runs / "without-first")
    with pytest.raises(InputProblem, match="--leave-out second, or leave this set out"):
        evaluate([one], [f"manifest:{path}" for path in manifests], protocol="lodo")


def test_several_artefacts_need_a_protocol_that_chooses(runs, manifests):
    with pytest.raises(InputProblem, match="2 artefacts; name one, or let --protocol lodo choose"):
        evaluate([str(runs)], [f"manifest:{manifests[0]}"])


def test_a_set_that_a_protocol_does_not_test_is_refused(runs, manifests):
    with pytest.raises(InputProblem, match="protocol P2 tests market1501, msmt17, cuhk03np"):
        evaluate([str(runs)], [f"manifest:{manifests[0]}"], protocol="P2")


@pytest.fixture
def market(tiny_artefact, drawn_crops, tmp_path) -> Path:
    """Drawn people as Market-1501, and an artefact trained by P2 on 50 people a set."""
    for number, crop in enumerate(drawn_crops):
        split = ("bounding_box_train", "query", "bounding_box_test")[number % 3]
        (tmp_path / split).mkdir(exist_ok=True)
        name = f"{int(crop.identity) + 1:04d}_c{1 + (crop.camera == 'west')}s1_{number:06d}_00.jpg"
        (tmp_path / split / name).write_bytes(crop.png)
    artefact = load_artefact(tiny_artefact)
    sizes = {"terms": "", "crops": 500, "identities": 50, "cameras": 2}
    by_p2 = [
        TrainingData(name=name, spec=f"{name}:x", splits=("train",), **sizes)
        for name in ("msmt17", "cuhk03np")
    ]
    every = TrainingData(name="cuhksysu", spec="cuhksysu:x", **sizes)
    update = {"data": (*by_p2, every), "held_out": {"fraction": 0.15, "seed": 0}}
    save_with(artefact, tmp_path, **update, recipe={"sampling": {"identities_per_set": 50}})
    return tmp_path


def save_with(artefact: Artefact, folder: Path, **origin: object) -> None:
    provenance = artefact.description.provenance.model_copy(update=origin)
    save_artefact(
        folder / "without-market1501.safetensors",
        artefact.description.model_copy(update={"provenance": provenance}),
        artefact.embedder,
        artefact.metric_network,
    )


def measured(market: Path, protocol: str) -> dict:
    answer = run(
        *(market / "without-market1501.safetensors", "--protocol", protocol, "--json"),
        *("--data", f"market1501:{market}", "--scoring", "cosine"),
    )
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


def test_a_row_of_a_paper_has_beside_it_where_the_training_was_another(market):
    found = measured(market, "P3")
    assert found["published"] == []
    for part in (
        "on the train images of msmt17; protocol P3 trains on the test images, too",
        "on the train images of cuhk03np",
        "on 85% of the people",
        "on at most 50 people of each set",
    ):
        assert sum(part in remark for remark in found["remarks"]) == 1, (part, found["remarks"])
    assert not any("cuhksysu" in remark for remark in found["remarks"])


def test_a_papers_row_stands_beside_its_own_recipe_and_protocol_alone(market):
    papers = read_recipe("gmn-r50").model_dump(mode="json")
    other = read_recipe("gmn-r50", ["losses.pic=0.05"]).model_dump(mode="json")
    cases = (("P2", papers, ["GMN"]), ("P3", papers, []), ("P2", other, []))
    for protocol, recipe, rows in cases:
        save_with(load_artefact(market / "without-market1501.safetensors"), market, recipe=recipe)
        published = measured(market, protocol)["published"]
        assert [row["name"] for row in published] == rows
        # The paper's average is over sets that are not tested here.
        assert all("average" not in row["figures"] for row in published)


def test_a_protocols_table_is_printed(runs, manifests):
    answer = run(runs, "--protocol", "lodo", *specs(manifests), "--scoring", "cosine")
    assert "Protocol lodo" in answer.stdout
    assert "average" in answer.stdout


def test_papers_figures_stand_beside_this_runs(report):
    first = report[0]["reports"][0]
    first["datasets"][0]["name"] = "market1501"
    found = ProtocolReport.model_validate(report[0])
    beside = found.model_copy(update={"protocol": "P2", "published": paper_tables()["gmn/P2"].rows})
    printed = io.StringIO()
    render_protocol(beside, Console(file=printed, width=200), None)
    for shown in (protocol_page(beside), printed.getvalue()):
        assert "46.6 / 60.0" in shown
        assert "72.3 / 87.1" in shown
        # The sets that are not measured here.
        assert "43.2 / 42.1" not in shown
        assert "paper: GMN" in shown
