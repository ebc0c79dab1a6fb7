"""Unit costs: what a bench measured, kept in a file that `gmn plan` reads."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bench.result import BenchResult
from model.problems import InputProblem

REFERENCE = Path(__file__).with_name("units.json")


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
    """The unit costs of a file, by name.

    Raises:
        InputProblem: the file cannot be read, or has a name that the reference file has not.
    """
    try:
        units = UNITS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputProblem(
            f"{path}: no file of unit costs ({' '.join(str(error).split())}); "
            "gmn bench scale pairs --units FILE writes one"
        ) from error
    known = units if path == REFERENCE else read_units(REFERENCE)
    if unknown := units.keys() - known.keys():
        raise InputProblem(f"{path}: {min(unknown)} is not one of {', '.join(sorted(known))}")
    return units


def keep_units(path: Path, results: Iterable[BenchResult]) -> None:
    """Puts the unit costs of results, `details["units"]`, into a file, beside those it has."""
    units = read_units(path) if path.exists() else {}
    for result in results:
        for name, value in result.details.get("units", {}).items():
            units[name] = Unit(
                value=value,
                source=f"gmn bench {result.bench}",
                machine=result.machine["processor"],
                cores=result.machine["cores"],
                date=datetime.datetime.now(tz=datetime.UTC).date(),
            )
    path.write_bytes(UNITS.dump_json(units, indent=1) + b"\n")
