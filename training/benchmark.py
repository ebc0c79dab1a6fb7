"""Train and measure the rows of a table, of a paper or of one's own, on the given data sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from pydantic import Field

from model.artefact import load_artefact
from model.precision import choose_device
from model.problems import InputProblem
from training.datasets.protocols import PROTOCOLS, Protocol
from training.datasets.record import Dataset
from training.datasets.registry import absolute_spec
from training.dry_run import estimate_step
from training.evaluation import charts
from training.evaluation.compare import (
    ComparedDataset,
    ComparedRanking,
    average,
    compare,
    ranking_table,
)
from training.evaluation.embedding import ProgressBar
from training.evaluation.evaluate import evaluate
from training.evaluation.evaluate_search import RANKINGS
from training.evaluation.files import make_folder
from training.evaluation.report import write_page, write_report
from training.evaluation.results import Result
from training.evaluation.runs import REPORT, Group, RunFolder, deciding, read_run
from training.evaluation.tables import Table, Value
from training.papers import (
    AVERAGE,
    PaperFigures,
    PaperRow,
    PaperTable,
    people_differences,
)
from training.provenance import current_time
from training.recipe import Distillation, Recipe
from training.run import prepare_run
from training.run_folder import (
    ARTEFACT_NAME,
    DATA_NAME,
    RunData,
    split_people,
)
from training.sampler import build_sampler

TrainRun = Callable[[Recipe, RunData, Sequence[Dataset], Path, bool], None]
"""Trains a recipe into a folder, as `gmn train` does; resumes the run if the last word is true."""


@dataclass(frozen=True)
class Training:
    """The training and test data of one run of every row.

    Attributes:
        source: the specs of the data, from which `gmn finish` reads them again.
        sets: the data sets that are trained on.
        tests: the data sets that are tested on.
    """

    source: RunData
    sets: Sequence[Dataset]
    tests: Sequence[Dataset]

    @property
    def folder(self) -> str:
        """The name of a folder: the training sets, and whether their test images are included."""
        protocol = PROTOCOLS.get(self.source.protocol or "")
        return f"{self.name}-with-test-images" if protocol and protocol.test_images else self.name

    @property
    def name(self) -> str:
        """The names of the training sets."""
        return "+".join(sorted(dataset.name for dataset in self.sets))


@dataclass(frozen=True)
class Benchmark:
    """A table, and those of its runs for which data sets were given.

    Attributes:
        recipes: the recipe of each row.
        trainings: the trainings whose data sets were given.
        left_out: sentences that say which parts of the table are left out, and why.
        settings: the command line's settings, which apply to every row.
        out: the folder for the runs and the table's page.
    """

    table: PaperTable
    recipes: Sequence[Recipe]
    trainings: Sequence[Training]
    left_out: Sequence[str]
    settings: Sequence[str]
    seeds: Sequence[int]
    out: Path

    def run_folder(
        self,
        recipe: Recipe,
        training: Training,
        seed: int,
    ) -> Path:
        """Return the folder of a run; tables that share a row share its runs."""
        settings = json.dumps(deciding(recipe.model_dump(mode="json")), sort_keys=True)
        digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
        return self.out / f"{recipe.name}-{digest}" / training.folder / f"seed-{seed}"


class BenchmarkReport(Result):
    """The figures of a table's runs, as written to `benchmark.json`.

    Attributes:
        settings: the command line's settings, which apply to every row.
        remarks: omitted rows and sets, and differences between the runs and the paper's.
        runs: the folders of each row's runs.
        datasets: the rankings of all rows, with differences to the baseline, by test set, and with
            the protocol `single-source` by training set and test set.
        not_run: with this protocol, the names of those training and test sets of the table for
            which data sets were missing.
        average: the average over the test sets, if there are several; None with this protocol.
        papers: the paper's figures by row, and by test set with its version. A row whose settings
            differ from the paper's has none.
    """

    table: PaperTable
    settings: Sequence[str]
    seeds: Sequence[int]
    created_at: str
    remarks: list[str]
    runs: dict[str, list[str]]
    datasets: list[ComparedDataset]
    not_run: list[tuple[str, str]] = Field([])
    average: ComparedDataset | None = None
    papers: dict[str, dict[str, PaperFigures]]


def plan_benchmark(
    table: PaperTable,
    datasets: Sequence[Dataset],
    settings: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    command: str,
    plugins: Sequence[Path] = (),
) -> Benchmark:
    """Plan the runs of a table for which the given data sets suffice.

    Raises:
        InputProblem: a setting is wrong, or no run of the table is possible.
    """
    recipes = [row.resolved(settings, plugins) for row in table.rows]
    by_name = {dataset.name: dataset for dataset in datasets}
    protocol = PROTOCOLS.get(table.protocol)
    tests = table.tests or (protocol.targets if protocol else ()) or tuple(by_name)
    sources = table.sources or (protocol.sources if protocol else ()) or tuple(by_name)
    if protocol and protocol.trains_on == "one":
        tests = sources = tuple(dict.fromkeys((*sources, *by_name)))
    left_out: list[str] = []
    takes_any = protocol is None or not protocol.sources
    if takes_any and not by_name.keys() & set(tests):
        left_out.append(
            f"none of {', '.join(tests)} is given: the table is run on {', '.join(by_name)} instead"
        )
        tests = sources = tuple(by_name)
    given_tests = [name for name in tests if name in by_name]
    sets_of_table = {*tests, *sources} if protocol else {*tests}
    left_out += [f"{name} is not tested: it is not given" for name in tests if name not in by_name]
    why = (
        f"give it without {', '.join(given_tests)} to run the table on it"
        if takes_any
        else f"protocol {table.protocol} names its sets; gmn/lodo takes any"
    )
    left_out += [
        f"{name} is in no row of this table: {why}" for name in by_name if name not in sets_of_table
    ]
    trainings = []
    for left, trained, tested in _runs(protocol, sources, given_tests):
        absent = [name for name in trained if name not in by_name]
        if absent or not trained:
            needed = ", ".join(absent) or "another set"
            left_out.append(f"{', '.join(tested)} is not tested: that needs {needed} to train on")
            continue
        if not tested:
            left_out.append(f"{', '.join(trained)} is not trained on: that needs another set")
            continue
        read = [name for name in sources if name in (*trained, left)] if protocol else trained
        given = [by_name[name] for name in read if name in by_name]
        source = RunData(
            specs=tuple(dataset.spec for dataset in given),
            left_out=left,
            protocol=protocol and protocol.name,
            command=command,
        )
        sets = source.training_sets(given)
        trainings.append(Training(source, sets, [by_name[name] for name in tested]))
    if protocol and protocol.trains_on == "one":
        left_out += [
            f"{name} is none of the table's sets: its cells cannot stand beside published ones"
            for name in by_name
            if name not in table.sources
        ]
    if not trainings:
        raise InputProblem(f"{table.name}: none of its runs is possible: {'; '.join(left_out)}")
    return Benchmark(table, recipes, trainings, left_out, settings, seeds, out)


def _runs(
    protocol: Protocol | None,
    sources: Sequence[str],
    tests: Sequence[str],
) -> list[tuple[str | None, list[str], list[str]]]:
    """Return for each run the set that it leaves out, the training sets and the test sets."""
    if protocol is None:
        return [(None, [name], [name]) for name in tests]
    if protocol.trains_on == "all":
        return [(None, list(sources), list(tests))] if tests else []
    if protocol.trains_on == "one":
        # Each of the given sets is trained on and tested.
        return [(None, [name], [test for test in tests if test != name]) for name in tests]
    return [(name, [other for other in sources if other != name], [name]) for name in tests]


def run_benchmark(
    benchmark: Benchmark,
    train_run: TrainRun,
    progress_bar: ProgressBar,
    is_main: bool = True,
) -> BenchmarkReport | None:
    """Train and measure the runs that have no report yet, and write `benchmark.json` and its page.

    Args:
        benchmark: the result of `plan_benchmark`.
        train_run: trains one run.
        progress_bar: shows the progress of long steps.
        is_main: whether this process measures and writes; in all others the result is None.

    Raises:
        InputProblem: a run fails, or a folder holds a run on other data.
    """
    table = benchmark.table
    groups = []
    for row, recipe in zip(table.rows, benchmark.recipes, strict=True):
        models = []
        for training in benchmark.trainings:
            for seed in benchmark.seeds:
                folder = benchmark.run_folder(recipe, training, seed)
                _refuse_other_data(folder, training)
                if not (folder / REPORT).exists():
                    resume = folder.is_dir() and any(folder.iterdir())
                    seeded = recipe.model_copy(update={"seed": seed})
                    train_run(seeded, training.source, training.sets, folder, resume)
                if is_main:
                    models.append(
                        [
                            _measure(folder, dataset, row, training, progress_bar)
                            for dataset in training.tests
                        ]
                    )
        groups.append(Group(row.name, models))
    if not is_main:
        return None
    report = _report(benchmark, groups)
    write_page(
        benchmark.out / table.name,
        "benchmark",
        report,
        "tables.html",
        title=f"Benchmark {table.name}",
        summary=f"{table.title}; {report.created_at}",
        charts=[
            chart
            for dataset in report.datasets
            for chart in charts.compared(dataset, _rows_of_table(report, dataset))
        ],
        tables=result_tables(report),
        remarks=report.remarks,
        runs=report.runs,
        maps=None,
    )
    return report


def estimate_benchmark(benchmark: Benchmark) -> tuple[Table, str]:
    """Estimate the steps and hours of one run of each row, and describe the cost of all runs.

    Steps are timed once for each recipe, from random weights, for all its sets and seeds. If a row
    shares its run with an earlier row, it has no figures.
    """
    rows: list[list[Value]] = []
    total = 0.0
    estimated: set[Path] = set()
    for row, recipe in zip(benchmark.table.rows, benchmark.recipes, strict=True):
        bare = {"initial_weights": "none", "distillation": Distillation()}
        bare_recipe = recipe.model_copy(update=bare)
        step = None
        for training in benchmark.trainings:
            place: list[Value] = [row.name]
            for sets in (training.sets, training.tests):
                place.append(", ".join(sorted(dataset.name for dataset in sets)))
            folder = benchmark.run_folder(recipe, training, 0)
            if folder in estimated:
                rows.append([*place, None, None, None])
                continue
            estimated.add(folder)
            records, _ = split_people(bare_recipe, training.sets)
            if step is None:
                step = estimate_step(prepare_run(bare_recipe, records, folder))
            epochs = recipe.optimisation.epochs
            steps = len(build_sampler(records, recipe.sampling).epoch(0)) * epochs
            hours = step * steps / 3600
            rows.append([*place, steps, f"{step:.3g} s", f"{hours:.2f}"])
            total += hours
    seeds = len(benchmark.seeds)
    of_seeds = f"{seeds} seeds" if seeds > 1 else "1 seed"
    columns = ["row", "trained on", "tested on", "steps", "a step", "hours a run"]
    summary = (
        f"{seeds * len(estimated)} runs with {of_seeds} train for about {seeds * total:,.1f} "
        "hours. A row without figures shares the run of an earlier row."
    )
    return Table("", columns, rows, labels=3), summary


def result_tables(report: BenchmarkReport) -> list[Table]:
    """Return a table for each test set, with the paper's rows, and one of the average.

    With the protocol `single-source` the first table has all training and test sets.
    """
    seeds = f"{len(report.seeds)} seeds" if len(report.seeds) > 1 else "1 seed"
    tables = [_overview(report, seeds)] if report.table.protocol == "single-source" else []
    for dataset in [*report.datasets, *([report.average] if report.average else [])]:
        rows = _rows_of_table(report, dataset)
        papers = {
            name: str(figures[dataset.name])
            for name, figures in report.papers.items()
            if dataset.name in figures
        }
        trained = f"trained on {dataset.trained_on}, tested on " if dataset.trained_on else ""
        title = f"{trained}{dataset.name}, {seeds}, %"
        tables.append(ranking_table(title, dataset, rows, papers))
    return tables


def _rows_of_table(report: BenchmarkReport, dataset: ComparedDataset) -> list[ComparedRanking]:
    """Return one ranking for each row of the table: the one that it is measured by."""
    scorings = {row.name: row.scoring for row in report.table.rows}
    return [row for row in dataset.rankings if row.ranking == scorings[row.group]]


def _overview(report: BenchmarkReport, seeds: str) -> Table:
    rows: list[list[Value]] = []
    for dataset in report.datasets:
        figures = [
            PaperFigures(mAP=100 * row.metrics["mAP"].mean, rank_1=100 * row.metrics["rank_1"].mean)
            for row in _rows_of_table(report, dataset)
        ]
        rows.append([dataset.trained_on, dataset.name, *map(str, figures)])
    names = [row.name for row in report.table.rows]
    rows += [[*place, *("not run" for _ in names)] for place in report.not_run]
    title = f"mAP / Rank-1, {seeds}, %"
    return Table(title, ["trained on", "tested on", *names], rows, labels=2)


def _refuse_other_data(folder: Path, training: Training) -> None:
    file = folder / DATA_NAME
    if not file.is_file():
        return
    stored = RunData.model_validate_json(file.read_text(encoding="utf-8")).specs
    for dataset in training.sets:
        if absolute_spec(dataset.spec) not in stored:
            raise InputProblem(
                f"{folder}: was trained on {', '.join(stored)}, not on {dataset.spec}; name "
                f"another --out or, if the data have moved, correct the paths in {file}"
            )


def _measure(
    folder: Path,
    dataset: Dataset,
    row: PaperRow,
    training: Training,
    progress_bar: ProgressBar,
) -> RunFolder:
    """Return a run's report on a set; measure it unless a report has the row's ranking."""
    place = folder / "tests" / dataset.name
    path = folder / ARTEFACT_NAME
    measured_rankings: set[str] = set()
    if (place / REPORT).exists():
        measured = read_run(str(place))
        measured_rankings = set(measured.report.datasets[0].scorings)
        if row.scoring in measured_rankings:
            return measured
    # If a set is trained on and has no test split, its held-out people are searched for.
    trained_on = dataset.name in [trained.name for trained in training.sets]
    held_out = trained_on and all(record.split in (None, "train") for record in dataset.records)
    artefact = load_artefact(path)
    rankings = measured_rankings | {row.scoring, *artefact.description.scorings}
    report, _ = evaluate(
        artefact,
        [dataset],
        str(path),
        scorings=[name for name in RANKINGS if name in rankings],
        held_out=held_out,
        device=choose_device("auto"),
        progress_bar=progress_bar,
    )
    make_folder(place)
    write_report(place, report)
    return read_run(str(place))


def _report(benchmark: Benchmark, groups: Sequence[Group]) -> BenchmarkReport:
    table = benchmark.table
    remarks = list(benchmark.left_out)
    papers: dict[str, dict[str, PaperFigures]] = {}
    runs: dict[str, list[str]] = {}
    tested = {dataset.name for training in benchmark.trainings for dataset in training.tests}
    for row, recipe, group in zip(table.rows, benchmark.recipes, groups, strict=True):
        reported = row.on(tested).figures
        if row.figures and not row.is_of(recipe.model_dump(mode="json")):
            changed = " ".join(benchmark.settings)
            remarks.append(f"{row.name}: no figure of the paper is shown, since {changed} is set")
            reported = {}
        papers[row.name] = {name: reported[name] for name in reported if name == AVERAGE}
        runs[row.name] = [
            str(benchmark.run_folder(recipe, training, seed))
            for training in benchmark.trainings
            for seed in benchmark.seeds
        ]
        for run in (run for model in group.models for run in model):
            result = run.report.datasets[0]
            caveats = []
            if result.seen_in_training:
                caveats.append(result.seen_sentence)
            if result.used_to_calibrate:
                caveats.append("thresholds were fitted on it")
            figures = reported.get(result.name)
            if figures and figures.version not in ("", result.version):
                caveats.append(
                    f"the paper's figures are of {figures.version}; this is "
                    f"{result.version or 'another version'}"
                )
            elif figures:
                name = ", ".join(filter(None, (result.name, result.version)))
                papers[row.name][name] = figures
                caveats += [
                    f"trained {difference}"
                    for difference in people_differences(run.report.provenance)
                ]
            remarks += [f"{row.name}, {result.name}: {caveat}" for caveat in caveats]
    datasets, not_run, averaged = _compared(benchmark, groups)
    return BenchmarkReport(
        table=table,
        settings=benchmark.settings,
        seeds=benchmark.seeds,
        created_at=current_time(),
        remarks=list(dict.fromkeys(remarks)),
        runs=runs,
        datasets=datasets,
        not_run=not_run,
        average=averaged,
        papers=papers,
    )


def _compared(
    benchmark: Benchmark,
    groups: Sequence[Group],
) -> tuple[list[ComparedDataset], list[tuple[str, str]], ComparedDataset | None]:
    """Return the rankings, the training and test sets without any, and the average."""
    protocol = PROTOCOLS.get(benchmark.table.protocol)
    if not protocol or protocol.trains_on != "one":
        datasets = compare(groups).datasets
        return datasets, [], average(groups) if len(datasets) > 1 else None
    missing = dict.fromkeys(permutations(benchmark.table.sources, 2))
    datasets = []
    seeds = len(benchmark.seeds)
    for number, training in enumerate(benchmark.trainings):
        of_training = slice(number * seeds, (number + 1) * seeds)
        compared = compare([Group(group.name, group.models[of_training]) for group in groups])
        datasets += [
            dataset.model_copy(update={"trained_on": training.name})
            for dataset in compared.datasets
        ]
        for test in training.tests:
            missing.pop((training.name, test.name), None)
    return datasets, list(missing), None
