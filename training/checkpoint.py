"""Checkpoints that are either whole or absent, and the run that each one is of."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from model.artefact import resolve_artefact
from model.problems import InputProblem
from training.datasets.record import CropRecord
from training.distributed import Processes
from training.provenance import file_digest
from training.recipe import Recipe
from training.run_folder import BEST_NAME, CHECKPOINT_NAME, PREVIOUS_NAME
from training.start import artefact_weights, names_no_file, part_of

DAMAGES = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError),
    *(zipfile.BadZipFile, AttributeError, TypeError),
)


class Stateful(Protocol):
    """An object with a state that can be saved and given back."""

    def state_dict(self) -> Any:
        """Return what it holds."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Takes over what another one held."""


@dataclass(frozen=True)
class Position:
    """Where a run stands, counted from 0.

    Attributes:
        epoch, step: the next step to do, `step` within `epoch`.
        done: steps done in all; epochs differ by a few.
    """

    epoch: int = 0
    step: int = 0
    done: int = 0


class RunIdentity(BaseModel):
    """The settings and data that a resumed run must have in common with its checkpoint.

    Attributes:
        recipe: of which only what the weights depend on counts.
        data: a digest of the training crops.
        files: a digest of each file that the recipe names, by its setting; a download's name.
    """

    model_config = ConfigDict(frozen=True)

    recipe: Recipe
    data: str
    files: dict[str, str]

    def differs_by(self, other: RunIdentity) -> str | None:
        """Return the first of `recipe` and `data` in which another run differs; None for none."""
        if (self._settings(), self.files) != (other._settings(), other.files):
            return "recipe"
        return "data" if self.data != other.data else None

    def _settings(self) -> dict[str, Any]:
        settings = self.recipe.decisive
        # Files are compared by content: their paths may change.
        del settings["distillation"]["cache"], settings["distillation"]["teachers"]
        del settings["initial_weights"]
        return settings


def run_identity(recipe: Recipe, records: Sequence[CropRecord]) -> RunIdentity:
    """Return what a run on these training crops has in common with its continuation.

    Raises:
        InputProblem: naming starting weights or a teacher that cannot be read.
    """
    words = {"initial_weights": recipe.initial_weights}
    for number, word in enumerate(recipe.distillation.teachers):
        words[f"distillation.teachers.{number}"] = word
    files = {
        setting: word if names_no_file(word) else file_digest(resolve_artefact(word))
        for setting, word in words.items()
    }
    return RunIdentity(recipe=recipe, data=_digest(records), files=files)


def _digest(records: Sequence[CropRecord]) -> str:
    """Digest names and labels, not pixels, nor of the folder that a data set's files lie in."""
    places: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.path is not None or record.load is not None:
            places[record.dataset].add(str(Path(record.source).parent))
    folders = {os.path.commonpath(list(found)) for found in places.values()} - {"", ".", os.sep}
    # A longer folder may lie within a shorter one.
    ordered = sorted(folders, key=len, reverse=True)
    digest = hashlib.sha256()
    for record in records:
        name = record.source
        for folder in ordered:
            name = name.replace(folder + os.sep, "")
        digest.update(f"{name}\0{record.identity}\0{record.camera}\n".encode())
    return digest.hexdigest()


