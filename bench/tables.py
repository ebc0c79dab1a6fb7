"""Tables of documents: their formats, and the pages that show them between `<!-- NAME -->`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.problems import InputProblem

if TYPE_CHECKING:
    from training.evaluation.tables import Value

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
METRICS = {"Rank-1": "rank_1", "mAP": "mAP"}
FOUND = "found at 1%"
BENCH_FIGURES = {
    "served/s": "served_images_per_second",
    "bare/s": "bare_crops_per_second",
    "service's CPU ms": "service_cpu_ms_per_image",
    "bare CPU ms": "bare_cpu_ms_per_crop",
    "p50 ms": "p50_ms",
    "p99 ms": "p99_ms",
}
PHASES = ("decode", "queue", "embed", "search", "rerank", "wall")
Rows = Sequence[Mapping[str, Any]]


def save_drawing(name: str, svg: str) -> None:
    """Write the file `docs/figures/NAME.svg`."""
    (FIGURES / f"{name}.svg").write_text(svg, encoding="utf-8")


def page_of(name: str) -> Path:
    """Find the page with a table's markers, the README or a document.

    Raises:
        InputProblem: no page has the markers.
    """
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if f"<!-- {name} -->" in page.read_text(encoding="utf-8"):
            return page
    raise InputProblem(f"no page has markers <!-- {name} --> and <!-- /{name} -->")


def replace_table(
    text: str,
    name: str,
    markdown: str,
) -> str:
    """Return the page's text with the table between two markers replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{markdown}\n{match[2]}", text)


def publish(
    name: str,
    markdown: str,
    kept: Any = None,
    folder: Path | None = None,
) -> None:
    """Write a table into the page that has its markers, and its figures to `folder/NAME.json`.

    Args:
        kept: the figures; None writes no file.
        folder: `docs/figures` by default.

    Raises:
        InputProblem: no page has the markers.
    """
    page = page_of(name)
    text = replace_table(page.read_text(encoding="utf-8"), name, markdown)
    page.write_text(text, encoding="utf-8")
    if kept is not None:
        folder = folder or FIGURES
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    # The serving image, where `gmn model-card` runs, lacks the packages that this module needs.
    from training.evaluation.tables import Table

    return Table("", columns, rows).markdown()


def percent(interval: Sequence[float], sign: str = "") -> str:
    """Format mean and ends of an interval of shares in per cent, with signs if `sign` is "+"."""
    mean, low, high = (f"{100 * share:{sign}.1f}" for share in interval)
    return f"{mean} [{low}, {high}]"


