"""The papers' tables: their rows as recipes, and the figures that the papers report of them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from model.problems import InputProblem
from training.evaluation.runs import deciding
from training.recipe import Recipe, read_recipe

TABLES = Path(__file__).with_name("papers.toml")
AVERAGE = "average"
"""What stands for a paper's average in place of a test set."""


class PaperFigures(BaseModel):
    """A paper's figures on one test set, percent.

    Attributes:
        version: which `Dataset.version` they are of, where the set has several.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mAP: float  # noqa: N815 - the field's name for it
    rank_1: float | None = None
    version: str = ""

    def __str__(self) -> str:
        both = (self.mAP, self.rank_1)
        return " / ".join(f"{figure:.1f}" for figure in both if figure is not None)


class PaperRow(BaseModel):
    """One row of a table.

    Attributes:
        name: as the paper names it.
        source: paper and table.
        protocol: of domain generalisation, such as `P2`; empty where each test set is the one that
            is trained on.
        recipe, settings: a recipe's name, and the `--set` that make the row of it.
        scoring: the ranking that the row is measured by.
        parameters_millions, gflops: the cost as the paper counts it.
        figures: by test set; `average` is the paper's own, over the sets that it tests.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    protocol: str = ""
    recipe: str
    settings: tuple[str, ...] = ()
    scoring: str = "cosine"
    parameters_millions: float | None = None
    gflops: float | None = None
    figures: dict[str, PaperFigures] = {}

    def resolved(self, settings: Sequence[str] = (), plugins: Sequence[Path | str] = ()) -> Recipe:
        """Return the row's recipe, with further settings, and with plug-ins that these may name.

        What is set of a section that the row has not, such as the pyramid's channels for a
        baseline, leaves the row as it is.
        """
        own = read_recipe(self.recipe, list(self.settings), plugins)
        applied = [one for one in settings if _has_section(own, one)]
        return read_recipe(self.recipe, [*self.settings, *applied], plugins)

    def is_of(self, recipe: Mapping[str, Any]) -> bool:
        """Return whether a stored recipe is the row's in every setting that decides.

        How many people are held out is stated beside the figures.
        """
        return _settings_of(recipe) == _settings_of(self.resolved().model_dump(mode="json"))

    def on(self, tested: Set[str]) -> PaperRow:
        """The row with its figures on these sets, and its average where it is over no others."""
        whole = {AVERAGE} if self.figures.keys() - {AVERAGE} <= tested else set()
        known = {name: own for name, own in self.figures.items() if name in tested | whole}
        return self.model_copy(update={"figures": known})


class PaperTable(BaseModel):
    """One table, its baseline first.

    Attributes:
        name: as `gmn benchmark` takes it.
        title: for people.
        protocol: of domain generalisation; empty where each test set is the one trained on.
        sources: the sets that it trains on, where the protocol names none.
        tests: the sets that it tests, where the protocol names none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    protocol: str = ""
    sources: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    rows: tuple[PaperRow, ...]


@cache
def paper_tables() -> dict[str, PaperTable]:
    """Return every table by its name."""
    content = tomllib.loads(TABLES.read_text(encoding="utf-8"))
    found = {}
    for table in content["table"]:
        common = {"source": table.pop("source"), "protocol": table.get("protocol", "")}
        rows = [common | row for row in table.pop("row")]
        found[table["name"]] = PaperTable.model_validate({**table, "rows": rows})
    return found


def read_table(name: str) -> PaperTable:
    """Return the table of a name.

    Raises:
        InputProblem: naming the tables there are.
    """
    tables = paper_tables()
    if name not in tables:
        raise InputProblem(f"{name}: there is no such table; name one of {', '.join(tables)}")
    return tables[name]


def paper_rows() -> list[PaperRow]:
    """Return every row of which a paper reports figures."""
    return [row for table in paper_tables().values() for row in table.rows if row.figures]


def _has_section(recipe: Recipe, setting: str) -> bool:
    held: Any = recipe
    for parent in setting.partition("=")[0].split(".")[:-1]:
        # A name that there is not is left to the error that names it.
        held = getattr(held, parent, held)
        if held is None:
            return False
    return True


def _settings_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in deciding(recipe).items() if name != "held_out"}