def save_checkpoint(
    run: Path,
    parts: Mapping[str, Stateful],
    now: Position,
    identity: RunIdentity,
    processes: Processes,
) -> None:
    """Replaces the checkpoint in a run's folder once the new one is on disk; the old one is kept.

    `parts` are what changes from step to step. The process that leads writes; the others wait.

    Raises:
        InputProblem: when it cannot be written; those that were there still are.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    if processes.is_main:
        _write(run / CHECKPOINT_NAME, state, now, identity)
    processes.barrier()


def save_best(
    run: Path,
    networks: Stateful,
    now: Position,
    validation: Mapping[str, Any],
    identity: RunIdentity,
) -> None:
    """Replaces the best weights in a run's folder by these, of a validation with these figures.

    Raises:
        InputProblem: when they cannot be written; those that were there still are.
    """
    state = {"networks": networks.state_dict(), "validation": dict(validation)}
    _write(run / BEST_NAME, state, now, identity)


def _write(file: Path, state: dict[str, Any], now: Position, identity: RunIdentity) -> None:
    beside = file.with_name(f".{file.name}.tmp")
    try:
        with beside.open("wb") as written:
            torch.save(
                {**state, **asdict(now), "identity": identity.model_dump(mode="json")}, written
            )
            written.flush()
            os.fsync(written.fileno())
        if file.name == CHECKPOINT_NAME and file.exists():
            file.replace(file.with_name(PREVIOUS_NAME))
        beside.replace(file)
    except (OSError, RuntimeError) as error:
        raise InputProblem(
            f"{file}: cannot be written ({error}); make room, then continue with --resume"
        ) from error


@dataclass(frozen=True)
class SavedWeights:
    """The weights in a checkpoint or in `best.pt`, averaged ones where the recipe averages.

    Attributes:
        networks: tensors by the names of `TrainedNetworks`.
        done: steps that were done.
        identity: of the run that they are of.
        validation: the figures in `best.pt`; empty for another checkpoint.
    """

    path: Path
    networks: Mapping[str, torch.Tensor]
    done: int
    identity: RunIdentity
    validation: Mapping[str, Any]

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """Return one network's tensors, such as those of `embedder`, by its own names."""
        return part_of(self.networks, name)


def read_weights(path: Path) -> SavedWeights:
    """Reads the weights of a checkpoint.

    Raises:
        InputProblem: when there is no such file, or it is damaged or no checkpoint.
    """
    if not path.is_file():
        raise InputProblem(f"{path}: no such checkpoint; name best, last or a file of the run")
    try:
        state = _read(path)
        identity = RunIdentity.model_validate(state["identity"])
        weights = artefact_weights(state)
        return SavedWeights(path, weights, state["done"], identity, state.get("validation", {}))
    except DAMAGES as error:
        raise InputProblem(
            f"{path}: damaged, or no checkpoint of a run ({type(error).__name__}); name another "
            f"with --checkpoint, such as {PREVIOUS_NAME}"
        ) from error


def load_checkpoint(
    run: Path,
    parts: Mapping[str, Stateful],
    identity: RunIdentity,
    notice: Callable[[str], None],
) -> Position:
    """Continues where the run stopped; a run without a checkpoint starts from the beginning.

    Each of the `parts` is given its state. Where the newest checkpoint is damaged or was not put in
    its place, the one before it serves, and `notice` is given a line about it.

    Raises:
        InputProblem: when no checkpoint is whole, or when it belongs to another recipe, to other
            data or to another version of the program.
    """
    damaged: list[str] = []
    for path in (run / CHECKPOINT_NAME, run / PREVIOUS_NAME):
        if not path.exists():
            continue
        try:
            state = _read(path)
        except DAMAGES as error:
            damaged.append(f"{path}: damaged ({type(error).__name__})")
            continue
        _refuse_another_run(path, state, identity)
        if damaged:
            notice(f"{damaged[0]}; continuing from {path}, the checkpoint before it")
        try:
            for name, part in parts.items():
                part.load_state_dict(state[name])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputProblem(
                f"{path}: was made by another version of the program; resume with that version, "
                "or train into another --out"
            ) from error
        return Position(state["epoch"], state["step"], state["done"])
    if damaged:
        raise InputProblem(f"{'; '.join(damaged)}; delete it to start the run afresh")
    return Position()


def _refuse_another_run(path: Path, state: Mapping[str, Any], identity: RunIdentity) -> None:
    try:
        part = RunIdentity.model_validate(state["identity"]).differs_by(identity)
    except (ValidationError, KeyError):
        part = "recipe"
    if part:
        raise InputProblem(
            f"{path}: was made with another {part}; resume with the same one, or train into "
            "another --out"
        )


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        # torch does not look at the checksums of what it reads.
        broken = archive.testzip()
    if broken is not None:
        raise zipfile.BadZipFile(broken)
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
