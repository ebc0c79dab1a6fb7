"""Read the folders of `gmn train` and `gmn evaluate --out`, and group those of one recipe."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from model.arrays import Array
from model.artefact import Artefact, load_artefact, resolve_artefact
from model.problems import InputProblem
from training.evaluation.files import replacing
from training.evaluation.metrics import QueryMetrics
from training.evaluation.results import EvaluationReport, QueryValues
from training.evaluation.searches import Search
from training.recipe import INDECISIVE
from training.run_folder import ARTEFACT_NAME

REPORT = "report.json"
QUERY_VALUES = "queries.npz"
DIGEST = "search"
IDENTITIES = "identities"
SEED_NUMBER = re.compile(r"[-_ .=]*(seed|s)?[-_ .=]*\d+$")
# The artefact depends on `metric_fit`, although the trained weights do not.
NOT_DECIDING = (INDECISIVE - {"metric_fit"}) | {"seed"}


@dataclass(frozen=True)
class RunFolder:
    """The content of a folder with a report.

    Attributes:
        name: the name of the artefact in a comparison.
        path: the folder.
        report: its `report.json`, with the query values of `queries.npz`.
    """

    name: str
    path: Path
    report: EvaluationReport

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe of the artefact, or its architecture if the recipe is unknown."""
        return self.report.provenance.recipe or self.report.architecture

    def load_artefact(self) -> Artefact:
        """Load the artefact that the report is about.

        Raises:
            InputProblem: the artefact is in none of the usual places, or has been replaced.
        """
        named = resolve_artefact(self.report.artefact)
        for place in (self.path / ARTEFACT_NAME, self.path.parent / ARTEFACT_NAME, named):
            if not place.is_file():
                continue
            artefact = load_artefact(place)
            if artefact.description.artefact_fingerprint == self.report.artefact_fingerprint:
                return artefact
        raise InputProblem(
            f"{self.path}: its artefact {self.report.artefact} is not there any more, or is "
            f"another one; put it beside the report as {ARTEFACT_NAME}"
        )


@dataclass(frozen=True)
class Group:
    """Artefacts that differ only in their seed.

    Attributes:
        models: for each artefact all folders that report on it.
    """

    name: str
    models: Sequence[Sequence[RunFolder]]

    @property
    def first(self) -> RunFolder:
        """A folder of the first artefact, for properties that all artefacts share."""
        return self.models[0][0]


def read_run(word: str) -> RunFolder:
    """Read the report in a folder; `NAME=FOLDER` sets its name in a comparison.

    Raises:
        InputProblem: a file is missing or damaged; the message names it.
    """
    name, equals, rest = word.partition("=")
    named = bool(equals) and not Path(word).exists()
    path = Path(rest if named else word)
    file = path / REPORT
    if not file.is_file():
        raise InputProblem(
            f"{path}: holds no {REPORT}; name a folder made by gmn train or gmn evaluate --out"
        )
    try:
        report = EvaluationReport.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputProblem(
            f"{file}: is no report of this program ({str(error).splitlines()[0]}); "
            "run gmn evaluate --out again"
        ) from error
    if not named:
        artefact = Path(report.artefact)
        # `model.safetensors` says less than the name of the run's folder.
        trained = artefact.parent.name or path.resolve().name
        name = trained if artefact.name == ARTEFACT_NAME else artefact.stem
    values = read_query_values(path / QUERY_VALUES)
    datasets = [
        result.model_copy(update={"query_values": per_query})
        for result, per_query in zip(report.datasets, values, strict=True)
    ]
    return RunFolder(name, path, report.model_copy(update={"datasets": datasets}))


