"""`gmn gallery`, `identities`, `crops`, `rename` and `compare`: a served gallery over HTTP."""

from __future__ import annotations

from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Literal, cast

from typer import Argument, BadParameter, Option

from gmn_client import DEFAULT_GALLERY, Client
from gmn_client.gallery_calls import GalleryOptions
from gmn_client.models import CropOrder, Gallery, IdentityOrder, RetentionFrom, Scoring
from model.problems import InputProblem
from service.commands.common import (
    JsonOption,
    command_group,
    confirmed,
    follow,
    percent,
    plain_table,
    show,
    with_client,
)
from service.commands.parquet import export
from service.commands.query import AfterOption, BeforeOption

GALLERY_COLUMNS = ("gallery", "crops", "identities", "state", "keeps days", "calibration")
CROP_COLUMNS = ("crop", "identity", "camera", "captured", "external id")
NameArgument = Annotated[str, Argument(metavar="NAME", help="Which gallery.")]
DaysOption = Annotated[
    int | None, Option(min=0, help="Days after which crops are deleted; 0 keeps all.")
]
FromOption = Annotated[RetentionFrom | None, Option(help="What a crop's age counts from.")]
CalibrationOption = Annotated[
    Literal["on", "frozen", "off", "reset"] | None, Option(help="Of the gallery's thresholds.")
]
LimitOption = Annotated[int, Option(min=1, help="How many at most.")]

gallery = command_group(
    """Lists, creates, shows, sets up and deletes galleries.

    Example: gmn gallery create lobby --retention-days 90
    """
)


@gallery.command("list")
@with_client
def list_galleries(client: Client, as_json: JsonOption = False) -> None:
    """Lists the galleries of the key.

    Example: gmn gallery list
    """
    found = list(client.galleries())
    show(found, as_json, plain_table(GALLERY_COLUMNS, map(_row, found)))


@gallery.command("show")
@with_client
def show_gallery(
    client: Client, gallery: NameArgument = DEFAULT_GALLERY, as_json: JsonOption = False
) -> None:
    """Shows a gallery's size and settings.

    Example: gmn gallery show lobby
    """
    found = client.gallery(gallery)
    show(found, as_json, plain_table(GALLERY_COLUMNS, [_row(found)]))


