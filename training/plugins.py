"""The interface of plug-ins, which register parts for recipes and kinds of data sets."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from model.backbones import BackboneKind, find_backbone, register_backbone
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from training import hard_sampler, losses  # noqa: F401 - they register their parts
from training.augmentation import Probability, Strength, register_augmentation
from training.datasets.kind import DatasetKind, Layout
from training.datasets.record import CropRecord, Dataset, crop_in_file
from training.datasets.registry import register_dataset
from training.losses.base import Features, LossSettings, register_loss
from training.optimiser import (
    Groups,
    Optimisation,
    OptimiserSettings,
    register_optimiser,
    register_schedule,
)
from training.parts import Choice, Section
from training.sampler import PKSampler, Sampling, register_sampler

__all__ = ["BackboneKind", "Preprocessing", "Section", "find_backbone", "register_backbone"]
__all__ += ["CropRecord", "Dataset", "DatasetKind", "Layout", "crop_in_file", "register_dataset"]
__all__ += ["Features", "LossSettings", "register_loss"]
__all__ += ["Choice", "PKSampler", "Sampling", "register_sampler"]
__all__ += ["Groups", "Optimisation", "OptimiserSettings", "register_optimiser"]
__all__ += ["Probability", "Strength", "register_augmentation", "register_schedule"]


class PluginFile(Section):
    """The name of a plug-in's file, and the digest of its content."""

    file: str
    sha256: str


_LOADED: dict[Path, PluginFile] = {}


def load_plugins(files: Sequence[Path | str]) -> tuple[PluginFile, ...]:
    """Import plug-in files, each once in a process, so that recipes can name their parts.

    Raises:
        InputProblem: a file cannot be read or imported; the message names it and its error.
    """
    return tuple(_load(Path(file)) for file in files)


def _load(file: Path) -> PluginFile:
    place = file.resolve()
    try:
        content = place.read_bytes()
    except OSError as error:
        raise InputProblem(f"--plugin {file}: cannot be read ({error.strerror})") from error
    plugin = PluginFile(file=file.name, sha256=hashlib.sha256(content).hexdigest())
    if place in _LOADED:
        if _LOADED[place] != plugin:
            raise InputProblem(f"--plugin {file}: has changed since it was imported; start again")
        return plugin
    module = ModuleType(f"gmn_plugin_{place.stem}")
    module.__file__ = str(place)
    # Pydantic looks up the annotations of the plug-in's classes in this module.
    sys.modules[module.__name__] = module
    try:
        # The hashed bytes are compiled, since an import would read the file again.
        exec(compile(content, str(place), "exec"), module.__dict__)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(place)]
        where = f" in line {lines[-1]}" if lines else ""
        raise InputProblem(
            f"--plugin {file}: cannot be imported: {type(error).__name__}{where}: {error}"
        ) from error
    _LOADED[place] = plugin
    return plugin
