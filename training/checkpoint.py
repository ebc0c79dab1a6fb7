"""Checkpoints: written atomically, and loaded only into the run that they belong to."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from model.artefact import resolve_artefact
from model.problems import InputProblem, visible
from training.datasets.record import CropRecord
from training.distributed import Processes
from training.initial_weights import names_no_file
from training.provenance import file_digest
from training.recipe import Recipe
from training.run_folder import BEST_NAME, CHECKPOINT_NAME, PREVIOUS_NAME

Tensors = dict[str, torch.Tensor]
# Errors that torch and zipfile raise for damaged files.
DAMAGES = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    zipfile.BadZipFile,
    AttributeError,
    TypeError,
)


class Stateful(Protocol):
    """An object with a state that can be saved and restored."""

    def state_dict(self) -> Any:
        """Return the state."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Restore a state."""


@dataclass(frozen=True)
class Position:
    """A position in a run; everything is counted from 0.

    Attributes:
        epoch, step: the next step to do, and its epoch; `step` counts within the epoch.
        done: the number of steps done in all epochs, whose lengths differ by a few steps.
    """

    epoch: int = 0
    step: int = 0
    done: int = 0


class RunIdentity(BaseModel):
    """The settings and data that a run must have in common with a checkpoint to resume from it.

    Attributes:
        recipe: the recipe; only settings on which the weights depend are compared.
        data: a digest of the training crops.
        files: by setting, the digest of each file that the recipe names, or a download's name.
    """

    model_config = ConfigDict(frozen=True)

    recipe: Recipe
    data: str
    files: dict[str, str]

    def differs_by(self, other: RunIdentity) -> str | None:
        """Return `recipe` or `data` if another run differs in it, else None."""
        if (self._settings(), self.files) != (other._settings(), other.files):
            return "recipe"
        return "data" if self.data != other.data else None

    def _settings(self) -> dict[str, Any]:
        settings = self.recipe.decisive
        # Files are compared by their digests, since they may be moved.
        del settings["distillation"]["cache"], settings["distillation"]["teachers"]
        del settings["initial_weights"]
        return settings


def run_identity(recipe: Recipe, records: Sequence[CropRecord]) -> RunIdentity:
    """Return the identity of a run on these training crops.

    Raises:
        InputProblem: initial weights or a teacher cannot be read; the message names the file.
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
    """Digest names and labels, but neither pixels nor the folders of files, which may be moved."""
    digest = hashlib.sha256()
    for record in records:
        name = record.source if record.pixels is not None else Path(record.source).name
        digest.update(f"{name}\0{record.identity}\0{record.camera}\n".encode())
    return digest.hexdigest()


def save_checkpoint(
    run: Path,
    parts: Mapping[str, Stateful],
    position: Position,
    identity: RunIdentity,
    processes: Processes,
) -> None:
    """Write a run's checkpoint, and keep the one before it as `checkpoint.previous.pt`.

    Both are replaced only once the new file is on disk. The main process writes; the others wait.
    `parts` are the objects that change from step to step.

    Raises:
        InputProblem: the file cannot be written; the earlier checkpoints are unchanged.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    if processes.is_main:
        _write(run / CHECKPOINT_NAME, state, position, identity)
    processes.barrier()


def save_best(
    run: Path,
    networks: Stateful,
    position: Position,
    validation: Mapping[str, Any],
    identity: RunIdentity,
) -> None:
    """Write `best.pt`: weights, and the figures of their validation.

    Raises:
        InputProblem: the file cannot be written; the earlier one is unchanged.
    """
    state = {"networks": networks.state_dict(), "validation": dict(validation)}
    _write(run / BEST_NAME, state, position, identity)


def _write(
    file: Path,
    state: dict[str, Any],
    position: Position,
    identity: RunIdentity,
) -> None:
    content = {**state, **asdict(position), "identity": identity.model_dump(mode="json")}
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        with temporary.open("wb") as written:
            torch.save(content, written)
            written.flush()
            os.fsync(written.fileno())
        if file.name == CHECKPOINT_NAME and file.exists():
            file.replace(file.with_name(PREVIOUS_NAME))
        temporary.replace(file)
    except (OSError, RuntimeError) as error:
        raise InputProblem(
            f"{file}: cannot be written ({error}); make room, then continue with --resume"
        ) from error


@dataclass(frozen=True)
class SavedWeights:
    """The weights in a checkpoint or in `best.pt`.

    Attributes:
        networks: the state dict of `TrainedNetworks`.
        done: the number of steps done.
        identity: the identity of the run.
        validation: the figures of the validation; empty unless the file is `best.pt`.
    """

    path: Path
    networks: Tensors
    done: int
    identity: RunIdentity
    validation: Mapping[str, Any]

    def part(self, name: str) -> Tensors:
        """Return the state dict of one network, such as `embedder`."""
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): tensor
            for key, tensor in self.networks.items()
            if key.startswith(prefix)
        }


def read_weights(path: Path) -> SavedWeights:
    """Read the weights of a checkpoint.

    Raises:
        InputProblem: the file is missing, damaged or no checkpoint.
    """
    if not path.is_file():
        raise InputProblem(
            f"{visible(path)}: no such checkpoint; name best, last or a file of the run"
        )
    try:
        state = _read(path)
        identity = RunIdentity.model_validate(state["identity"])
        figures = state.get("validation", {})
        return SavedWeights(path, state["networks"], state["done"], identity, figures)
    except DAMAGES as error:
        raise InputProblem(
            f"{path}: is damaged, or no checkpoint of a run ({type(error).__name__}); name another "
            f"with --checkpoint, such as {PREVIOUS_NAME}"
        ) from error


def load_checkpoint(
    run: Path,
    parts: Mapping[str, Stateful],
    identity: RunIdentity,
    notice: Callable[[str], None],
) -> Position:
    """Restore the `parts` from a run's newest checkpoint, and return its position in the run.

    If the newest checkpoint is damaged or missing, the one before it is used, and `notice` is
    called with a line about it. Without any checkpoint the run starts from its beginning.

    Raises:
        InputProblem: all checkpoints are damaged, or the checkpoint belongs to another recipe, to
            other data or to another version of the program.
    """
    damaged: list[str] = []
    for path in (run / CHECKPOINT_NAME, run / PREVIOUS_NAME):
        if not path.exists():
            continue
        try:
            state = _read(path)
        except DAMAGES as error:
            damaged.append(f"{path}: is damaged ({type(error).__name__})")
            continue
        try:
            difference = RunIdentity.model_validate(state["identity"]).differs_by(identity)
        except (ValidationError, KeyError):
            difference = "recipe"
        if difference:
            raise InputProblem(
                f"{path}: was made with another {difference}; resume with the same {difference}, "
                "or train into another --out"
            )
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


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        # torch does not verify the checksums of the archive.
        broken = archive.testzip()
    if broken is not None:
        raise zipfile.BadZipFile(broken)
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
