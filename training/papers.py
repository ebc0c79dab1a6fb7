"""The papers' tables: each row is a recipe with settings, and has the paper's figures."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from model.problems import InputProblem, legible
from model.provenance import Provenance
from training.evaluation.runs import deciding
from training.parts import Section
from training.recipe import Recipe, read_recipe

TABLES = Path(__file__).with_name("papers.toml")
# The key of a paper's average among the figures of test sets.
AVERAGE = "average"


class PaperFigures(Section):
    """A paper's figures on one test set, in percent.

    Attributes:
        version: the `Dataset.version` that the paper tested on, if the set has several.
    """

    mAP: float  # noqa: N815 - the field's name for it
    rank_1: float | None = None
    version: str = ""

    def __str__(self) -> str:
        both = (self.mAP, self.rank_1)
        return " / ".join(f"{figure:.1f}" for figure in both if figure is not None)


class PaperRow(Section):
    """One row of a table.

    Attributes:
        name: the paper's name for the row.
        source: paper and table; empty for a row of one's own.
        recipe, settings: the name of a recipe, and the `--set` options that turn it into the row.
        scoring: the ranking that the row is measured by.
        parameters_millions, gflops: the cost as the paper counts it.
        figures: the paper's figures by test set; `average` is its own average over them.
    """

    name: str
    source: str = ""
    recipe: str
    settings: tuple[str, ...] = ()
    scoring: Literal["cosine", "mnet", "k_reciprocal"] = "cosine"
    parameters_millions: float | None = None
    gflops: float | None = None
    figures: dict[str, PaperFigures] = Field({})

    def resolved(self, settings: Sequence[str] = (), plugins: Sequence[Path | str] = ()) -> Recipe:
        """Return the row's recipe with further settings, which may name parts of plug-ins.

        Settings of a section that the row does not have, such as the pyramid's channels for a
        baseline, are ignored.
        """
        recipe = read_recipe(self.recipe, list(self.settings), plugins)
        applied = [setting for setting in settings if _has_section(recipe, setting)]
        return read_recipe(self.recipe, [*self.settings, *applied], plugins)

    def is_of(self, recipe: Mapping[str, Any]) -> bool:
        """Return whether a stored recipe has the row's settings, but for the people held out.

        Differences of the people are stated beside the figures.
        """
        return _settings_of(recipe) == _settings_of(self.resolved().model_dump(mode="json"))

    def on(self, tested: Set[str]) -> PaperRow:
        """Keep the figures on these sets, and the average if it is over no other sets."""
        shown = set(tested)
        if self.figures.keys() <= {*tested, AVERAGE}:
            shown.add(AVERAGE)
        figures = {name: figure for name, figure in self.figures.items() if name in shown}
        return self.model_copy(update={"figures": figures})


class PaperTable(Section):
    """A table; the first row is its baseline.

    Attributes:
        name: the name that `gmn benchmark` takes.
        title: the title for people.
        protocol: a protocol of domain generalisation, `lodo`, `P1`, `P2`, `P3` or `single-source`;
            if empty, each run is trained and tested on the same set.
        sources: the training sets, if the protocol names none. With `single-source` they are also
            tested, and other sets that are given are added to them.
        tests: the test sets, if the protocol names none.
    """

    name: str
    title: str
    protocol: Literal["", "lodo", "P1", "P2", "P3", "single-source"] = ""
    sources: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    rows: tuple[PaperRow, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> PaperTable:
        if len({row.name for row in self.rows}) < len(self.rows):
            raise ValueError("two rows have one name")
        return self

    @model_validator(mode="after")
    def _figures_have_a_place(self) -> PaperTable:
        if self.protocol == "single-source" and any(row.figures for row in self.rows):
            raise ValueError("figures of a single-source table have no place: remove them")
        return self


@cache
def paper_tables() -> dict[str, PaperTable]:
    content = tomllib.loads(TABLES.read_text(encoding="utf-8"))
    tables = [_table(table) for table in content["table"]]
    return {table.name: table for table in tables}


def read_table(name: str) -> PaperTable:
    """Return the paper's table of this name, or read a table from a TOML file.

    A file has a `[[row]]` for each recipe, with the keys of a row in `papers.toml`. It may have
    `title`, `protocol`, `sources` and `tests`.

    Raises:
        InputProblem: there is no such table, or the file is wrong.
    """
    file = Path(name)
    if file.suffix == ".toml":
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
            return _table({"name": file.stem, "title": file.name, **content})
        except (OSError, TypeError, ValueError) as error:
            raise InputProblem(
                f"{file}: is no table of recipes ({' '.join(str(error).split())}); write a [[row]] "
                "with a name and a recipe for each, as in training/papers.toml"
            ) from error
    tables = paper_tables()
    if name not in tables:
        raise InputProblem(
            f"{legible(name)}: there is no such table; name a TOML file, or one of "
            f"{', '.join(tables)}"
        )
    return tables[name]


def _table(content: dict[str, Any]) -> PaperTable:
    source = content.pop("source", "")
    rows = [{"source": source, **row} for row in content.pop("row", ())]
    return PaperTable.model_validate({**content, "rows": rows})


def paper_rows() -> list[PaperRow]:
    return [row for table in paper_tables().values() for row in table.rows if row.figures]


def _has_section(recipe: Recipe, setting: str) -> bool:
    section: Any = recipe
    for parent in setting.partition("=")[0].split(".")[:-1]:
        # An unknown name counts as known here, so that reading the recipe refuses it.
        section = getattr(section, parent, section)
        if section is None:
            return False
    return True


def _settings_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in deciding(recipe).items() if name != "held_out"}


def people_differences(provenance: Provenance) -> list[str]:
    """Say in clauses why an artefact was trained on fewer people than the paper's."""
    differences = []
    if share := provenance.held_out.get("fraction", 0.0):
        differences.append(f"on {1 - share:.0%} of the people; the protocol trains on all")
    if limit := provenance.recipe.get("sampling", {}).get("identities_per_set"):
        differences.append(f"on at most {limit:,} people of each set; the protocol trains on all")
    return differences
