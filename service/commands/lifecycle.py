"""`gmn forget`, `gmn snapshot` and `gmn reindex`: administration of a gallery over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from rich.console import Group
from rich.markup import escape
from typer import Argument, Option

from gmn_client import Client
from gmn_client.models import Job
from service.commands.common import (
    Shown,
    YesOption,
    client_command,
    command_group,
    confirmed,
    follow,
    listed,
    shortened,
    table_of,
    with_client,
)

PROBLEMS_SHOWN = 20


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
    remaining = table_of(forgotten.remaining, [("what remains", "what"), "where", "until"])
    return Shown(forgotten, Group(*map(escape, lines), remaining))


@with_client
def reindex(
    client: Client,
    wait: Annotated[bool, Option("--wait", help="Until it is done; 1 if it fails.")] = False,
    everything: Annotated[bool, Option("--all", help="All that another model filled.")] = False,
) -> Shown:
    """Embeds a gallery anew with the model that is served, or every one that needs it.

    The service does it by itself; a reindex under way is continued. Until it is done the model
    before answers, where it is a shipped one or the service was started with --previous.

    Example: gmn reindex --gallery entrance --wait

    Example: gmn reindex --all --wait
    """
    names = [client.gallery_name]
    if everything:
        names = [one.name for one in client.galleries() if one.state != "ready"]
    jobs = [client.reindex(name) for name in names]
    if wait:
        jobs = [follow(client, job, job.gallery) for job in jobs]
    text = "\n".join(line for job in jobs for line in _about(client, job))
    nothing = "every gallery holds vectors of the served model already"
    ok = not wait or all(job.state == "done" for job in jobs)
    return Shown(jobs if everything else jobs[0], text or nothing, ok)


def _about(client: Client, job: Job) -> Iterator[str]:
    """How far a job is and, once it has ended, its first problems."""
    done = job.progress
    ending = f": {job.detail}" if job.detail else ""
    yield (
        f"gallery {job.gallery}: {done.done:,} of {done.total:,} crops, "
        f"job {job.job_id} is {job.state}{ending}"
    )
    if job.finished and job.problems:
        problems = [f"{one.source}: {one.detail}" for one in client.job_problems(job.job_id)]
        yield from shortened(problems, PROBLEMS_SHOWN)


snapshot = command_group(
    """Copies a gallery while it is served, lists the copies, and restores one.

    The copies are in the service's own data directory. The key needs the scope admin.

    Example: gmn snapshot take --gallery entrance
    """
)


@client_command(snapshot, "take")
def take(client: Client) -> Shown:
    """Copies the gallery as it is now; the copy's id is the last word of the output."""
    taken = client.take_snapshot()
    text = f"{taken.crops:,} crops, {taken.bytes:,} bytes, as snapshot {taken.snapshot_id}"
    return Shown(taken, text)


@client_command(snapshot, "list")
def list_snapshots(client: Client) -> Shown:
    """Lists the gallery's snapshots, oldest first."""
    nothing = f"There is no snapshot of gallery {client.gallery_name}."
    taken = ("taken (UTC)", "created_at")
    columns = (("snapshot", "snapshot_id"), taken, "version", "crops", "bytes")
    return listed(client.snapshots(), columns, nothing)


@client_command(snapshot, "restore")
def restore(
    client: Client, snapshot_id: Annotated[str, Argument(help="Which one; see gmn snapshot list.")]
) -> Shown:
    """Makes the gallery what it was; what was deleted since stays deleted.

    Crops that were enrolled since are no longer in it. A damaged snapshot changes nothing.

    Example: gmn snapshot restore 20260301T093000Z-1f0c9a72 --gallery entrance
    """
    restored = client.restore_snapshot(snapshot_id)
    text = f"Gallery {client.gallery_name} holds the {restored.crops:,} crops of {snapshot_id}."
    return Shown(restored, text)
