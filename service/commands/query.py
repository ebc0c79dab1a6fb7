"""`gmn query`: search for the person on an image, or measure the answers to a labelled data set."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from rich.markup import escape
from rich.table import Column, Table
from typer import Argument, BadParameter, Context, Option

from gmn_client import Client, QueryOptions
from gmn_client.models import QueryAnswer, Scoring
from model.problems import InputProblem
from service.commands.bulk import CONCURRENT_REQUESTS, SourceCrop, find_source, query_crops
from service.commands.common import JsonOption, output, percent, progress_bar, show, with_client

RESULTS_SHOWN = 10
# The service's own bound on `top_k`.
MAX_RESULTS = 10_000
VERDICT_STYLES = {
    "match": "bold green",
    "uncertain": "yellow",
    "no_match": "red",
    "nothing_searched": "yellow",
}
COLUMNS = ("rank", "crop", "identity", "camera", "cosine", "logit", "probability", "verdict")
NUMBERS = ("rank", "cosine", "logit", "probability")
METRIC_TITLES = {"rank_1": "Rank-1", "rank_5": "Rank-5", "rank_10": "Rank-10", "mAP": "mAP"}
Label = tuple[str | None, str | None]
"""Identity and camera of a crop; None where unknown."""


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadParameter(f"{text}: write it as 2026-03-01T09:30:00Z") from error
    if moment.tzinfo is None:
        raise BadParameter(f"{text}: needs a time zone, such as {text}Z")
    return moment


Text = str | None
Texts = list[str] | None
Number = int | None
GroupBy = Literal["crop", "identity"] | None
ImagesArgument = Annotated[
    list[Path] | None, Argument(metavar="IMAGE", help="Several are one person.")
]
DataOption = Annotated[Text, Option(help="One query per image of KIND:PATH, a manifest or folder.")]
TopKOption = Annotated[
    Number, Option(min=1, help="Results per query; 10, or with --data the whole gallery.")
]
ScoringOption = Annotated[
    Scoring | None, Option(help="Ranks the results; the artefact's default unless given.")
]
OperatingPointOption = Annotated[
    Literal["far_1e-1", "far_1e-2", "far_1e-3"] | None,
    Option(help="Share of searches for a stranger that may be answered match; far_1e-2."),
]
GroupByOption = Annotated[GroupBy, Option(help="identity: the best crop of each identity only.")]
ExcludeOption = Annotated[Texts, Option(help="Search no crop of this camera; repeatable.")]
IdentitiesOption = Annotated[
    Texts, Option("--identity", help="Search crops of this identity only; repeatable.")
]
UnnamedOption = Annotated[bool, Option("--unnamed", help="Search crops without an identity only.")]
MetadataOption = Annotated[
    Texts,
    Option(metavar="KEY=VALUE", help="Search crops whose metadata has this only; repeatable."),
]
AFTER_HELP = "Captured at this time or later: 2026-03-01T09:30:00Z."
AfterOption = Annotated[datetime | None, Option(parser=_moment, metavar="TIME", help=AFTER_HELP)]
BEFORE_HELP = "Captured at this time or earlier."
BeforeOption = Annotated[datetime | None, Option(parser=_moment, metavar="TIME", help=BEFORE_HELP)]


@with_client
def query(
    client: Client,
    context: Context,
    images: ImagesArgument = None,
    data: DataOption = None,
    camera: Annotated[Text, Option(help="With --data: images of this camera only.")] = None,
    split: Annotated[Text, Option(help="With --data: images of this split only.")] = None,
    limit: Annotated[Number, Option(min=1, help="With --data: the first N images.")] = None,
    separate: Annotated[bool, Option("--separate", help="One query per IMAGE.")] = False,
    top_k: TopKOption = None,
    scoring: ScoringOption = None,
    rerank_depth: Annotated[Number, Option(min=1, help="How many candidates M-Net scores.")] = None,
    purpose: Annotated[Text, Option(help="The reason, for the service's audit log.")] = None,
    keep: Annotated[bool, Option("--keep", help="Keep the search and its picture.")] = False,
    operating_point: OperatingPointOption = None,
    group_by: GroupByOption = None,
    cameras: Annotated[Texts, Option(help="Search crops of this camera only; repeatable.")] = None,
    exclude_cameras: ExcludeOption = None,
    identities: IdentitiesOption = None,
    unnamed: UnnamedOption = False,
    metadata: MetadataOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Asks the service who is on an image, or how well it answers a labelled data set.

    With --data, a gallery crop of the query's own person and camera is left out of its ranking,
    as the field's protocol demands.

    Example: gmn query suspect.jpg --top-k 5

    Example: gmn query front.jpg side.jpg --cameras east --after 2026-03-01T00:00:00Z

    Example: gmn query suspect.jpg --unnamed --metadata shift=night

    Example: gmn query --data cuhk01:/data/cuhk01 --camera B
    """
    if bool(images) == bool(data):
        raise BadParameter("name either images or --data KIND:PATH")
    if images and (camera or split or limit):
        raise BadParameter(
            "--camera, --split and --limit choose among the images of --data; --cameras searches "
            "the crops of some cameras alone"
        )
    if data and keep:
        raise BadParameter("--keep goes with images: --data measures whole rankings")
    if data and separate:
        raise BadParameter("--separate goes with images: --data asks one query per image anyway")
    filters: dict[str, Any] = {"group_by": group_by, "captured_after": after}
    filters |= {"cameras": cameras, "exclude_cameras": exclude_cameras, "captured_before": before}
    filters |= {"identities": identities, "unnamed": unnamed or None, "metadata": pairs(metadata)}
    if data and any(filters.values()):
        raise BadParameter(
            "--group-by, --cameras, --exclude-cameras, --identity, --unnamed, --metadata, --after "
            "and --before go with images: "
            "--data measures whole rankings"
        )
    ranking = {"scoring": scoring, "rerank_depth": rerank_depth, "top_k": top_k}
    given = ranking | filters | {"operating_point": operating_point, "purpose": purpose}
    given |= {"keep": keep or None, "keep_picture": keep or None}
    options = cast("QueryOptions", {name: one for name, one in given.items() if one is not None})
    if images:
        _query_images(client, images, separate, options, as_json)
        return
    crops = find_source(data or "", context.obj.read_spec).chosen(split, camera).crops[:limit]
    summary = _query_data(context, client, crops, options)
    show(summary, as_json, lambda: _show_summary(summary))