def ranking_table(rows: Rows) -> str:
    """Format a row for each model and data set, and a column for each metric and scoring."""
    groups: dict[tuple[str, int, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        group = groups.setdefault((row["data"], row["queries"], row["model"]), {})
        group[row["scoring"]] = row
    titles = list(METRICS)
    if any("found" in row for row in rows):
        titles.append(FOUND)
    # Figures of earlier versions are kept with those of the scoring `fused`, which is withdrawn.
    scorings = dict.fromkeys(row["scoring"] for row in rows if row["scoring"] != "fused")
    columns = [(title, scoring) for title in titles for scoring in scorings]
    lines = []
    for (data, _, model), by_scoring in sorted(groups.items(), key=lambda entry: entry[0][:2]):
        people = next(iter(by_scoring.values()))["people"]
        cells = [_ranking_cell(by_scoring.get(scoring), title) for title, scoring in columns]
        lines.append([f"{data}, {people}", model, *cells])
    return markdown_table(["data", "model", *(" ".join(column) for column in columns)], lines)


def _ranking_cell(row: Mapping[str, Any] | None, title: str) -> str | None:
    if row is None:
        return None
    interval = row.get("found") if title == FOUND else row["metrics"].get(title)
    return percent(interval) if interval else None


def benchmark_table(kept: Mapping[str, Any]) -> str:
    """Format rows of `gmn benchmark` as a table with a paragraph on their origin."""
    metrics = ("mAP", "Rank-1")
    columns = ["data", "row", "ranking", "seeds"]
    for name in metrics:
        columns += [name, f"Δ {name} to the first row", f"Δ {name} to its cosine"]
    lines = []
    for row in kept["rows"]:
        line = [row["data"], row["row"], row["ranking"], row["seeds"]]
        for name in metrics:
            line.append(percent(row["metrics"][name]))
            for key in ("differences", "over_cosine"):
                interval = row[key].get(name)
                line.append(percent(interval, "+").replace("-", "−") if interval else None)
        lines.append(line)
    origin = kept["origin"]
    weights = "; ".join(f"{name} SHA-256 {sha[:12]}" for name, sha in origin["weights"].items())
    searches = "; ".join(f"{name} {digest[:12]}" for name, digest in origin["searches"].items())
    return (
        f"{markdown_table(columns, lines)}\n\n"
        f"Commit {', '.join(sha[:7] for sha in origin['commits'])}; initial weights: {weights}; "
        f"digest of the searches: {searches}. Each run's training data and artefact are in "
        f"[figures](figures)."
    )


def few_people_table(rows: Rows) -> str:
    """Format the cosine's row for each set of `bench.few_people`, with a column for each size."""
    groups: dict[tuple[str, ...], Any] = {}
    for row in rows:
        # M-Net's figures hardly differ; they are kept beside the cosine's.
        if row["scoring"] == "cosine":
            part = f"{row['data']}, {'test part' if row['test'] else 'held out'}"
            groups.setdefault((row["artefact"], part, "cosine"), {})[row["size"]] = row
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lines = []
    for group, by_size in groups.items():
        cells = []
        for size in sizes:
            row = by_size[size]
            mean, low, high = (f"{100 * share:.1f}" for share in row["obtained"])
            cells.append(
                f"{mean} [{low}-{high}] · {100 * row['found']:.0f}/{100 * row['best']:.0f}"
            )
        errors = [row["error"] for row in by_size.values()]
        least = min(row["least"] for row in by_size.values())
        lines.append([*group, *cells, f"{least:.2f}", f"{min(errors):.2f}-{max(errors):.2f}"])
    titles = ["artefact", "crops", "scoring", *(f"K = {size}" for size in sizes)]
    return markdown_table([*titles, "least probability of a match", "calibration error"], lines)


def pictures_table(rows: Rows) -> str:
    """Format a row for each set and size of gallery, with a column for each number of pictures."""
    numbers = sorted({row["pictures"] for row in rows})
    lines: dict[tuple[str, str, int], dict[int, str]] = {}
    for row in rows:
        cells = lines.setdefault((row["artefact"], row["data"], row["size"]), {})
        mean, low, high = (f"{100 * share:.1f}" for share in row["obtained"])
        cells[row["pictures"]] = f"{mean} [{low}-{high}] · {100 * row['detected']:.0f}"
    titles = ["1 picture" if number == 1 else f"{number} pictures" for number in numbers]
    table = []
    for about, cells in lines.items():
        table.append([*about, *(cells.get(number) for number in numbers)])
    return markdown_table(["artefact", "crops", "people", *titles], table)


def watch_table(rows: Rows) -> str:
    """Format a row for each artefact and traffic of `bench.watch`, with a column for each size."""
    common, rare = sorted({row["rate"] for row in rows}, reverse=True)
    by_list = {}
    for row in rows:
        by_list[*_watch(row), row["size"], row["rate"]] = row
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lines = []
    for about in dict.fromkeys(_watch(row) for row in rows):
        cells = []
        for size in sizes:
            row = by_list[*about, size, common]
            median, low, high, _ = row["ratio"]
            names = ("inside", "above", "found")
            shares = "/".join(f"{100 * row[name]:.0f}" for name in names)
            cells.append(f"{median:.1f} [{low:.1f}-{high:.1f}] · {shares}")
        means = [by_list[*about, size, rare]["ratio"][-1] for size in sizes]
        lines.append([*about, *cells, f"{min(means):.1f}-{max(means):.1f}"])
    titles = [f"{size} people" for size in sizes]
    return markdown_table(["artefact", "traffic", *titles, f"mean at {rare:.1%}"], lines)


def _watch(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["artefact"], row["traffic"]


def bench_table(rows: Rows) -> str:
    lines = []
    for row in rows:
        low, high = row["spread"]
        stages: list[str | None] = [None] * (len(PHASES) + 1)
        if "service_ms" in row:
            stages = [f"{row['service_ms'][name]:.1f}" for name in PHASES]
            stages.append(f"{row['stages_share_of_wall']:.2f}")
        lines.append(
            [
                row["bench"],
                row["artefact"],
                f"{row['ratio']:.2f}, {low:.2f}–{high:.2f}",
                None if row["reach"] is None else f"{row['reach']:.2f}",
                *(f"{row[name]:.1f}" for name in BENCH_FIGURES.values()),
                f"{row['p99_ms'] / row['p50_ms']:.1f}",
                f"{100 * row['client_share_of_processor']:.1f}%",
                *stages,
            ]
        )
    titles = ["bench", "artefact", "ratio, of rounds", "aim", *BENCH_FIGURES, "p99 / p50"]
    titles += ["client's share", *(f"{name} ms" for name in PHASES), "stages of wall"]
    return markdown_table(titles, lines)


def steps_table(rows: Rows) -> str:
    """Format the answers of `gmn enroll` and `gmn query --data`, a row for each."""
    lines = []
    for row in rows:
        cells: list[str | None]
        if "queries" not in row:
            cells = [f"{row['enrolled']:,}", f"{row['crops_per_second']:.0f}", *[None] * 4]
        else:
            cells = [
                f"{row['queries']:,}",
                f"{row['queries_per_second']:.0f}",
                f"{row['ms_per_query']:.1f}, {row['in_flight']} in flight",
                f"{100 * row['rank_1']:.1f}",
                # The mAP of a ranking that was cut is only a lower bound.
                f"{100 * row['mAP']:.1f}" if row["whole_rankings"] else None,
                f"{row['verdicts']['match']:,}, {row['matches_right']:,}",
            ]
        lines.append([row["step"], *cells])
    titles = ("step", "crops", "per second", "ms per query", "Rank-1", "mAP")
    return markdown_table((*titles, "answered match, right"), lines)
