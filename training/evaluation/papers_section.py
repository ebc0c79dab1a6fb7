"""What a paper reports for a recipe's rows, beside what this run measured."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from training.evaluation.grouping import flat
from training.evaluation.markup import NOTHING, section, table
from training.evaluation.results import DatasetResult

Measured = tuple[str, Mapping[str, Any], Sequence[DatasetResult]]
"""A model's name, its recipe as its artefact stores it, and what was measured."""


def papers_section(models: Iterable[Measured]) -> str:
    """A line for each figure that a paper reports of a model's own row; nothing without any."""
    rows = [
        [escape(cell) for cell in (name, *line)]
        for name, recipe, results in models
        for row in published_rows(recipe)
        for line in _lines(row, results)
    ]
    found = table(
        "mAP / Rank-1, %",
        ["model", "row of the paper", "test set", "paper", "this run", "source"],
        rows,
        "a paper's figure binds only at its own scale and on its own data",
        kind="words",
    )
    return section("Beside the papers", [found]) if rows else ""


def published_rows(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The published rows that a resolved recipe remakes.

    A row names the settings that make it of the recipe. Where they hold, the rows do not that name
    none, the recipe as it was written, or fewer: + CSIP is "no MSFF", and so are the rows below it.
    """
    rows = [row for row in recipe.get("published", ()) if isinstance(row, Mapping)]
    settings = flat({key: value for key, value in recipe.items() if key != "published"})
    made = [row for row in rows if _holds(str(row.get("setting", "")), settings)]
    most = max((_count(row) for row in made), default=0)
    return [row for row in made if _count(row) == most]


def _count(row: Mapping[str, Any]) -> int:
    """How many settings a row names."""
    words = (word.partition("=") for word in str(row.get("setting", "")).split() if "=" in word)
    return len(flat({key: _value(text) for key, _, text in words}))


def _holds(setting: str, settings: Mapping[str, Any]) -> bool:
    """Whether `key=value key=value` is what the settings say; `none` is an absent section too."""
    for word in setting.replace("--set", " ").split():
        key, _, text = word.partition("=")
        if isinstance(table := _value(text), dict):
            if any(settings.get(name) != value for name, value in flat({key: table}).items()):
                return False
            continue
        present = any(name == key or name.startswith(f"{key}.") for name in settings)
        own = settings.get(key)
        if text in ("none", "null"):
            if present and own is not None:
                return False
            if own is None and any(name.startswith(f"{key}.") for name in settings):
                return False
        elif not present or own != _value(text):
            return False
    return True


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _lines(row: Mapping[str, Any], results: Sequence[DatasetResult]) -> list[list[str]]:
    found = []
    for data, figures in row.get("results", {}).items():
        reported = " / ".join(
            f"{figures[key]:.1f}"
            for key in ("mean_average_precision", "rank_1")
            if figures.get(key) is not None
        )
        version = str(figures.get("version", ""))
        own = [result for result in results if result.name == data]
        # Figures of two versions of a set do not compare.
        ours = [_ours(result) for result in own if not version or result.version == version]
        others = {result.version for result in own if version and result.version != version}
        ours += [f"measured on {other or 'another version'}, not on {version}" for other in others]
        named = f"{data}, {version}" if version else data
        found.append(
            [str(row["row"]), named, reported, "; ".join(ours) or NOTHING, str(row["source"])]
        )
    return found


def _ours(result: DatasetResult) -> str:
    return ", ".join(
        f"{name} {100 * scoring.metrics['mAP'].mean:.1f} / "
        f"{100 * scoring.metrics['rank_1'].mean:.1f}"
        for name, scoring in result.scorings.items()
    )
