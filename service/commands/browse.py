"""Commands that list, configure, rename and remove over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Unpack

from rich.console import Group
from rich.markup import escape
from typer import Argument, BadParameter, Option

from gmn_client import DEFAULT_GALLERY, Client
from gmn_client.models import CropOrder, Gallery, IdentityOrder, Job
from gmn_client.uploads import GalleryOptions
from model.problems import InputProblem
from service.commands.common import (
    Columns,
    LimitOption,
    Shown,
    YesOption,
    client_command,
    command_group,
    confirmed,
    follow,
    listed,
    plain_table,
    shortened,
    table_of,
    with_client,
)
from service.commands.query import TimeOptions

PROBLEMS_SHOWN = 20
NameArgument = Annotated[str, Argument(metavar="NAME", help="Which gallery.")]


def _retention(gallery: Gallery) -> str:
    if not gallery.retention_days:
        return "all"
    return f"{gallery.retention_days} ({gallery.retention_from})"


GALLERY_COLUMNS: Columns = {
    "gallery": "name",
    "crops": "crops",
    "identities": "identities",
    "state": "state",
    "keeps days": _retention,
    "calibration": "calibration.state",
}


class GroupOptions(TimeOptions, total=False):
    """Filters of the crops without a name that are grouped."""

    camera: Annotated[str, Option(help="Of this camera only.")]


class CropOptions(GroupOptions, total=False):
    """Filters and order of the crops that are listed."""

    identity: Annotated[str, Option(help="Of this identity only.")]
    unnamed: Annotated[bool, Option("--unnamed", help="Without an identity only.")]
    track: Annotated[str, Option(help="Of this track only; with --camera of that camera.")]
    external_id: Annotated[str, Option(help="With this id of yours only.")]
    order: Annotated[CropOrder, Option(help="By enrollment or capture; enrolled if unset.")]


gallery = command_group(
    """Lists, creates, shows, sets up and deletes galleries.

    Example: gmn gallery create lobby --retention-days 90
    """
)


@client_command(gallery, "list")
def list_galleries(client: Client) -> Shown:
    """Lists the galleries that the key may use."""
    return listed(client.galleries(), GALLERY_COLUMNS)


@client_command(gallery, "show")
def show_gallery(client: Client, gallery: NameArgument = DEFAULT_GALLERY) -> Shown:
    """Shows the size and settings of a gallery."""
    description = client.gallery(gallery)
    return Shown(description, table_of([description], GALLERY_COLUMNS))


@client_command(gallery, "create")
def create(client: Client, gallery: NameArgument, **settings: Unpack[GalleryOptions]) -> Shown:
    """Creates an empty gallery. The key needs the scope admin."""
    return Shown(client.create_gallery(gallery, **settings), f"Gallery {gallery} is created.")


@client_command(gallery, "set")
def change(client: Client, gallery: NameArgument, **settings: Unpack[GalleryOptions]) -> Shown:
    """Changes settings of a gallery; omitted ones stay. The key needs the scope admin.

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
    people = islice(client.identities(query=query, sort=sort), limit)
    columns = {"identity": "identity", "crops": "crops", "cameras": "cameras"}
    return listed(people, {**columns, "last seen (UTC)": "last_seen"})


@with_client
def group(client: Client, **chosen: Unpack[GroupOptions]) -> Shown:
    """Groups unnamed crops by person and lists the groups. The key needs the scope admin.

    At most 5,000 crops; the largest group comes first. No crop is named.

    Example: gmn group --camera east
    """
    job = follow(client, client.group_unnamed(**chosen), "Grouping")
    if job.state != "done":
        raise InputProblem(f"job {job.job_id} is {job.state}: {job.detail or 'it was cancelled'}")
    groups = client.groups()
    rows = (
        (number, len(group.crop_ids), f"{group.cohesion:.3f}", group.crop_ids[0])
        for number, group in enumerate(groups.results, 1)
    )
    table = plain_table(("group", "crops", "cohesion", "first crop"), rows)
    table.caption = f"{groups.single:,} crops are in no group."
    return Shown(groups, table)


@with_client
def crops(client: Client, limit: LimitOption = 1000, **chosen: Unpack[CropOptions]) -> Shown:
    """Lists crops of a gallery.

    Example: gmn crops --unnamed --order=-captured --limit 20
    """
    columns = {
        "crop": "crop_id",
        "identity": "identity",
        "camera": "camera",
        "captured (UTC)": "captured_at",
        "track": "track",
        "external id": "external_id",
    }
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
        renamed = client.undo_merge(undo)
    elif identity and new_identity:
        renamed = client.rename_identity(identity, new_identity)
    else:
        raise BadParameter("name the identity and its new name, or --undo MERGE")
    text = f"{renamed.changed:,} crops are of {renamed.identity} now."
    if renamed.merge_id:
        text += f" This was a merge; gmn rename --undo {renamed.merge_id} undoes it."
    return Shown(renamed, text)


@with_client
def forget(
    client: Client,
    identity: Annotated[str, Argument(help="The identity, as enrolled.")],
    yes: YesOption = False,
) -> Shown:
    """Removes a person from a gallery and its snapshots, and lists what remains.

    It cannot be undone: no restore brings them back. On a terminal the command asks first; without
    one it needs --yes. The key needs the scope admin.

    Example: gmn forget 0042 --gallery entrance --yes
    """
    gallery = f"gallery {client.gallery_name}"
    confirmed(yes, f"forget {identity}", f"Remove {identity} from {gallery} and its snapshots?")
    forgotten = client.forget(identity)
    places = {gallery: forgotten.removed}
    places |= {f"snapshot {name}": crops for name, crops in forgotten.snapshots.items()}
    lines = [f"{crops:,} crops removed from {place}" for place, crops in places.items()]
    if forgotten.kept_searches:
        lines.append(f"Kept searches removed: {forgotten.kept_searches:,}")
    remaining = table_of(
        forgotten.remaining, {"what remains": "what", "where": "where", "until": "until"}
    )
    return Shown(forgotten, Group(*(escape(line) for line in lines), remaining))


@with_client
def reindex(
    client: Client,
    wait: Annotated[bool, Option("--wait", help="Until it is done; 1 if it fails.")] = False,
    everything: Annotated[bool, Option("--all", help="All that another model filled.")] = False,
) -> Shown:
    """Embeds galleries anew with the served model: the given one, or all that need it.

    The service does the work; a reindex in progress is continued. Until it is done, the previous
    model answers if it is a shipped one or the service was started with --previous.

    Example: gmn reindex --gallery entrance --wait

    Example: gmn reindex --all --wait
    """
    names = [client.gallery_name]
    if everything:
        names = [gallery.name for gallery in client.galleries() if gallery.state != "ready"]
    jobs = [client.reindex(name) for name in names]
    if wait:
        jobs = [follow(client, job, job.gallery) for job in jobs]
    text = "\n".join(line for job in jobs for line in _job_lines(client, job))
    nothing = "every gallery holds vectors of the served model already"
    ok = not wait or all(job.state == "done" for job in jobs)
    return Shown(jobs if everything else jobs[0], text or nothing, ok)


def _job_lines(client: Client, job: Job) -> Iterator[str]:
    progress = job.progress
    ending = f": {job.detail}" if job.detail else ""
    yield (
        f"gallery {job.gallery}: {progress.done:,} of {progress.total:,} crops, "
        f"job {job.job_id} is {job.state}{ending}"
    )
    if job.finished and job.problems:
        problems = client.job_problems(job.job_id)
        lines = [f"{problem.source}: {problem.detail}" for problem in problems]
        yield from shortened(lines, PROBLEMS_SHOWN)
