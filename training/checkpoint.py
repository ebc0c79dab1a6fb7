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
from pydantic import ValidationError

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
# The names are those of the parts of a run that change from step to step.
State = dict[str, Any]


class Stateful(Protocol):
    """What has a state that can be saved and given back."""

    def state_dict(self) -> Any:
        """What it holds."""

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


@dataclass(frozen=True)
class RunIdentity:
    """What a resumed run must have in common with its checkpoint.

    Attributes:
        recipe: of which only what the weights depend on counts.
        data: a digest of the training crops.
        files: a digest of each file that the recipe names, by its setting.
    """

    recipe: Recipe
    data: str
    files: Mapping[str, str]

    @classmethod
    def stored(cls, state: Mapping[str, Any]) -> RunIdentity:
        """That of a checkpoint; a setting that is newer than it had its default then.

        Raises:
            ValidationError: where its recipe is of another version of the program.
        """
        return cls(Recipe.model_validate(state["recipe"]), state["data"], state["files"])

    def differs_by(self, other: RunIdentity) -> str | None:
        """Whether another run has another `recipe` or other `data`; None where it is the same."""
        # Files are compared by content: their paths may change.
        if (self._settings, self.files) != (other._settings, other.files):
            return "recipe"
        return "data" if self.data != other.data else None

    @property
    def _settings(self) -> dict[str, Any]:
        settings = self.recipe.decisive
        del settings["distillation"]["cache"]
        del settings["initial_weights"], settings["distillation"]["teachers"]
        return settings


def run_identity(recipe: Recipe, records: Sequence[CropRecord]) -> RunIdentity:
    """What a run has in common with its continuation.

    Args:
        recipe: of the run.
        records: the training crops, in order.

    Raises:
        InputProblem: naming starting weights or a teacher that cannot be read.
    """
    words = {"initial_weights": recipe.initial_weights}
    for number, word in enumerate(recipe.distillation.teachers):
        words[f"distillation.teachers.{number}"] = word
    return RunIdentity(
        recipe,
        _digest(records),
        {
            setting: word if names_no_file(word) else file_digest(resolve_artefact(word))
            for setting, word in words.items()
        },
    )


def names_within_sets(records: Sequence[CropRecord]) -> list[str]:
    """What each crop is called, without the folder that all files of its data set lie in."""
    places: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.path is not None or record.load is not None:
            places[record.dataset].add(str(Path(record.source).parent))
    folders = {os.path.commonpath(list(found)) for found in places.values()} - {"", ".", os.sep}
    names = [record.source for record in records]
    # A longer folder may lie within a shorter one.
    for folder in sorted(folders, key=len, reverse=True):
        names = [name.replace(folder + os.sep, "") for name in names]
    return names


def _digest(records: Sequence[CropRecord]) -> str:
    """Of names and labels, not of pixels."""
    digest = hashlib.sha256()
    for record, name in zip(records, names_within_sets(records), strict=True):
        digest.update(f"{name}\0{record.identity}\0{record.camera}\n".encode())
    return digest.hexdigest()