@gallery.command("create")
@with_client
def create(
    client: Client,
    gallery: NameArgument,
    retention_days: DaysOption = None,
    retention_from: FromOption = None,
    calibration: CalibrationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Creates an empty gallery. The key needs the scope admin.

    Example: gmn gallery create lobby --retention-days 90
    """
    options = _settings(retention_days, retention_from, calibration)
    created = client.create_gallery(gallery, **options)
    show(created, as_json, f"Gallery {gallery} is created.")


@gallery.command("set")
@with_client
def change(
    client: Client,
    gallery: NameArgument,
    retention_days: DaysOption = None,
    retention_from: FromOption = None,
    calibration: CalibrationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Changes the settings that are given; the others stay. The key needs the scope admin.

    Example: gmn gallery set lobby --calibration frozen
    """
    options = _settings(retention_days, retention_from, calibration)
    if not options:
        raise BadParameter("name a setting: --retention-days, --retention-from or --calibration")
    changed = client.change_gallery(gallery, **options)
    show(changed, as_json, plain_table(GALLERY_COLUMNS, [_row(changed)]))


@gallery.command("delete")
@with_client
def delete(
    client: Client,
    gallery: NameArgument,
    yes: Annotated[bool, Option("--yes", help="Do not ask; needed without a terminal.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Deletes a gallery with its crops and snapshots. The key needs the scope admin.

    Example: gmn gallery delete lobby --yes
    """
    confirmed(yes, f"delete {gallery}", f"Delete gallery {gallery} and its snapshots?")
    removed = client.delete_gallery(gallery)
    show(removed, as_json, f"Gallery {gallery} is deleted with {removed.removed:,} crops.")


gallery.command("export")(export)


@with_client
def identities(
    client: Client,
    query: Annotated[str, Argument(metavar="TEXT", help="A part of the name.")] = "",
    sort: Annotated[IdentityOrder, Option(help="By name, last seen first, most crops.")] = "name",
    limit: LimitOption = 1000,
    as_json: JsonOption = False,
) -> None:
    """Lists the identities of a gallery.

    Example: gmn identities ann --sort last_seen
    """
    found = list(islice(client.identities(query=query, sort=sort), limit))
    columns = ("identity", "crops", "cameras", "last seen")
    rows = ((one.identity, one.crops, one.cameras, one.last_seen) for one in found)
    show(found, as_json, plain_table(columns, rows))


@with_client
def group(
    client: Client,
    camera: Annotated[str | None, Option(help="Of this camera only.")] = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Groups crops without a name by person, and lists the groups. The key needs the scope admin.

    At most 5,000 crops; the largest group comes first. Nothing is named.

    Example: gmn group --camera east
    """
    begun = client.group_unnamed(camera=camera, captured_after=after, captured_before=before)
    job = follow(client, begun, "Grouping")
    if job.state != "done":
        raise InputProblem(f"job {job.job_id} is {job.state}: {job.detail or 'it was cancelled'}")
    found = client.groups()
    columns = ("group", "crops", "cohesion", "first crop")
    rows = (
        (number, len(one.crop_ids), f"{one.cohesion:.3f}", one.crop_ids[0])
        for number, one in enumerate(found.results, 1)
    )
    table = plain_table(columns, rows)
    table.caption = f"{found.single:,} crops are in no group."
    show(found, as_json, table)


@with_client
def crops(
    client: Client,
    identity: Annotated[str | None, Option(help="Of this identity only.")] = None,
    unnamed: Annotated[bool, Option("--unnamed", help="Without an identity only.")] = False,
    camera: Annotated[str | None, Option(help="Of this camera only.")] = None,
    external_id: Annotated[str | None, Option(help="With this id of yours only.")] = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    order: Annotated[CropOrder, Option(help="By enrollment or capture.")] = "enrolled",
    limit: LimitOption = 1000,
    as_json: JsonOption = False,
) -> None:
    """Lists crops of a gallery.

    Example: gmn crops --unnamed --order=-captured --limit 20
    """
    listed = client.crops(
        identity,
        camera,
        external_id=external_id,
        unnamed=unnamed,
        captured_after=after,
        captured_before=before,
        order=order,
    )
    found = list(islice(listed, limit))
    known = attrgetter("crop_id", "identity", "camera", "captured_at", "external_id")
    rows = ([text or "–" for text in known(one)] for one in found)
    show(found, as_json, plain_table(CROP_COLUMNS, rows))


@with_client
def rename(
    client: Client,
    identity: Annotated[str | None, Argument(help="The identity, as enrolled.")] = None,
    new_identity: Annotated[str | None, Argument(help="Its new name; merges with another.")] = None,
    undo: Annotated[str | None, Option(metavar="MERGE", help="Undo this merge.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Renames an identity, or merges it into an existing one, which can be undone for 30 days.

    The key needs the scope admin.

    Example: gmn rename Bob Robert --gallery lobby
    """
    if undo is not None:
        done = client.undo_merge(undo)
    elif identity and new_identity:
        done = client.rename_identity(identity, new_identity)
    else:
        raise BadParameter("name the identity and its new name, or --undo MERGE")
    text = f"{done.changed:,} crops are of {done.identity} now."
    if done.merge_id:
        text += f" This was a merge; gmn rename --undo {done.merge_id} undoes it."
    show(done, as_json, text)


@with_client
def compare(
    client: Client,
    first: Annotated[Path, Argument(metavar="A", help="An image.")],
    second: Annotated[Path, Argument(metavar="B", help="Another one.")],
    scoring: Annotated[Scoring | None, Option(help="The artefact's default if unset.")] = None,
    operating_point: Annotated[str | None, Option(help="pair_far_1e-3 if unset.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compares two images: whether they show the same person, as a pair without a search.

    Example: gmn compare a.jpg b.jpg
    """
    scored = client.pairs(first, second, scoring=scoring, operating_point=operating_point)
    logit = "" if scored.logit is None else f", logit {scored.logit:.2f}"
    text = (
        f"{scored.verdict}: probability {percent(scored.probability)}, cosine {scored.cosine:.3f}"
    )
    show(scored, as_json, text + logit)


def _row(one: Gallery) -> tuple[object, ...]:
    days = "all" if one.retention_days is None else f"{one.retention_days} ({one.retention_from})"
    return one.name, one.crops, one.identities, one.state, days, one.calibration.state


def _settings(days: int | None, since: str | None, calibration: str | None) -> GalleryOptions:
    given = {"retention_days": days, "retention_from": since, "calibration": calibration}
    return cast("GalleryOptions", {name: one for name, one in given.items() if one is not None})
