"""The folders that `gmn train` and `gmn evaluate --out` left, and which of them belong together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model.artefact import Artefact, load_artefact, resolve_artefact
from model.problems import InputProblem
from training.evaluation import query_values
from training.evaluation.query_values import QueryValues, read_query_values
from training.evaluation.results import EvaluationReport
from training.recipe import INDECISIVE
from training.run_folder import ARTEFACT_NAME

REPORT = "report.json"
SEED_NUMBER = re.compile(r"[-_ .=]*(seed|s)?[-_ .=]*\d+$")
# M-Net is fitted after training, and goes into the artefact.
# Recipes of earlier artefacts hold the figures of papers, too.
NOT_DECIDING = (INDECISIVE - {"metric_fit"}) | {"seed", "published"}


@dataclass(frozen=True)
class RunFolder:
    """The content of one run's folder.

    Attributes:
        name: what a page calls its artefact.
        path: the folder.
        report: its `report.json`.
        values: every query's own figures, by a data set's number; empty for older runs.
    """

    name: str
    path: Path
    report: EvaluationReport
    values: Mapping[int, QueryValues]

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The artefact's resolved recipe, or what is known of its architecture."""
        return self.report.provenance.recipe or self.report.architecture

    def load_artefact(self) -> Artefact:
        """Return the artefact that the report is about.

        Raises:
            InputProblem: where it is in none of the usual places, or is another one by now.
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
    """Artefacts of one recipe and one set of data that differ in their seed alone.

    Attributes:
        models: of each artefact, every folder that reports on it.
    """

    name: str
    models: Sequence[Sequence[RunFolder]]

    @property
    def first(self) -> RunFolder:
        """A folder of the first artefact, for what is the same in all."""
        return self.models[0][0]


def read_run(word: str) -> RunFolder:
    """Reads a folder, or `NAME=FOLDER` to have it shown under a name.

    Raises:
        InputProblem: naming the folder and what is missing or damaged in it.
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
        # The folder that a training made is a better name than `model.safetensors`.
        trained = artefact.parent.name or path.resolve().name
        name = trained if artefact.name == ARTEFACT_NAME else artefact.stem
    return RunFolder(
        name=name,
        path=path,
        report=report,
        values=read_query_values(path / query_values.FILE_NAME),
    )


def group_runs(runs: Sequence[RunFolder]) -> list[Group]:
    """Folders of one artefact become a model, models of one recipe but for the seed a group.

    Both stay in the order of the runs.
    """
    models: dict[str, list[RunFolder]] = {}
    for run in runs:
        models.setdefault(run.report.artefact_fingerprint, []).append(run)
    groups: dict[str, list[list[RunFolder]]] = {}
    for model in models.values():
        groups.setdefault(_recipe_key(model[0].report), []).append(model)
    names = [_common_name([model[0].name for model in own]) for own in groups.values()]
    # Two groups of one name are distinguished by their first artefacts.
    return [
        Group(name if names.count(name) == 1 else f"{name} ({fingerprint[:6]})", own)
        for name, own in zip(names, groups.values(), strict=True)
        for fingerprint in [own[0][0].report.artefact_fingerprint]
    ]


def deciding(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that an artefact depends on, but the seed.

    Args:
        recipe: resolved, as an artefact stores it.
    """
    return {name: value for name, value in recipe.items() if name not in NOT_DECIDING}


def _recipe_key(report: EvaluationReport) -> str:
    provenance = report.provenance
    if not provenance.recipe:
        return report.artefact_fingerprint
    data = [(one.name, one.crops) for one in provenance.data]
    return json.dumps([deciding(provenance.recipe), data], sort_keys=True)


def _common_name(names: Sequence[str]) -> str:
    """Return the name without the number of its seed, where the runs differ in nothing else."""
    bare = {SEED_NUMBER.sub("", name) or name for name in names}
    return bare.pop() if len(bare) == 1 else ", ".join(names)
