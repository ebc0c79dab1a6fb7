"""`gmn people` finds people on a photo; `gmn query` searches for one, or measures a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

from rich.console import Group, RenderableType
from rich.text import Text
from typer import Argument, BadParameter, Context, Option
from typing_extensions import Unpack

from gmn_client import Client
from gmn_client.commands.common import (
    Columns,
    Shown,
    counted,
    plain_table,
    table_of,
    with_client,
)
from gmn_client.methods import AskedOptions
from gmn_client.models import GalleriesAnswer, People, QueryAnswer, RankedCrop

VERDICT_STYLES = {
    "match": "bold green",
    "uncertain": "yellow",
    "no_match": "red",
    "nothing_searched": "yellow",
}
NOTHING_SEARCHED = "the gallery is empty, or none of its crops passes the filters"


def format_probability(probability: float | None) -> str | None:
    if probability is None:
        return None
    # Displayed probabilities stay below 100%: no score is certain.
    return "> 99.9%" if probability > 0.999 else f"{probability:.1%}"


def _format_verdict(row: RankedCrop) -> Text | None:
    return row.verdict and Text(row.verdict, VERDICT_STYLES[row.verdict])


def _format_time(row: RankedCrop) -> str | None:
    return None if row.time_log_odds is None else f"{row.time_log_odds:+.1f}"


RESULT_COLUMNS: Columns = {
    "rank": "rank",
    "crop": "crop_id",
    "identity": "identity",
    "camera": "camera",
    "cosine": "cosine",
    "logit": "pair_logit",
    "probability": lambda row: format_probability(row.probability),
    "verdict": _format_verdict,
}


TRACK_COLUMNS: Columns = {
    "track": "track",
    "crops": "crops",
    "first seen or enrolled": "first_seen",
    "last seen or enrolled": "last_seen",
}


# The number is that of `--person`.
PERSON_COLUMNS = ("person", "x", "y", "width", "height", "score")
# Query options that also apply to the measurement on a labelled data set.
MEASURED = {"top_k", "scoring", "order", "rerank_depth", "purpose", "operating_point", "camera"}


@with_client
def people(
    client: Client,
    photo: Annotated[Path, Argument(metavar="PHOTO")],
    purpose: Annotated[str | None, Option(help="Reason, for the audit log.")] = None,
) -> Shown:
    """Finds the people on a photo, which the service does not keep, and prints their boxes.

    Example: gmn people photo.jpg
    """
    found = client.people(photo, purpose=purpose)
    return Shown(found, _format_people(photo, found))


def _format_people(photo: Path, found: People) -> Group:
    people = counted(len(found.people), "person", "people")
    title = f"{photo.name}: {found.width}×{found.height} pixels, {people} found"
    rows = (
        (person.number, person.x, person.y, person.width, person.height, person.score)
        for person in sorted(found.people, key=lambda person: person.number)
    )
    return Group(Text(title), plain_table(PERSON_COLUMNS, rows))


@with_client
def query(
    client: Client,
    context: Context,
    images: Annotated[
        list[Path] | None, Argument(metavar="IMAGE", help="Several are one person.")
    ] = None,
    data: str | None = None,
    split: str | None = None,
    limit: Annotated[int | None, Option(min=1, help="With --data: the first N images.")] = None,
    separate: bool = False,
    galleries: str | None = None,
    find: bool = False,
    person: Annotated[int | None, Option(min=1, help="With --find: its number.")] = None,
    **options: Unpack[AskedOptions],
) -> Shown:
    """Asks the service who is on an image, or how well it answers a labelled data set.

    With --data, a gallery crop of the query's own person and camera is left out of its ranking,
    as the field's protocol demands, and --camera chooses among the images. --keep keeps the picture
    too, unless --no-keep-picture is given.

    Example: gmn query suspect.jpg --top-k 5

    Example: gmn query photo.jpg --box 0,0,32,64

    Example: gmn query street.jpg --find --person 2

    Example: gmn query front.jpg side.jpg --cameras east --after 2026-03-01T00:00:00Z

    Example: gmn query suspect.jpg --galleries entrance,yard

    Example: gmn query suspect.jpg --unnamed --metadata '{"shift": "night"}'

    Example: gmn query photo.jpg --group-by identity

    Example: gmn query --data cuhk01:/data/cuhk01 --camera B

    Args:
        data: one query per image of KIND:PATH, a manifest or folder.
        split: with --data: images of this split only.
        separate: one query per IMAGE.
        galleries: search these at once, comma-separated; empty for all that the key may see.
        find: find the people on the one IMAGE, a photo, and search for the only one or --person.
    """
    by_crops = bool(options.get("crop_id") or options.get("track"))
    if bool(images) + bool(data) + by_crops != 1:
        raise BadParameter("name either images, --crop, --track or --data KIND:PATH")
    if person and not find:
        raise BadParameter("--person chooses among the people that --find finds; add --find")
    if find and (not images or len(images) != 1 or options.get("boxes")):
        raise BadParameter("--find looks at one photo: name one IMAGE, without --box")
    if find and images:
        found = client.people(images[0], purpose=options.get("purpose"))
        chosen = [other.box for other in found.people if person in (None, other.number)]
        if len(chosen) != 1:
            return _ask_for_person(images[0], found, person)
        options["boxes"] = chosen
    if not data:
        if split or limit:
            raise BadParameter("--split and --limit choose among the images of --data")
        return _send_queries(client, images or [], separate, galleries, options)
    if separate or galleries is not None or options.keys() - MEASURED:
        raise BadParameter(
            "--separate, --box, --keep, --galleries, --group-by and what chooses among the "
            "gallery's crops go with images: --data asks one query per image and measures whole "
            "rankings"
        )
    camera = options.pop("camera", None)
    crops = context.obj.find_source(data, split, camera).crops[:limit]
    return cast(Shown, context.obj.measure(client, crops, options))


def _ask_for_person(photo: Path, found: People, person: int | None) -> Shown:
    if not found.people:
        remedy = "nobody was found; give the box of a person with --box X,Y,WIDTH,HEIGHT"
    elif person is None:
        remedy = "name one of these people with --person NUMBER"
    else:
        remedy = f"there is no person {person}; name one of these with --person NUMBER"
    return Shown(found, Group(_format_people(photo, found), Text(remedy)), ok=False)


def _send_queries(
    client: Client,
    images: list[Path],
    separate: bool,
    galleries: str | None,
    options: AskedOptions,
) -> Shown:
    if options.get("keep"):
        options.setdefault("keep_picture", bool(images))
    groups = [[image] for image in images] if separate and images else [images]
    answers: list[QueryAnswer | GalleriesAnswer] = [
        client.query(*group, **options)
        if galleries is None
        else client.query_galleries(*group, galleries=[galleries], **options)
        for group in groups
    ]
    names = options.get("crop_id") or [options.get("track", "")]
    views = (
        _format_answer(", ".join([image.name for image in group] or names), answer)
        for group, answer in zip(groups, answers, strict=True)
    )
    return Shown(answers if separate else answers[0], Group(*views))


def _format_answer(title: str, answer: QueryAnswer | GalleriesAnswer) -> Group:
    verdict = (answer.verdict, VERDICT_STYLES[answer.verdict])
    lines: list[RenderableType] = [Text.assemble(f"{title}: ", verdict)]
    if answer.verdict == "nothing_searched":
        lines.append(Text(NOTHING_SEARCHED, "yellow"))
    lines += [Text.assemble(("warning:", "yellow"), f" {text}") for text in answer.warnings]
    columns = RESULT_COLUMNS
    if any(row.external_id is not None for row in answer.results):
        columns = {**columns, "external id": "external_id"}
    if any(row.time_log_odds is not None for row in answer.results):
        columns = {**columns, "time": _format_time}
    if any(row.first_seen for row in answer.results):
        columns = {**columns, **TRACK_COLUMNS}
    if isinstance(answer, GalleriesAnswer):
        columns = {"gallery": "gallery", **columns}
        end = (
            f"false alarms: {answer.far:g} of all galleries, {answer.gallery_far:g} of each; "
            f"{answer.timing_ms.total:.1f} ms\n"
        )
        return Group(*lines, table_of(answer.results, columns), end)
    ends = [
        f"{counted(answer.candidates_scored, 'candidate')} scored, {answer.timing_ms.total:.1f} ms",
        f"{answer.calibration.basis}\n",
    ]
    if answer.query_id:
        ends.append(f"kept as search {answer.query_id}; gmn api review notes who its results are")
    return Group(*lines, table_of(answer.results, columns), *ends)