def save_checkpoint(
    run: Path,
    parts: dict[str, Stateful],
    now: Position,
    identity: RunIdentity,
    processes: Processes,
) -> None:
    """Replaces the run's checkpoint once the new one is on disk, and keeps the one it replaces.

    The process that leads writes; the others wait for it.

    Args:
        run: the run's folder.
        parts: what changes from step to step, by name.
        now: where the run stands.
        identity: what a resumed run must share.
        processes: those that train together.

    Raises:
        InputProblem: when it cannot be written; those that were there still are.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    if processes.is_main:
        _write(run, CHECKPOINT_NAME, state | asdict(now), identity)
    processes.barrier()


def save_best(
    run: Path,
    networks: Stateful,
    now: Position,
    validation: Mapping[str, Any],
    identity: RunIdentity,
) -> None:
    """Replaces the run's best weights once the new ones are on disk.

    Args:
        run: the run's folder.
        networks: what is kept; averaged weights where the recipe averages.
        now: where the run stands.
        validation: the figures that made these the best.
        identity: of the run.

    Raises:
        InputProblem: when they cannot be written; those that were there still are.
    """
    state = {"networks": networks.state_dict(), "validation": dict(validation)}
    _write(run, BEST_NAME, state | asdict(now), identity)


@dataclass(frozen=True)
class SavedWeights:
    """The weights in a checkpoint or in `best.pt`, averaged ones where the recipe averages.

    Attributes:
        path: the file.
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
        """One network's tensors, such as those of `embedder`, by its own names."""
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
        return SavedWeights(
            path,
            artefact_weights(state),
            state["done"],
            RunIdentity.stored(state["identity"]),
            state.get("validation", {}),
        )
    except (*DAMAGES, ValidationError) as error:
        raise InputProblem(
            f"{path}: damaged, or no checkpoint of a run ({type(error).__name__}); name another "
            f"with --checkpoint, such as {PREVIOUS_NAME}"
        ) from error


def _write(run: Path, name: str, state: State, identity: RunIdentity) -> None:
    """Writes a file of the run atomically; of the checkpoint, the one it replaces is kept."""
    beside, newest = run / f".{name}.tmp", run / name
    state["identity"] = {
        "recipe": identity.recipe.model_dump(mode="json"),
        "data": identity.data,
        "files": dict(identity.files),
    }
    try:
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if name == CHECKPOINT_NAME and newest.exists():
            newest.replace(run / PREVIOUS_NAME)
        beside.replace(newest)
        _sync_folder(run)
    except (OSError, RuntimeError) as error:
        raise InputProblem(
            f"{newest}: cannot be written ({error}); make room, then continue with --resume"
        ) from error


def load_checkpoint(
    run: Path,
    parts: dict[str, Stateful],
    identity: RunIdentity,
    notice: Callable[[str], None],
) -> Position:
    """Continues where the run stopped; a run without a checkpoint starts from the beginning.

    Where the newest checkpoint is damaged or was not put in its place, the one before it serves.

    Args:
        run: the run's folder.
        parts: as they were saved; each is given its state.
        identity: of this run.
        notice: is given a line about a damaged checkpoint.

    Raises:
        InputProblem: when no checkpoint is whole, or when it belongs to another recipe, to other
            data or to another version of the program.
    """
    damaged: list[str] = []
    for name in (CHECKPOINT_NAME, PREVIOUS_NAME):
        path = run / name
        if not path.exists():
            continue
        try:
            state = _read(path)
        except DAMAGES as error:
            damaged.append(f"{path}: damaged ({type(error).__name__})")
            continue
        _compare(path, state["identity"], identity)
        if damaged:
            notice(f"{damaged[0]}; continuing from {path}, the checkpoint before it")
        try:
            for part, owner in parts.items():
                owner.load_state_dict(state[part])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputProblem(
                f"{path}: was made by another version of the program; resume with that version, "
                "or train into another --out"
            ) from error
        return Position(state["epoch"], state["step"], state["done"])
    if damaged:
        raise InputProblem(f"{'; '.join(damaged)}; delete it to start the run afresh")
    return Position()


def _read(path: Path) -> State:
    with zipfile.ZipFile(path) as archive:
        # torch does not look at the checksums of what it reads.
        broken = archive.testzip()
    if broken is not None:
        raise zipfile.BadZipFile(broken)
    state: State = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _compare(path: Path, found: Mapping[str, Any], identity: RunIdentity) -> None:
    try:
        part = RunIdentity.stored(found).differs_by(identity)
    except (ValidationError, KeyError):
        part = "recipe"
    if part:
        raise InputProblem(
            f"{path}: was made with another {part}; resume with the same one, or train into "
            "another --out"
        )


def _sync_folder(folder: Path) -> None:
    """Puts the names on disk, too; a system that cannot has no need to (Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