def group_runs(runs: Sequence[RunFolder]) -> list[Group]:
    """Group the folders by artefact, and the artefacts by recipe without its seed.

    Groups and artefacts keep the order of the runs.
    """
    models: dict[str, list[RunFolder]] = {}
    for run in runs:
        models.setdefault(run.report.artefact_fingerprint, []).append(run)
    groups: dict[str, list[list[RunFolder]]] = {}
    for model in models.values():
        groups.setdefault(_recipe_key(model[0].report), []).append(model)
    names = [_common_name([model[0].name for model in group]) for group in groups.values()]
    # Fingerprints distinguish groups of the same name.
    return [
        Group(name if names.count(name) == 1 else f"{name} ({fingerprint[:6]})", group)
        for name, group in zip(names, groups.values(), strict=True)
        for fingerprint in [group[0][0].report.artefact_fingerprint]
    ]


def deciding(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a stored recipe on which an artefact depends, without the seed."""
    return {name: value for name, value in recipe.items() if name not in NOT_DECIDING}


def _recipe_key(report: EvaluationReport) -> str:
    provenance = report.provenance
    if not provenance.recipe:
        return report.artefact_fingerprint
    data = [(dataset.name, dataset.crops) for dataset in provenance.data]
    return json.dumps([deciding(provenance.recipe), data], sort_keys=True)


def _common_name(names: Sequence[str]) -> str:
    """Return the names without the number of the seed if that makes them equal, else all names."""
    bare = {SEED_NUMBER.sub("", name) or name for name in names}
    return bare.pop() if len(bare) == 1 else ", ".join(names)


def query_values(search: Search, metrics: Mapping[str, QueryMetrics]) -> QueryValues:
    """Collect the metrics of a search's queries by every ranking."""
    counted = next(iter(metrics.values())).queries
    return QueryValues(
        search=search_digest(search),
        identities=search.labels().query_identities[counted],
        rankings={name: ranked.values() for name, ranked in metrics.items()},
    )


def search_digest(search: Search) -> str:
    """Digest queries and gallery in a way that does not depend on the place of the data."""
    digest = hashlib.sha256(str(search.other_cameras_only).encode())
    for part in (search.queries, search.gallery):
        digest.update(b"\0\0")
        for record in part:
            # Folders further up differ from disk to disk.
            folder = "/".join(Path(record.source).parts[-2:])
            name = f"{folder}\0{record.identity}\0{record.domain}\0{record.camera}\n"
            digest.update(name.encode())
    for split in search.splits:
        digest.update(split.queries.tobytes() + b"\0\0" + split.gallery.tobytes())
    return digest.hexdigest()


def write_query_values(path: Path, values: Sequence[QueryValues]) -> None:
    """Write the query values of a report's data sets into an `.npz` file without pickles.

    Raises:
        InputProblem: the file cannot be written.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    for number, dataset in enumerate(values):
        arrays[f"{number}/{DIGEST}"] = np.array(dataset.search)
        arrays[f"{number}/{IDENTITIES}"] = dataset.identities.astype(np.int32)
        for ranking, metrics in dataset.rankings.items():
            for metric, numbers in metrics.items():
                # float32 has more digits than any table shows, and makes the file smaller.
                arrays[f"{number}/{ranking}/{metric}"] = numbers.astype(np.float32)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_query_values(path: Path) -> list[QueryValues]:
    """Read the query values of a report's data sets.

    Raises:
        InputProblem: the file is missing or damaged.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {tuple(name.split("/")): file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputProblem(
            f"{path}: is not a readable .npz ({error}); run gmn evaluate --out again"
        ) from error
    values_by_dataset = []
    for number in sorted({name[0] for name in arrays}, key=int):
        rankings: dict[str, dict[str, Array]] = {}
        for (dataset, entry, *metric), values in arrays.items():
            if dataset == number and metric:
                rankings.setdefault(entry, {})[metric[0]] = values.astype(np.float64)
        identities = arrays[number, IDENTITIES].astype(np.int64)
        digest = str(arrays[number, DIGEST])
        values_by_dataset.append(QueryValues(digest, identities, rankings))
    return values_by_dataset
