"""The papers' tables: their rows as recipes with settings, and the papers' figures."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.problems import InputProblem
from model.provenance import Provenance
from training.evaluation.runs import deciding
from training.recipe import Recipe, read_recipe

TABLES = Path(__file__).with_name("papers.toml")
# The name of a paper's average in place of a test set's.
AVERAGE = "average"


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
        source: paper and table; empty for a row of one's own.
        recipe, settings: a recipe's name, and the `--set` that make the row of it.
        scoring: the ranking that the row is measured by.
        parameters_millions, gflops: the cost as the paper counts it.
        figures: by test set; `average` is the paper's own, over the sets that it tests.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str = ""
    recipe: str
    settings: tuple[str, ...] = ()
    scoring: Literal["cosine", "mnet", "k_reciprocal"] = "cosine"
    parameters_millions: float | None = None
    gflops: float | None = None
    figures: dict[str, PaperFigures] = {}

    def resolved(self, settings: Sequence[str] = (), plugins: Sequence[Path | str] = ()) -> Recipe:
        """Return the row's recipe, with further settings, and with plug-ins that these may name.

        A setting of a section that the row does not have, such as the pyramid's channels for a
        baseline, leaves the row as it is.
        """
        recipe = read_recipe(self.recipe, list(self.settings), plugins)
        applied = [setting for setting in settings if _has_section(recipe, setting)]
        return read_recipe(self.recipe, [*self.settings, *applied], plugins)

    def is_of(self, recipe: Mapping[str, Any]) -> bool:
        """Return whether a stored recipe is the row's in every setting that decides.

        How many people are held out is stated beside the figures.
        """
        return _settings_of(recipe) == _settings_of(self.resolved().model_dump(mode="json"))

    def on(self, tested: Set[str]) -> PaperRow:
        """Return the row with its figures on these sets; the average if it is over no others."""
        shown = set(tested)
        if self.figures.keys() <= {*tested, AVERAGE}:
            shown.add(AVERAGE)
        figures = {name: figure for name, figure in self.figures.items() if name in shown}
        return self.model_copy(update={"figures": figures})


class PaperTable(BaseModel):
    """One table, its baseline first.

    Attributes:
        name: as `gmn benchmark` takes it.
        title: for people.
        protocol: of domain generalisation, `lodo`, `P1`, `P2` or `P3`; empty where each test set is
            the one trained on.
        sources: the sets that it trains on, where the protocol names none.
        tests: the sets that it tests, where the protocol names none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    protocol: Literal["", "lodo", "P1", "P2", "P3"] = ""
    sources: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    rows: tuple[PaperRow, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> PaperTable:
        if len({row.name for row in self.rows}) < len(self.rows):
            raise ValueError("two rows have one name")
        return self


@cache
def paper_tables() -> dict[str, PaperTable]:
    """Return every table by its name."""
    content = tomllib.loads(TABLES.read_text(encoding="utf-8"))
    tables = [_table(table) for table in content["table"]]
    return {table.name: table for table in tables}


def read_table(name: str) -> PaperTable:
    """Return the table of a name, or of a TOML file, which is called by its file's name.

    A file has `title`, perhaps `protocol`, `sources` and `tests`, and a `[[row]]` for each recipe,
    with the keys of a row in `papers.toml`.

    Raises:
        InputProblem: naming the tables there are, or the fault of the file.
    """
    file = Path(name)
    if file.suffix == ".toml":
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
            return _table({"name": file.stem, "title": file.name, **content})
        except (OSError, TypeError, ValueError) as error:
            raise InputProblem(
                f"{file}: is no table of recipes ({' '.join(str(error).split())}); write a [[row]] "
                "with name and recipe for each, as training/papers.toml has them"
            ) from error
    tables = paper_tables()
    if name not in tables:
        raise InputProblem(
            f"{name}: there is no such table; name a TOML file, or one of {', '.join(tables)}"
        )
    return tables[name]


def _table(content: dict[str, Any]) -> PaperTable:
    source = content.pop("source", "")
    rows = [{"source": source, **row} for row in content.pop("row", ())]
    return PaperTable.model_validate({**content, "rows": rows})


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


def people_differences(provenance: Provenance) -> list[str]:
    """Return where an artefact was trained on fewer people than its data hold, in clauses."""
    found = []
    if share := provenance.held_out.get("fraction", 0.0):
        found.append(f"on {1 - share:.0%} of the people; the protocol trains on all")
    if limit := provenance.recipe.get("sampling", {}).get("identities_per_set"):
        found.append(f"on at most {limit:,} people of each set; the protocol trains on all")
    return found