def pairs(given: Sequence[str] | None) -> dict[str, Any] | None:
    """A JSON object of texts KEY=VALUE, whose value is JSON, or else a text; None for none.

    Raises:
        BadParameter: for one without `=`.
    """
    found: dict[str, Any] = {}
    for one in given or ():
        name, equals, text = one.partition("=")
        if not (name and equals):
            raise BadParameter(f"{one}: write it as KEY=VALUE, such as shift=night")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found or None


def _query_images(
    client: Client, images: list[Path], separate: bool, options: QueryOptions, as_json: bool
) -> None:
    options.setdefault("top_k", RESULTS_SHOWN)
    groups = [[image] for image in images] if separate else [images]
    answers = [client.query(*group, **options) for group in groups]

    def tables() -> None:
        for group, answer in zip(groups, answers, strict=True):
            show_answer(", ".join(image.name for image in group), answer)

    show(answers if separate else answers[0], as_json, tables)


def show_answer(title: str, answer: QueryAnswer) -> None:
    """Prints an answer as a table."""
    console = output()
    console.print(f"{escape(title)}: {_styled(answer.verdict)}")
    if answer.verdict == "nothing_searched":
        console.print("[yellow]the gallery is empty, or none of its crops passes the filters[/]")
    for warning in answer.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    if answer.stale:
        console.print(
            "[yellow]stale: the service's record does not answer; this is the last known state[/]"
        )
    table = Table(
        *(Column(name, justify="right" if name in NUMBERS else "left") for name in COLUMNS)
    )
    if any(row.external_id is not None for row in answer.results):
        table.add_column("external id")
    for row in answer.results:
        table.add_row(
            str(row.rank),
            escape(row.crop_id),
            escape(row.identity or "–"),
            escape(row.camera or "–"),
            f"{row.cosine:.3f}",
            "–" if row.pair_logit is None else f"{row.pair_logit:.2f}",
            "–" if row.probability is None else percent(row.probability),
            _styled(row.verdict) if row.verdict else "–",
            *[escape(row.external_id or "–")][: len(table.columns) - len(COLUMNS)],
        )
    console.print(table)
    total = answer.timing_ms.total
    console.print(f"{answer.candidates_scored:,} candidates scored, {total:.1f} ms")
    console.print(f"{answer.calibration.basis}\n")
    if answer.query_id:
        console.print(f"kept as search {answer.query_id}; gmn review notes who its results are")


