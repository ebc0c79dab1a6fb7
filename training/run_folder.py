"""A run's folder: its recipe and its data, by which it is finished later, and its log."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError
from torch.utils.tensorboard import SummaryWriter

from model.problems import InputProblem, legible
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
from training.parts import Section
from training.plugins import PluginFile, load_plugins
from training.recipe import Recipe

DATA_NAME = "data.json"
RECIPE_NAME = "recipe.json"
LOG_NAME = "log.jsonl"
CHECKPOINT_NAME = "checkpoint.pt"
PREVIOUS_NAME = "checkpoint.previous.pt"
BEST_NAME = "best.pt"
ARTEFACT_NAME = "model.safetensors"


class RunData(Section):
    """The data sets that a run trains on, as stored in its folder.

    Attributes:
        specs: the specs of `--data`, with absolute paths.
        left_out: the data set of `--leave-out`, or the one that a protocol leaves out of this run.
        protocol: the protocol of the table that `gmn benchmark` trains, if any.
        command: the command line of the training, for the provenance.
    """

    specs: tuple[str, ...]
    left_out: str | None = None
    protocol: str | None = None
    command: str = ""

    def training_sets(self, datasets: Sequence[Dataset]) -> list[Dataset]:
        """Choose the data sets to train on among those of `specs`.

        Raises:
            InputProblem: no data set is left, or the protocol does not train on one of them.
        """
        if self.protocol is not None:
            return training_sets(datasets, PROTOCOLS[self.protocol], self.left_out)
        return leave_out(datasets, self.left_out) if self.left_out else list(datasets)


def write_run(
    folder: Path,
    recipe: Recipe,
    data: RunData,
) -> None:
    """Write the files that `read_run` reads into a run's folder."""
    specs = tuple(absolute_spec(spec) for spec in data.specs)
    stored = data.model_copy(update={"specs": specs})
    (folder / RECIPE_NAME).write_text(recipe.model_dump_json(indent=1), encoding="utf-8")
    (folder / DATA_NAME).write_text(stored.model_dump_json(indent=1), encoding="utf-8")


def read_run(
    folder: Path,
    plugins: Sequence[Path | str] = (),
) -> tuple[Recipe, RunData, list[Dataset]]:
    """Read the recipe of a run, and read the data sets that it was trained on again.

    Args:
        folder: the run's folder.
        plugins: the plug-in files that it was trained with.

    Raises:
        InputProblem: a file is missing or damaged, or the data have moved; the message names it.
    """
    loaded = load_plugins(plugins)
    texts = []
    for name in (RECIPE_NAME, DATA_NAME):
        file = folder / name
        if not file.is_file():
            raise InputProblem(
                f"{legible(folder)}: has no {name}; name a folder that gmn train made"
            )
        texts.append(file.read_text(encoding="utf-8"))
    try:
        stored = tuple(
            PluginFile.model_validate(plugin) for plugin in json.loads(texts[0]).get("plugins", ())
        )
        if stored != loaded:
            names = " ".join(
                f"--plugin {plugin.file} (SHA-256 {plugin.sha256[:12]}…)" for plugin in stored
            )
            raise InputProblem(
                f"{folder}: was trained with {names or 'no plug-in'}; name the same files"
            )
        recipe = Recipe.model_validate_json(texts[0])
        data = RunData.model_validate_json(texts[1])
    except ValidationError as error:
        problem = " ".join(" ".join(str(error).splitlines()[1:3]).split())
        raise InputProblem(
            f"{folder}: its recipe.json or data.json is damaged or was written by another "
            f"version of this program ({problem}); use the version that trained it, or train again"
        ) from error
    try:
        datasets = data.training_sets(read_datasets(data.specs))
    except InputProblem as problem:
        raise InputProblem(
            f"{problem}; where the data have moved, correct their paths in {folder / DATA_NAME}"
        ) from problem
    return recipe, data, datasets


def split_people(
    recipe: Recipe,
    datasets: Sequence[Dataset],
) -> tuple[list[CropRecord], list[CropRecord]]:
    """Return the crops that a recipe trains on, and the crops that it holds out."""
    seed = recipe.held_out.seed
    sampling = recipe.sampling
    records, held_out = split_held_out(datasets, recipe.held_out.fraction, seed)
    records = limit_identities(records, sampling.identities_per_set, seed)
    return records + recombine(records, sampling.recombined, seed), held_out


class RunLog:
    """The log of a run: one JSON object per line in `log.jsonl`, and the numbers in TensorBoard.

    A run that was killed repeats the steps since its last checkpoint. Their lines are removed
    first, so that every step is in the log once. Without a folder, as in every process but the
    main one, nothing is written.
    """

    def __init__(self, run: Path | None, next_step: int) -> None:
        self._opened = ExitStack()
        self._file: TextIO | None = None
        if run is not None:
            _drop_from(run / LOG_NAME, next_step)
            self._file = self._opened.enter_context((run / LOG_NAME).open("a", encoding="utf-8"))
            board = SummaryWriter(str(run / "tensorboard"), purge_step=next_step)
            self._board = self._opened.enter_context(board)

    def write(self, event: str, step: int, **values: Any) -> None:
        """Write one line; nested numbers become TensorBoard scalars `event/outer/inner`."""
        if self._file is None:
            return
        line = {"event": event, "time": round(time.time(), 3), "step": step, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            for part, number in parts:
                if isinstance(number, (int, float)):
                    tag = f"{event}/{name}/{part}".rstrip("/")
                    self._board.add_scalar(tag, number, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()


def _drop_from(path: Path, step: int) -> None:
    if not path.exists():
        return
    # A killed run may have left half a line, which `_step` dates after all others.
    lines = path.read_text(encoding="utf-8").splitlines()
    earlier = [f"{line}\n" for line in lines if _step(line) < step]
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(earlier), encoding="utf-8")
    temporary.replace(path)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")
