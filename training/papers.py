"""The papers' tables: their rows as recipes, their figures, and these beside a run's."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.problems import InputProblem
from model.provenance import Provenance
from training.datasets.protocols import PROTOCOLS
from training.evaluation.results import DatasetResult
from training.evaluation.runs import deciding
from training.evaluation.tables import Table
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
        protocol: of domain generalisation, such as `P2`; empty where each test set is the one that
            is trained on.
        recipe, settings: a recipe's name, and the `--set` that make the row of it.
        scoring: the ranking that the row is measured by.
        parameters_millions, gflops: the cost as the paper counts it.
        figures: by test set; `average` is the paper's own, over the sets that it tests.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str = ""
    protocol: str = ""
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
    common = {name: content[name] for name in ("source", "protocol") if name in content}
    table = {name: value for name, value in content.items() if name not in ("source", "row")}
    rows = [common | row for row in content.get("row", ())]
    return PaperTable.model_validate({**table, "rows": rows})


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


def papers_table(provenance: Provenance, results: Sequence[DatasetResult]) -> Table:
    """Return a line for each figure that a paper reports of an artefact's own row.

    An artefact has a row if its recipe and its training data are the row's.
    """
    # Tables of one paper repeat rows: the same figure stands there once, with all its tables.
    lines: dict[tuple[str, ...], list[PaperRow]] = {}
    for row in paper_rows():
        for name, figures in row.figures.items():
            if row.is_of(provenance.recipe) and not data_differences(
                row.protocol,
                name,
                provenance,
            ):
                ours = _ours(row.scoring, name, figures, provenance, results)
                version = f", {figures.version}" if figures.version else ""
                line = (f"{name}{version}", str(figures), ours)
                lines.setdefault(line, []).append(row)
    return Table(
        "mAP / Rank-1, %",
        ["row of the paper", "test set", "paper", "this run", "source"],
        [
            [rows[0].name, *line, "; ".join(row.source for row in rows)]
            for line, rows in lines.items()
        ],
        "a paper's figure binds only at its own scale and on its own data",
        words=True,
    )


def data_differences(
    protocol: str,
    target: str,
    provenance: Provenance,
) -> list[str]:
    """Return where an artefact was trained on other sets or splits than a protocol, in clauses.

    Args:
        protocol: its name; without one, a set is tested by what its own training split made.
        target: the set that is tested.
        provenance: the artefact's.
    """
    rules = PROTOCOLS.get(protocol)
    sources = set(rules.sources) - {target} if rules else {target}
    test_images = rules is not None and rules.test_images
    found = []
    known = {data.name for data in provenance.data}
    if known != sources:
        found.append(
            f"on {', '.join(sorted(known)) or 'nothing that it names'}; protocol {protocol} "
            f"trains on {', '.join(sorted(sources))}"
        )
    for data in provenance.data:
        # A set without splits trains whole by every protocol.
        tested = bool({"query", "gallery"} & set(data.splits or ()))
        if data.splits is not None and tested != test_images:
            found.append(
                f"on the {', '.join(data.splits)} images of {data.name}; protocol {protocol} "
                f"trains on {'the test images, too' if test_images else 'train alone'}"
            )
    return found


def people_differences(provenance: Provenance) -> list[str]:
    """Return where an artefact was trained on fewer people than its data hold, in clauses."""
    found = []
    if share := provenance.held_out.get("fraction", 0.0):
        found.append(f"on {1 - share:.0%} of the people; the protocol trains on all")
    if limit := provenance.recipe.get("sampling", {}).get("identities_per_set"):
        found.append(f"on at most {limit:,} people of each set; the protocol trains on all")
    return found


def _ours(
    scoring: str,
    name: str,
    figures: PaperFigures,
    provenance: Provenance,
    results: Sequence[DatasetResult],
) -> str:
    """Return a run's figures on a set; of another version or ranking they do not compare."""
    found = []
    for result in results:
        if result.name != name:
            continue
        if figures.version and result.version != figures.version:
            found.append(
                f"measured on {result.version or 'another version'}, not on {figures.version}"
            )
        elif scoring not in result.scorings:
            found.append(f"not measured by {scoring}")
        else:
            metrics = result.scorings[scoring].metrics
            both = f"{100 * metrics['mAP'].mean:.1f} / {100 * metrics['rank_1'].mean:.1f}"
            found.append(f"{scoring} {both}")
    found += [f"trained {difference}" for difference in people_differences(provenance)]
    found += [
        f"trained on {data.spec}, not on {figures.version}"
        for data in provenance.data
        if figures.version and data.spec.endswith(")") and f"({figures.version})" not in data.spec
    ]
    return "; ".join(found)