def _styled(verdict: str) -> str:
    return f"[{VERDICT_STYLES[verdict]}]{verdict}[/]"


def _query_data(
    context: Context, client: Client, crops: Sequence[SourceCrop], options: QueryOptions
) -> dict[str, Any]:
    """Ranking metrics, verdicts and times of the answers to labelled crops."""
    enrolled = client.gallery().crops
    if enrolled == 0:
        raise InputProblem(
            f"--gallery {client.gallery_name}: is empty; fill it with gmn enroll first"
        )
    options.setdefault("top_k", min(enrolled, MAX_RESULTS))
    whole = options["top_k"] >= enrolled
    gallery = [] if whole else [(crop.identity, crop.camera) for crop in client.crops()]
    totals: Counter[str] = Counter()
    scorings = set()

    def answers() -> Iterator[tuple[Label, Sequence[Label], str]]:
        with progress_bar() as progress:
            asked = progress.track(
                query_crops(client, crops, options), total=len(crops), description="Querying"
            )
            for crop, answer, milliseconds in asked:
                totals.update({"asked": milliseconds, **answer.timing_ms.model_dump()})
                scorings.add(answer.scoring)
                labels = [(row.identity, row.camera) for row in answer.results]
                yield (crop.identity, crop.camera), labels, answer.verdict

    started = time.perf_counter()
    summary = context.obj.summarize(answers(), gallery)
    seconds = time.perf_counter() - started
    means = {name: total / len(crops) for name, total in totals.items()}
    return {
        "gallery": client.gallery_name,
        "gallery_crops": enrolled,
        "whole_rankings": whole,
        **options,
        "scoring": ", ".join(scorings),
        "queries": len(crops),
        **summary,
        "ms_per_query": means.pop("asked"),
        "service_timing_ms": {name: round(mean, 3) for name, mean in means.items()},
        "in_flight": CONCURRENT_REQUESTS,
        "queries_per_second": len(crops) / max(seconds, 1e-9),
    }


def _show_summary(summary: dict[str, Any]) -> None:
    console = output()
    console.print(
        f"{summary['queries']:,} queries against {summary['gallery_crops']:,} crops of gallery "
        f"{escape(summary['gallery'])}, ranked by {summary['scoring']}"
    )
    if summary["mAP"] is None:
        console.print("Rank-k and mAP: no query has a true match under another camera there")
    else:
        table = Table(*METRIC_TITLES.values())
        table.add_row(*(f"{summary[name]:.2%}" for name in METRIC_TITLES))
        console.print(table)
        if not summary["whole_rankings"]:
            console.print(
                f"mAP is a lower bound: rankings were cut at {summary['top_k']:,} results"
            )
        if summary["with_a_true_match"] < summary["queries"]:
            console.print(f"over the {summary['with_a_true_match']:,} that have a true match there")
    verdicts = ", ".join(f"{count:,} {name}" for name, count in summary["verdicts"].items())
    console.print(f"verdicts: {verdicts}; of the matches {summary['matches_right']:,} are right")
    stages = ", ".join(f"{name} {mean:.1f}" for name, mean in summary["service_timing_ms"].items())
    console.print(
        f"{summary['ms_per_query']:.1f} ms per query with {summary['in_flight']} in flight, "
        f"{summary['queries_per_second']:.1f} queries/s; in the service: {stages} ms"
    )
