"""`gmn gallery`, `identities`, `crops`, `rename` and `compare`: a served gallery over HTTP."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, TypedDict, Unpack

from typer import Argument, BadParameter, Option

from gmn_client import DEFAULT_GALLERY, Client
from gmn_client.models import CropOrder, IdentityOrder, RetentionFrom, Scoring
from model.problems import InputProblem
from service.commands.common import (
    Column,
    LimitOption,
    Shown,
    YesOption,
    client_command,
    command_group,
    confirmed,
    follow,
    listed,
    percent,
    plain_table,
    table_of,
    with_client,
)
from service.commands.query import TimeOptions

NameArgument = Annotated[str, Argument(metavar="NAME", help="Which gallery.")]
KEPT_DAYS = "{0.retention_days} ({0.retention_from})"
GALLERY_COLUMNS: tuple[Column, ...] = (
    *(("gallery", "name"), "crops", "identities", "state"),
    ("keeps days", lambda one: KEPT_DAYS.format(one) if one.retention_days else "all"),
    ("calibration", "calibration.state"),
)


class SettingOptions(TypedDict, total=False):
    """Settings of a gallery."""

    retention_days: Annotated[
        int, Option(min=0, help="Days after which crops are deleted; 0 keeps all.")
    ]
    retention_from: Annotated[RetentionFrom, Option(help="What a crop's age counts from.")]
    calibration: Annotated[
        Literal["on", "frozen", "off", "reset"], Option(help="Of the gallery's thresholds.")
    ]


class GroupOptions(TimeOptions, total=False):
    """Which crops without a name are grouped."""

    camera: Annotated[str, Option(help="Of this camera only.")]


class CropOptions(GroupOptions, total=False):
    """Which crops are listed, and in which order."""

    identity: Annotated[str, Option(help="Of this identity only.")]
    unnamed: Annotated[bool, Option("--unnamed", help="Without an identity only.")]
    external_id: Annotated[str, Option(help="With this id of yours only.")]
    order: Annotated[CropOrder, Option(help="By enrollment or capture; enrolled if unset.")]


gallery = command_group(
    """Lists, creates, shows, sets up and deletes galleries.

    Example: gmn gallery create lobby --retention-days 90
    """
)


@client_command(gallery, "list")
def list_galleries(client: Client) -> Shown:
    """Lists the galleries of the key."""
    return listed(client.galleries(), GALLERY_COLUMNS)


@client_command(gallery, "show")
def show_gallery(client: Client, gallery: NameArgument = DEFAULT_GALLERY) -> Shown:
    """Shows a gallery's size and settings."""
    found = client.gallery(gallery)
    return Shown(found, table_of([found], GALLERY_COLUMNS))


@client_command(gallery, "create")
def create(client: Client, gallery: NameArgument, **settings: Unpack[SettingOptions]) -> Shown:
    """Creates an empty gallery. The key needs the scope admin."""
    return Shown(client.create_gallery(gallery, **settings), f"Gallery {gallery} is created.")


@client_command(gallery, "set")
def change(client: Client, gallery: NameArgument, **settings: Unpack[SettingOptions]) -> Shown:
    """Changes the settings that are given; the others stay. The key needs the scope admin.

    Example: gmn gallery set lobby --calibration frozen
    """
    if not settings:
        raise BadParameter("name a setting: --retention-days, --retention-from or --calibration")
    changed = client.change_gallery(gallery, **settings)
    return Shown(changed, table_of([changed], GALLERY_COLUMNS))


@client_command(gallery, "delete")
def delete(client: Client, gallery: NameArgument, yes: YesOption = False) -> Shown:
    """Deletes a gallery with its crops and snapshots. The key needs the scope admin."""
    confirmed(yes, f"delete {gallery}", f"Delete gallery {gallery} and its snapshots?")
    removed = client.delete_gallery(gallery)
    return Shown(removed, f"Gallery {gallery} is deleted with {removed.removed:,} crops.")


@with_client
def identities(
    client: Client,
    query: Annotated[str, Argument(metavar="TEXT", help="A part of the name.")] = "",
    sort: Annotated[IdentityOrder, Option(help="By name, last seen first, most crops.")] = "name",
    limit: LimitOption = 1000,
) -> Shown:
    """Lists the identities of a gallery.

    Example: gmn identities ann --sort last_seen
    """
    found = islice(client.identities(query=query, sort=sort), limit)
    return listed(found, ["identity", "crops", "cameras", ("last seen (UTC)", "last_seen")])


@with_client
def similar(
    client: Client,
    identity: Annotated[str, Argument(help="The identity, as enrolled.")],
    limit: LimitOption = 10,
) -> Shown:
    """Lists identities that may be the same person as this one, the most alike first.

    gmn rename merges two.

    Example: gmn similar 0042 --gallery entrance
    """
    probability: Column = ("probability", lambda one: percent(one.probability))
    columns = ("identity", probability, "verdict", "crops", ("crop", "crop_id"))
    return listed(client.similar(identity, limit=limit), columns)


@with_client
def group(client: Client, **chosen: Unpack[GroupOptions]) -> Shown:
    """Groups crops without a name by person, and lists the groups. The key needs the scope admin.

    At most 5,000 crops; the largest group comes first. Nothing is named.

    Example: gmn group --camera east
    """
    job = follow(client, client.group_unnamed(**chosen), "Grouping")
    if job.state != "done":
        raise InputProblem(f"job {job.job_id} is {job.state}: {job.detail or 'it was cancelled'}")
    found = client.groups()
    rows = (
        (number, len(one.crop_ids), f"{one.cohesion:.3f}", one.crop_ids[0])
        for number, one in enumerate(found.results, 1)
    )
    table = plain_table(("group", "crops", "cohesion", "first crop"), rows)
    table.caption = f"{found.single:,} crops are in no group."
    return Shown(found, table)


@with_client
def crops(client: Client, limit: LimitOption = 1000, **chosen: Unpack[CropOptions]) -> Shown:
    """Lists crops of a gallery.

    Example: gmn crops --unnamed --order=-captured --limit 20
    """
    captured = ("captured (UTC)", "captured_at")
    own_id = ("external id", "external_id")
    columns = (("crop", "crop_id"), "identity", "camera", captured, own_id)
    return listed(islice(client.crops(**chosen), limit), columns)


@with_client
def rename(
    client: Client,
    identity: Annotated[str | None, Argument(help="The identity, as enrolled.")] = None,
    new_identity: Annotated[str | None, Argument(help="Its new name; merges with another.")] = None,
    undo: Annotated[str | None, Option(metavar="MERGE", help="Undo this merge.")] = None,
) -> Shown:
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
    return Shown(done, text)


@with_client
def compare(
    client: Client,
    first: Annotated[Path, Argument(metavar="A", help="An image.")],
    second: Annotated[Path, Argument(metavar="B", help="Another one.")],
    scoring: Annotated[Scoring | None, Option(help="The artefact's default if unset.")] = None,
    operating_point: Annotated[str | None, Option(help="pair_far_1e-3 if unset.")] = None,
) -> Shown:
    """Compares two images: whether they show the same person, as a pair without a search.

    Example: gmn compare a.jpg b.jpg
    """
    scored = client.pairs(first, second, scoring=scoring, operating_point=operating_point)
    logit = "" if scored.logit is None else f", logit {scored.logit:.2f}"
    chance = f"probability {percent(scored.probability)}, cosine {scored.cosine:.3f}"
    return Shown(scored, f"{scored.verdict}: {chance}{logit}")
