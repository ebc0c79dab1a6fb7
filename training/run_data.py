"""What a run's folder keeps so that the run can be finished later: its recipe and its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from model.problems import InputProblem
from training.datasets.protocols import (
    PROTOCOLS,
    leave_out,
    limit_identities,
    split_held_out,
    training_sets,
)
from training.datasets.recombined import recombine
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import absolute_spec, read_datasets
from training.recipe import Recipe

DATA_NAME, RECIPE_NAME = "data.json", "recipe.json"


class RunData(BaseModel):
    """Which data sets a run trains on.

    Attributes:
        specs: as `--data` names them, with absolute paths.
        left_out: of --leave-out, or the set that a protocol leaves out of this run.
        protocol: as --protocol names it.
        command: the command line of the training, for the provenance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    specs: tuple[str, ...]
    left_out: str | None = None
    protocol: str | None = None
    command: str = ""

    def training_sets(self, datasets: Sequence[Dataset]) -> list[Dataset]:
        """Of the data sets that `specs` name, those trained on.

        Raises:
            InputProblem: where nothing is left, or the protocol does not train on one.
        """
        if self.protocol is not None:
            return training_sets(datasets, PROTOCOLS[self.protocol], self.left_out)
        return leave_out(datasets, self.left_out) if self.left_out else list(datasets)


def write_run(folder: Path, recipe: Recipe, data: RunData) -> None:
    """Writes what `read_run` reads into a run's folder."""
    stored = data.model_copy(update={"specs": tuple(absolute_spec(spec) for spec in data.specs)})
    (folder / RECIPE_NAME).write_text(recipe.model_dump_json(indent=1), encoding="utf-8")
    (folder / DATA_NAME).write_text(stored.model_dump_json(indent=1), encoding="utf-8")


def read_run(folder: Path) -> tuple[Recipe, RunData, list[Dataset]]:
    """The recipe of a run, and the data sets that it was trained on, read anew.

    Raises:
        InputProblem: naming the file that is missing or damaged, or data that have moved.
    """
    texts = []
    for name in (RECIPE_NAME, DATA_NAME):
        file = folder / name
        if not file.is_file():
            raise InputProblem(f"{folder}: has no {name}; name a folder that gmn train made")
        texts.append(file.read_text(encoding="utf-8"))
    try:
        recipe, data = Recipe.model_validate_json(texts[0]), RunData.model_validate_json(texts[1])
    except ValidationError as error:
        what = str(error).splitlines()[0]
        raise InputProblem(f"{folder}: its recipe.json or data.json is damaged ({what})") from error
    try:
        datasets = data.training_sets(read_datasets(data.specs))
    except InputProblem as problem:
        raise InputProblem(
            f"{problem}; where the data have moved, correct their paths in {folder / DATA_NAME}"
        ) from problem
    return recipe, data, datasets


def split_people(
    recipe: Recipe, datasets: Sequence[Dataset]
) -> tuple[list[CropRecord], list[CropRecord]]:
    """The crops that a recipe trains on, and those that it holds out."""
    chosen, sampling = recipe.held_out, recipe.sampling
    records, held_out = split_held_out(datasets, chosen.fraction, chosen.seed)
    records = limit_identities(records, sampling.identities_per_set, chosen.seed)
    return records + recombine(records, sampling.recombined, chosen.seed), held_out
