"""Unit costs that a bench measured, in a file that `gmn plan` reads."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from model.problems import InputProblem

REFERENCE = Path(__file__).with_name("units.json")
# Artefacts whose costs are in the reference file.
ARTEFACTS = ("bundled", "small")
# The reference file lacks this cost, as its machine has no GPU.
OF_A_GPU = "embed_gpu_crops_per_second"


class Unit(BaseModel):
    """One measured cost, in the unit that its name ends with.

    Attributes:
        source: the command that measured it.
        machine, cores: the processor, and how many of its cores there were.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float = Field(ge=0.0, allow_inf_nan=False)
    source: str
    machine: str
    cores: int = Field(ge=1)
    date: datetime.date


UNITS = TypeAdapter(dict[str, Unit])


def read_units(path: Path) -> dict[str, Unit]:
    """Read the unit costs of a file, by name.

    Raises:
        InputProblem: the file cannot be read, or has a cost that the reference file lacks.
    """
    try:
        units = UNITS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputProblem(
            f"{path}: no file of unit costs ({' '.join(str(error).split())}); "
            "gmn bench serve --units FILE writes one"
        ) from error
    known = {*(units if path == REFERENCE else read_units(REFERENCE)), OF_A_GPU}
    if unknown := units.keys() - known:
        raise InputProblem(f"{path}: {min(unknown)} is not one of {', '.join(sorted(known))}")
    return units


def keep_units(
    path: Path, source: str, measured: Mapping[str, float], machine: Mapping[str, Any]
) -> None:
    """Add measured costs to a file, or replace those of the same name.

    Args:
        path: the file, created if it is missing.
        source: the command that measured them.
        measured: the costs by name.
        machine: the answer of `describe_machine`.
    """

    units = read_units(path) if path.exists() else {}
    for name, value in measured.items():
        units[name] = Unit(
            value=value,
            source=source,
            machine=machine["processor"],
            cores=machine["cores"],
            date=datetime.datetime.now(tz=datetime.UTC).date(),
        )
    path.write_bytes(UNITS.dump_json(units, indent=1) + b"\n")
