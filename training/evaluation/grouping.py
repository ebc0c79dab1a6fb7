"""Which runs belong together: folders of one artefact, and seeds of one recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.evaluation.run_folder import RunFolder

SEED_NUMBER = re.compile(r"[-_ .=]*(seed|s)?[-_ .=]*\d+$")


@dataclass
class Model:
    """One artefact, and every folder that reports on it."""

    name: str
    folders: list[RunFolder] = field(default_factory=list)

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Its resolved recipe, or what is known of its architecture."""
        report = self.folders[0].report
        return report.provenance.recipe or report.architecture


@dataclass
class Group:
    """Models of one recipe and one set of data that differ in their seed alone."""

    name: str
    models: list[Model] = field(default_factory=list)


def group_runs(runs: Sequence[RunFolder]) -> list[Group]:
    """Folders of one artefact become a model, models of one recipe but for the seed a group.

    Both stay in the order of the runs.
    """
    models: dict[str, Model] = {}
    for run in runs:
        fingerprint = run.report.artefact_fingerprint
        models.setdefault(fingerprint, Model(run.name)).folders.append(run)
    groups: dict[str, Group] = {}
    for model in models.values():
        groups.setdefault(_recipe_key(model), Group(model.name)).models.append(model)
    for group in groups.values():
        group.name = _common_name([model.name for model in group.models])
    _tell_apart(list(groups.values()))
    return list(groups.values())


def differing_settings(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Settings that are not the same in every group, by their dotted names, a value a group."""
    known = [_settings(group.models[0]) for group in groups]
    names = dict.fromkeys(name for own in known for name in own)
    found = {name: [own.get(name, "") for own in known] for name in names}
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def _settings(model: Model) -> dict[str, str]:
    provenance = model.folders[0].report.provenance
    data = ", ".join(one.name for one in provenance.data)
    ignored = {"seed", "description"}
    own = {name: str(value) for name, value in flat(model.recipe).items() if name not in ignored}
    return {"data": data} | own


def _recipe_key(model: Model) -> str:
    report = model.folders[0].report
    recipe = {key: value for key, value in report.provenance.recipe.items() if key != "seed"}
    if not recipe:
        return report.artefact_fingerprint
    data = [(one.name, one.crops) for one in report.provenance.data]
    return json.dumps([recipe, data], sort_keys=True)


def _common_name(names: Sequence[str]) -> str:
    """The name without the number of its seed, where the runs differ in nothing else."""
    bare = {SEED_NUMBER.sub("", name) or name for name in names}
    return bare.pop() if len(bare) == 1 else ", ".join(names)


def _tell_apart(groups: Sequence[Group]) -> None:
    """Adds what differs to the names of groups that have the same one."""
    names = [group.name for group in groups]
    for group in groups:
        if names.count(group.name) > 1:
            fingerprint = group.models[0].folders[0].report.artefact_fingerprint
            group.name = f"{group.name} ({fingerprint[:6]})"


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names, as `--set` takes them."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        else:
            found[name] = value
    return found
