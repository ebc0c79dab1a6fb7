"""`gmn benchmark`: whole tables on drawn people, resumed, estimated, and what is missing named."""

from __future__ import annotations

import csv
import json
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

import gmn
from tests.forked import GMN, Forked
from training.datasets.drawn import draw_people
from training.papers import paper_tables

P1 = ("market1501", "cuhk02", "cuhk03np", "cuhksysu", "viper")
SETTINGS = (
    "sampling.identities=4",
    "sampling.images=2",
    "optimisation.epochs=1",
    "optimisation.warm_up_epochs=0",
    "validation.every_epochs=0",
    "checkpoint_every_steps=1",
)


def draw_set(folder: Path, name: str, seed: int) -> Path:
    """Twelve drawn people as a manifest named after a public set, in its splits."""
    place = folder / name
    place.mkdir()
    drawn = draw_people(seed, 1, 12, cameras_per_domain=2, crops_per_camera=2).records
    people = sorted({record.identity for record in drawn})
    with (folder / f"{name}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "identity", "camera", "split"])
        for number, record in enumerate(drawn):
            Image.fromarray(record.decode()).resize((32, 64)).save(place / f"{number}.png")
            tested = "query" if record.camera == drawn[0].camera else "gallery"
            split = tested if people.index(record.identity) < 4 else "train"
            rows.writerow([f"{name}/{number}.png", record.identity, record.camera, split])
    return folder / f"{name}.csv"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    names = (*P1, "prid2011", "msmt17", "dukemtmc", "cuhk01", "cuhk03_p1")
    return {name: draw_set(folder, name, seed) for seed, name in enumerate(names, start=1)}


def command(table: str, files: list[Path], out: Path, *more: str) -> list[str]:
    words = ["benchmark", table, "--out", str(out), *more]
    words += [word for file in files for word in ("--data", f"manifest:{file}")]
    return words + [word for setting in SETTINGS for word in ("--set", setting)]


@pytest.mark.slow
def test_a_killed_table_continues_and_ends_with_every_row_and_seed(
    sets: dict[str, Path],
    tiny_artefact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = ("--set", f"initial_weights={tiny_artefact}", "--set", "held_out.fraction=0.4")
    words = command("gmn/P1", [sets[name] for name in P1], tmp_path, "--seeds", "0,1", *start)
    process = Forked(GMN, *words)
    # The first run has ended and the second one has begun.
    while len(list(tmp_path.glob("*/*/seed-*/log.jsonl"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait(60)
    (first,) = tmp_path.glob("*/*/seed-0/model.safetensors")
    written = first.stat().st_mtime_ns
    assert not (tmp_path / "gmn").exists()
    assert gmn.run(words) == 0
    assert first.stat().st_mtime_ns == written
    answer = capsys.readouterr()
    assert "prid2011 is not tested: it is not given" in answer.err
    assert "no figure of the paper is shown, since" in " ".join(answer.out.split())
    found = json.loads((tmp_path / "gmn/P1/benchmark.json").read_text())
    (dataset,) = found["datasets"]
    assert dataset["name"] == "viper"
    rows = {(row["group"], row["ranking"]): row for row in dataset["rankings"]}
    baseline = rows["Baseline", "cosine"]
    full = rows["GMN", "mnet"]
    assert found["seeds"] == [0, 1]
    assert full["over_seeds"]
    assert full["against"] == "cosine"
    difference = full["metrics"]["mAP"]["mean"] - baseline["metrics"]["mAP"]["mean"]
    assert full["differences"]["mAP"]["mean"] == pytest.approx(difference)
    assert found["papers"] == {"Baseline": {}, "GMN": {}}
    assert [len(runs) for runs in found["runs"].values()] == [2, 2]
    page = (tmp_path / "gmn/P1/benchmark.html").read_text()
    assert "Benchmark gmn/P1" in page
    assert "since initial_weights=" in page
    # All that is there is read again, and nothing is trained or measured.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/seed-*/**/*")}
    assert gmn.run(words) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_all_people_train_where_others_calibrate(
    sets: dict[str, Path],
    tiny_artefact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    all_people = ("--set", f"initial_weights={tiny_artefact}", "--set", "held_out.fraction=0")
    files = [sets[name] for name in (*P1, "prid2011")]
    words = command("gmn/P1", files, tmp_path, "--seeds", "3", *all_people)
    assert gmn.run(words) == 2
    assert "name others with --calibrate SPEC" in capsys.readouterr().err
    assert gmn.run([*words, "--calibrate", f"manifest:{sets['msmt17']}"]) == 0
    (trained,) = tmp_path.glob("gmn-r50-*/*/seed-3/report.json")
    assert "identities of msmt17" in json.loads(trained.read_text())["calibration_data"]
    printed = capsys.readouterr().out
    assert "trained on" not in printed
    assert "(mnet less its cosine)" in " ".join(printed.split())
    found = json.loads((tmp_path / "gmn/P1/benchmark.json").read_text())
    for number, ranking in enumerate(found["average"]["rankings"]):
        sets_own = [dataset["rankings"][number] for dataset in found["datasets"]]
        for kind in ("metrics", "differences"):
            for metric, value in ranking[kind].items():
                means = [figures[kind][metric]["mean"] for figures in sets_own]
                assert value["mean"] == pytest.approx(sum(means) / 2)
                assert value["low"] <= value["mean"] <= value["high"]
    assert "average, %" in printed


@pytest.mark.parametrize(
    "table",
    [
        name if name in ("gmn/P1", "small/msfl") else pytest.param(name, marks=pytest.mark.slow)
        for name in paper_tables()
    ],
)
def test_a_dry_run_takes_steps_of_every_row_and_writes_nothing(
    table: str, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["preprocessing.height=64", "preprocessing.width=32", "augmentation.resize=none"]
    some = {"gmn/lodo": ("cuhk01", "viper"), "msfl/table4": ("market1501", "dukemtmc")}
    out = tmp_path / "out"
    wanted = some.get(table, tuple(sets))
    words = command(table, [sets[name] for name in wanted], out, "--dry-run")
    words += [word for setting in small for word in ("--set", setting)]
    assert gmn.run(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for row in paper_tables()[table].rows:
        assert row.name.split()[0] in shown
    assert "runs with 3 seeds: about" in shown
    assert not out.exists()


@pytest.mark.slow
def test_a_dry_run_times_a_recipe_once_and_scales_it_to_each_training_set(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = sets["cuhk01"].read_text().splitlines()
    people = []
    for number in range(5):
        shutil.copytree(sets["cuhk01"].with_suffix(""), tmp_path / str(number))
        for row in rows[1:]:
            path, identity, *rest = row.split(",")
            people.append(
                ",".join([path.replace("cuhk01", str(number)), f"{number}-{identity}", *rest])
            )
    more = tmp_path / "more.csv"
    more.write_text("\n".join([rows[0], *people]))
    words = command("gmn/lodo", [sets["viper"], more], tmp_path / "out", "--dry-run")
    assert gmn.run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    baseline = [line.split() for line in lines if line.startswith("Baseline")]
    steps, times = zip(*(line[3:5] for line in baseline), strict=True)
    assert len(set(times)) == 1, baseline
    assert len(set(steps)) == 2, baseline


def test_a_table_of_ones_own_recipes_leaves_each_set_out_in_turn(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    row = 'name = "{}"\nrecipe = "small-gmn"\nsettings = ["losses.pic={}"]\n'
    rows = [f"[[row]]\n{row.format(*one)}" for one in (("plain", 0), ("with PIC", 0.1))]
    file.write_text("\n".join(['protocol = "lodo"', *rows]))
    words = command(str(file), [sets["cuhk01"], sets["viper"]], tmp_path / "out", "--dry-run")
    assert gmn.run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[1:3] for line in lines if line.startswith("plain")) == [
        ["cuhk01", "viper"],
        ["viper", "cuhk01"],
    ]
    file.write_text("\n".join(rows).replace("recipe =", "recipes ="))
    assert gmn.run(words) == 2
    assert "mine.toml: is no table of recipes" in capsys.readouterr().err


def test_a_table_that_there_is_not_lists_those_there_are(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gmn.run(command("gmn/P4", [sets["viper"]], tmp_path)) == 2
    answer = capsys.readouterr().err
    assert all(name in answer for name in paper_tables())


def test_missing_sets_are_named_with_what_they_keep_from_being_tested(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [sets[name] for name in ("market1501", "msmt17", "cuhk03np")]
    assert gmn.run(command("gmn/P2", files, tmp_path)) == 2
    answer = " ".join(capsys.readouterr().err.split())
    assert "nothing of it can be run" in answer
    assert "market1501: to test on it takes cuhksysu, which is not given" in answer


def test_a_table_of_named_sets_says_what_else_it_takes_of_own_data(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gmn.run(command("small/gmn", [sets["viper"]], tmp_path, "--dry-run")) == 2
    answer = " ".join(capsys.readouterr().err.split())
    assert "none of cuhk01, cuhk03_p1 is given: the table is run on viper instead" in answer
    assert "viper: to test on it takes another set, which is not given" in answer


def test_a_table_of_a_papers_protocol_says_why_own_data_are_in_none_of_its_rows(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gmn.run(command("gmn/P1", [sets["cuhk01"]], tmp_path, "--dry-run")) == 2
    answer = " ".join(capsys.readouterr().err.split())
    assert "cuhk01 is in no row of this table: protocol P1 names its sets" in answer
    assert "gmn/lodo takes any" in answer


@pytest.mark.parametrize(
    ("table", "names"), [("small/gmn", ("viper", "prid2011")), ("small/msfl", ("viper",))]
)
def test_a_table_is_run_on_own_data_in_place_of_its_sets(
    table: str,
    names: tuple[str, ...],
    sets: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = command(table, [sets[name] for name in names], tmp_path / "out", "--dry-run")
    assert gmn.run(words) == 0
    answer = capsys.readouterr()
    assert f"the table is run on {', '.join(names)} instead" in " ".join(answer.err.split())
    baseline = [line.split() for line in answer.out.splitlines() if line.startswith("Baseline")]
    assert sorted(line[2] for line in baseline) == sorted(names)


@pytest.mark.slow
def test_own_data_without_splits_are_measured_on_the_people_held_out(
    sets: dict[str, Path], tmp_path: Path
) -> None:
    rows = sets["viper"].read_text().splitlines()
    mine = sets["viper"].with_name("mine.csv")
    mine.write_text("\n".join(row.rpartition(",")[0] for row in rows))
    start = ("--set", "initial_weights=none", "--set", "held_out.fraction=0.4")
    words = command("small/msfl", [mine], tmp_path, "--seeds", "0", *start)
    assert gmn.run(words) == 0
    found = json.loads((tmp_path / "small/msfl/benchmark.json").read_text())
    (dataset,) = found["datasets"]
    assert dataset["name"] == "mine"
    for folder in (run for runs in found["runs"].values() for run in runs):
        report = json.loads((Path(folder) / "tests" / "mine" / "report.json").read_text())
        assert report["split"] == "held-out"
        assert report["datasets"][0]["identities"] < 12


def test_seeds_are_numbers(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gmn.run(command("gmn/P1", [sets["viper"]], tmp_path, "--seeds", "0;1")) == 2
    assert "write numbers with commas" in capsys.readouterr().err
