"""`gmn benchmark`: whole tables on drawn people, resumed, estimated, and what is missing named."""

import csv
import json
import time
from itertools import count, permutations
from pathlib import Path

import pytest

import gmn
from tests.forked import GMN, Forked
from tests.training.runs import FAST_BACKBONE, run_here, set_options
from training.datasets.drawn import draw_people
from training.dry_run import estimate_step
from training.papers import paper_tables
from training.recipe import read_recipe
from training.run import prepare_run
from training.step import TrainingStep

P1 = ("market1501", "cuhk02", "cuhk03np", "cuhksysu", "viper")
SETTINGS = (
    FAST_BACKBONE,
    "initial_weights=none",
    "preprocessing.height=64",
    "preprocessing.width=32",
    "augmentation.resize=none",
    "sampling.identities=4",
    "sampling.images=2",
    "optimisation.epochs=1",
    "optimisation.warm_up_epochs=0",
    "validation.every_epochs=0",
    "checkpoint_every_steps=1",
)


def draw_set(folder, name, seed):
    """Write twelve drawn people, four of them to be tested, as a manifest named after a set."""
    place = folder / name
    place.mkdir()
    drawn = draw_people(seed, 1, 12, cameras_per_domain=2, crops_per_camera=2).records
    tested = sorted({record.identity for record in drawn})[:4]
    with (folder / f"{name}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "identity", "camera", "split"])
        for number, record in enumerate(drawn):
            record.decode().resize((32, 64)).save(place / f"{number}.png")
            side = "query" if record.camera == drawn[0].camera else "gallery"
            split = side if record.identity in tested else "train"
            rows.writerow([f"{name}/{number}.png", record.identity, record.camera, split])
    return folder / f"{name}.csv"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    names = (*P1, "prid2011", "msmt17", "cuhk01")
    return {name: draw_set(folder, name, seed) for seed, name in enumerate(names, start=1)}


def command(table, files, out, *more):
    words = ["benchmark", str(table), "--out", str(out), *more]
    words += [word for file in files for word in ("--data", f"manifest:{file}")]
    return words + set_options(*SETTINGS)


def baselines(table, files, folder):
    """Return the words of the first row in the plan of a table, of each tested set."""
    ran = run_here(*command(table, files, folder / "out", "--dry-run"))
    assert ran.status == 0, ran.err
    first = ("Baseline", "plain")
    return [line.split() for line in ran.out.splitlines() if line.startswith(first)]


@pytest.mark.slow
def test_a_killed_table_continues_and_ends_with_every_row_and_seed(sets, tmp_path, capsys):
    held_out = set_options("held_out.fraction=0.4")
    words = command("gmn/P1", [sets[name] for name in P1], tmp_path, "--seeds", "0,1", *held_out)
    # The module registers the backbone.
    process = Forked(f"import tests.training.runs; {GMN}", *words)
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
    page = (tmp_path / "gmn/P1/benchmark.html").read_text()
    assert "Benchmark gmn/P1" in page
    assert "since held_out.fraction=0.4" in page
    # All that is there is read again, and nothing is trained or measured.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/seed-*/**/*")}
    assert gmn.run(words) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_all_people_train_where_others_calibrate(sets, tmp_path, capsys):
    all_people = set_options("held_out.fraction=0")
    files = [sets[name] for name in (*P1, "prid2011")]
    words = command("gmn/P1", files, tmp_path, "--seeds", "3", *all_people)
    assert gmn.run(words) == 2
    assert "name others with --calibrate SPEC" in capsys.readouterr().err
    assert gmn.run([*words, "--calibrate", f"manifest:{sets['msmt17']}"]) == 0
    (trained,) = tmp_path.glob("gmn-r50-*/*/seed-3/report.json")
    assert "identities of msmt17" in json.loads(trained.read_text())["calibration_data"]
    printed = capsys.readouterr().out
    assert "trained on" not in printed
    assert "(for mnet its cosine)" in " ".join(printed.split())
    found = json.loads((tmp_path / "gmn/P1/benchmark.json").read_text())
    for number, ranking in enumerate(found["average"]["rankings"]):
        sets_own = [dataset["rankings"][number] for dataset in found["datasets"]]
        for kind in ("metrics", "differences"):
            for metric, value in ranking[kind].items():
                means = [figures[kind][metric]["mean"] for figures in sets_own]
                assert value["mean"] == pytest.approx(sum(means) / 2)
                assert value["low"] <= value["mean"] <= value["high"]
    assert "average, 1 seed, %" in printed


@pytest.mark.parametrize("table", ["gmn/P1", "small/msfl"])
def test_a_dry_run_takes_steps_of_every_row_and_writes_nothing(table, sets, tmp_path):
    ran = run_here(*command(table, list(sets.values()), tmp_path / "out", "--dry-run"))
    assert ran.status == 0, ran.err
    shown = " ".join(ran.out.split())
    for row in paper_tables()[table].rows:
        assert row.name.split()[0] in shown
    assert "runs with 3 seeds train for about" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_each_set_is_trained_on_alone_and_tested_on_the_others(sets, tmp_path):
    files = [sets[name] for name in ("market1501", "msmt17", "viper")]
    words = command("small/single-source", files, tmp_path, "--seeds", "0,1")
    # Of the eight people of each set's training split, some are held out.
    words += set_options("held_out.fraction=0.4", "sampling.identities=2")
    ran = run_here(*words)
    assert ran.status == 0, ran.err
    assert "viper is none of the table's sets" in ran.err
    found = json.loads((tmp_path / "small/single-source/benchmark.json").read_text())
    cells = [(dataset["trained_on"], dataset["name"]) for dataset in found["datasets"]]
    assert sorted(cells) == sorted(permutations(("market1501", "msmt17", "viper"), 2))
    not_run = {tuple(place) for place in found["not_run"]}
    assert not_run == {
        place
        for place in permutations(("market1501", "msmt17", "cuhk03np"), 2)
        if "cuhk03np" in place
    }
    assert found["average"] is None
    # A cell has the figures of the runs that were trained on its set alone.
    for dataset in found["datasets"]:
        for ranking in dataset["rankings"]:
            (recipe,) = {Path(run).parts[-3] for run in found["runs"][ranking["group"]]}
            place = tmp_path / recipe / dataset["trained_on"]
            reports = [
                json.loads((place / seed / "tests" / dataset["name"] / "report.json").read_text())
                for seed in ("seed-0", "seed-1")
            ]
            means = [
                report["datasets"][0]["scorings"][ranking["ranking"]]["metrics"]["mAP"]["mean"]
                for report in reports
            ]
            assert ranking["metrics"]["mAP"]["mean"] == pytest.approx(sum(means) / 2)
    assert ran.out.count("not run") == 2 * len(not_run)
    assert "trained on viper, tested on msmt17, 2 seeds, %" in " ".join(ran.out.split())


def test_a_single_source_table_has_a_run_for_each_set(sets, tmp_path):
    given = [sets[name] for name in ("market1501", "msmt17", "viper")]
    assert sorted(line[1:4] for line in baselines("small/single-source", given, tmp_path)) == [
        ["market1501", "msmt17,", "viper"],
        ["msmt17", "market1501,", "viper"],
        ["viper", "market1501,", "msmt17"],
    ]
    file = tmp_path / "mine.toml"
    row = '[[row]]\nname = "mine"\nrecipe = "quick"\n[row.figures]\nviper = { mAP = 1 }\n'
    file.write_text(f'protocol = "single-source"\n{row}')
    refused = run_here(*command(file, given, tmp_path))
    assert "figures of a single-source table have no place: remove them" in refused.err


def test_a_step_of_a_large_batch_is_estimated_from_a_small_one(monkeypatch):
    crops = draw_people(1, 1, 12, cameras_per_domain=2, crops_per_camera=2).records
    settings = [*SETTINGS, "sampling.identities=12"]
    run = prepare_run(read_recipe("small-gmn", settings), crops, Path())
    sizes = []

    def step_of_a_second_a_crop(_step, batch, _seed):
        sizes.append(len(batch.rows))

    clock = count(0, 8)
    monkeypatch.setattr(TrainingStep, "train", step_of_a_second_a_crop)
    monkeypatch.setattr("training.dry_run.time.perf_counter", lambda: next(clock))
    # Four people with two crops each take eight seconds, twelve people three times as long.
    assert estimate_step(run) == pytest.approx(24)
    assert set(sizes) == {8}


def test_a_table_of_ones_own_recipes_leaves_each_set_out_in_turn(sets, tmp_path):
    file = tmp_path / "mine.toml"
    row = '[[row]]\nname = "{}"\nrecipe = "small-gmn"\nsettings = ["losses.pic={}"]\n'
    rows = row.format("plain", 0) + row.format("with PIC", 0.1)
    file.write_text(f'protocol = "lodo"\n{rows}')
    given = [sets["cuhk01"], sets["viper"]]
    assert sorted(line[1:3] for line in baselines(file, given, tmp_path)) == [
        ["cuhk01", "viper"],
        ["viper", "cuhk01"],
    ]
    file.write_text(rows.replace("recipe =", "recipes ="))
    refused = run_here(*command(file, given, tmp_path))
    assert "mine.toml: is no table of recipes" in refused.err


@pytest.mark.parametrize(
    ("table", "names", "more", "messages"),
    [
        ("gmn/P4", ["viper"], (), tuple(paper_tables())),
        ("gmn/P1", ["viper"], ("--seeds", "0;1"), ("separate numbers by commas",)),
        (
            "gmn/P2",
            ["market1501", "msmt17", "cuhk03np"],
            (),
            (
                "none of its runs is possible",
                "market1501 is not tested: that needs cuhksysu to train on",
            ),
        ),
        (
            "small/gmn",
            ["viper"],
            ("--dry-run",),
            (
                "none of cuhk01, cuhk03_p1 is given: the table is run on viper instead",
                "viper is not tested: that needs another set to train on",
            ),
        ),
        (
            "small/single-source",
            ["viper"],
            ("--dry-run",),
            ("none of its runs is possible", "viper is not trained on: that needs another set"),
        ),
        (
            "gmn/P1",
            ["cuhk01"],
            ("--dry-run",),
            (
                "cuhk01 is in no row of this table: protocol P1 names its sets",
                "gmn/lodo takes any",
            ),
        ),
    ],
)
def test_a_table_that_cannot_be_run_is_refused_with_what_it_takes(
    table, names, more, messages, sets, tmp_path
):
    ran = run_here(*command(table, [sets[name] for name in names], tmp_path, *more))
    assert ran.status == 2
    for message in messages:
        assert message in ran.err


def test_a_table_is_run_on_own_data_in_place_of_its_sets(sets, tmp_path):
    names = ["prid2011", "viper"]
    baseline = baselines("small/gmn", [sets[name] for name in names], tmp_path)
    assert sorted(line[2] for line in baseline) == names


@pytest.mark.slow
def test_own_data_without_splits_are_measured_on_the_people_held_out(sets, tmp_path):
    rows = sets["viper"].read_text().splitlines()
    mine = sets["viper"].with_name("mine.csv")
    mine.write_text("\n".join(row.rpartition(",")[0] for row in rows))
    held_out = set_options("held_out.fraction=0.4")
    words = command("small/msfl", [mine], tmp_path, "--seeds", "0", *held_out)
    assert gmn.run(words) == 0
    found = json.loads((tmp_path / "small/msfl/benchmark.json").read_text())
    (dataset,) = found["datasets"]
    assert dataset["name"] == "mine"
    for folder in (run for runs in found["runs"].values() for run in runs):
        report = json.loads((Path(folder) / "tests" / "mine" / "report.json").read_text())
        assert report["split"] == "held-out"
        assert report["datasets"][0]["identities"] < 12
