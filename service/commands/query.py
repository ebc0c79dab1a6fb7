"""`gmn query`: who is on an image, or how well a labelled data set is answered, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from gmn_client import Client, QueryOptions
from gmn_client.models import Scoring
from model.problems import InputProblem
from service.commands.answers import show_rankings, show_summary
from service.commands.connection import (
    DEFAULT_GALLERY,
    DEFAULT_URL,
    ApiKeyOption,
    GalleryOption,
    JsonOption,
    UrlOption,
    connect,
    output,
    progress_bar,
)
from service.commands.measuring import QuerySummary, RankFigures, ask_each
from service.commands.sources import SourceCrop, open_source

RESULTS_SHOWN = 10
MOST_RESULTS = 10_000
"""The service's own bound on `top_k`."""
AT_ONCE = 4


def query_command(
    read_spec: Callable[[str], Iterable[SourceCrop]], rank_figures: RankFigures
) -> Callable[..., None]:
    """Builds the command.

    Args:
        read_spec: reads `KIND:PATH`, which this room knows nothing of.
        rank_figures: the evaluation's metrics of one ranking.
    """

    def query(
        images: Annotated[
            list[Path] | None,
            typer.Argument(metavar="IMAGE", help="Several are one person, asked for once."),
        ] = None,
        data: Annotated[
            str | None,
            typer.Option("--data", help="One query per image of KIND:PATH, a manifest or folder."),
        ] = None,
        camera: Annotated[
            str | None, typer.Option("--camera", help="With --data: this camera's images only.")
        ] = None,
        split: Annotated[
            str | None, typer.Option("--split", help="With --data: this split's images only.")
        ] = None,
        limit: Annotated[
            int | None, typer.Option("--limit", min=1, help="With --data: the first N images only.")
        ] = None,
        separate: Annotated[
            bool, typer.Option("--separate", help="One query per IMAGE, since they differ in who.")
        ] = False,
        top_k: Annotated[
            int | None,
            typer.Option(
                "--top-k",
                min=1,
                help="Results per query; 10, or with --data the whole gallery, as exact mAP needs.",
            ),
        ] = None,
        scoring: Annotated[
            Scoring | None,
            typer.Option(
                "--scoring", help="What the results are ranked by; else the artefact's default."
            ),
        ] = None,
        rerank_depth: Annotated[
            int | None,
            typer.Option("--rerank-depth", min=1, help="How many candidates M-Net scores."),
        ] = None,
        purpose: Annotated[
            str | None,
            typer.Option("--purpose", help="Why, for the service's log of who did what."),
        ] = None,
        operating_point: Annotated[
            Literal["far_1e-1", "far_1e-2", "far_1e-3"] | None,
            typer.Option(
                "--operating-point",
                help="Share of searches for a stranger that may be answered match; far_1e-2.",
            ),
        ] = None,
        group_by: Annotated[
            Literal["crop", "identity"] | None,
            typer.Option("--group-by", help="identity: the best crop of each identity only."),
        ] = None,
        cameras: Annotated[
            list[str] | None,
            typer.Option("--cameras", help="Search crops of this camera only; repeatable."),
        ] = None,
        exclude_cameras: Annotated[
            list[str] | None,
            typer.Option("--exclude-cameras", help="Search no crop of this camera; repeatable."),
        ] = None,
        after: Annotated[
            str | None,
            typer.Option("--after", help="Captured at this time or later: 2026-03-01T09:30:00Z."),
        ] = None,
        before: Annotated[
            str | None, typer.Option("--before", help="Captured at this time or earlier.")
        ] = None,
        url: UrlOption = DEFAULT_URL,
        gallery: GalleryOption = DEFAULT_GALLERY,
        api_key: ApiKeyOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Asks the service who is on an image, or how well it answers a labelled data set.

        With --data, a gallery crop of the query's own person and camera is left out of its ranking,
        as the field's protocol demands.

        Example: gmn query suspect.jpg --top-k 5

        Example: gmn query front.jpg side.jpg --cameras east --after 2026-03-01T00:00:00Z

        Example: gmn query --data cuhk01:/data/cuhk01 --camera B
        """
        if bool(images) == bool(data):
            raise typer.BadParameter("name either images or --data KIND:PATH")
        narrowed = {
            "group_by": group_by,
            "cameras": cameras,
            "exclude_cameras": exclude_cameras,
            "captured_after": _moment("--after", after),
            "captured_before": _moment("--before", before),
        }
        if data and any(narrowed.values()):
            raise typer.BadParameter(
                "--group-by, --cameras, --exclude-cameras, --after and --before go with images: "
                "--data measures whole rankings"
            )
        asked = {
            "scoring": scoring,
            "rerank_depth": rerank_depth,
            "top_k": top_k,
            "operating_point": operating_point,
            "purpose": purpose,
            **narrowed,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        options = cast("QueryOptions", given)
        with connect(url, api_key, gallery) as client:
            if images:
                options.setdefault("top_k", RESULTS_SHOWN)
                _ask_images(client, images, separate, options, as_json)
                return
            with open_source(data or "", read_spec) as source:
                crops = source.in_split(split).under(camera).crops[:limit]
                summary = _ask_data(client, crops, options, rank_figures)
        if as_json:
            output().print_json(data=summary)
        else:
            show_summary(output(), summary)

    return query


def _moment(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option} {text}: write it as 2026-03-01T09:30:00Z") from error
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{option} {text}: needs a time zone, such as {text}Z")
    return moment


def _ask_images(
    client: Client, images: list[Path], separate: bool, options: QueryOptions, as_json: bool
) -> None:
    groups = [[image] for image in images] if separate else [images]
    rankings = [client.query(*group, **options) for group in groups]
    if as_json:
        answers = [ranking.model_dump(mode="json") for ranking in rankings]
        output().print_json(data={"results": answers} if separate else answers[0])
        return
    titles = [", ".join(image.name for image in group) for group in groups]
    show_rankings(output(), dict(zip(titles, rankings, strict=True)))


def _ask_data(
    client: Client,
    crops: tuple[SourceCrop, ...],
    options: QueryOptions,
    rank_figures: RankFigures,
) -> dict[str, Any]:
    crops_enrolled = client.gallery().crops
    if crops_enrolled == 0:
        raise InputProblem(
            f"--gallery {client.gallery_name}: is empty; fill it with gmn enroll first"
        )
    options.setdefault("top_k", min(crops_enrolled, MOST_RESULTS))
    whole = options["top_k"] >= crops_enrolled
    labels = None if whole else [(crop.identity, crop.camera) for crop in client.crops()]
    counted = QuerySummary(rank_figures, labels)
    started = time.perf_counter()
    with progress_bar() as progress:
        task = progress.add_task("Querying", total=len(crops))
        for answered in ask_each(client, crops, options, AT_ONCE):
            counted.add(answered)
            progress.advance(task)
    seconds = time.perf_counter() - started
    return {
        "gallery": client.gallery_name,
        "gallery_crops": crops_enrolled,
        "whole_rankings": whole,
        **options,
        **counted.result(),
        "in_flight": AT_ONCE,
        "queries_per_second": len(crops) / max(seconds, 1e-9),
    }
