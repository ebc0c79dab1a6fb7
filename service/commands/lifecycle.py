"""`gmn forget`, `gmn snapshot` and `gmn reindex`: administration of a gallery over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from typer import Argument, Exit, Option

from gmn_client import Client
from gmn_client.models import Job
from service.commands.common import (
    JsonOption,
    command_group,
    confirmed,
    follow,
    output,
    plain_table,
    show,
    with_client,
)

PROBLEMS_SHOWN = 20


@with_client
def forget(
    client: Client,
    identity: Annotated[str, Argument(help="The identity, as enrolled.")],
    yes: Annotated[bool, Option("--yes", help="Do not ask; needed without a terminal.")] = False,
    as_json: JsonOption = False,
) -> None:
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
    show(forgotten, as_json, "\n".join(lines))
    if forgotten.remaining and not as_json:
        rows = ((one.what, one.where, one.until) for one in forgotten.remaining)
        output().print(plain_table(("what remains", "where", "until"), rows))


@with_client
def reindex(
    client: Client,
    wait: Annotated[bool, Option("--wait", help="Until it is done; 1 if it fails.")] = False,
    everything: Annotated[bool, Option("--all", help="All that another model filled.")] = False,
    as_json: JsonOption = False,
) -> None:
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
    show(jobs if everything else jobs[0], as_json, text or nothing)
    if wait and any(job.state != "done" for job in jobs):
        raise Exit(1)


def _about(client: Client, job: Job) -> Iterator[str]:
    """How far a job is and, once it has ended, its first problems."""
    done, ending = job.progress, f": {job.detail}" if job.detail else ""
    yield (
        f"gallery {job.gallery}: {done.done:,} of {done.total:,} crops, "
        f"job {job.job_id} is {job.state}{ending}"
    )
    if job.finished and job.problems:
        for problem in client.job_problems(job.job_id)[:PROBLEMS_SHOWN]:
            yield f"{problem.source}: {problem.detail}"
        if job.problems > PROBLEMS_SHOWN:
            yield f"and {job.problems - PROBLEMS_SHOWN:,} more"


snapshot = command_group(
    """Copies a gallery while it is served, lists the copies, and restores one.

    The copies are in the service's own data directory. The key needs the scope admin.

    Example: gmn snapshot take --gallery entrance
    """
)


@snapshot.command("take")
@with_client
def take(client: Client, as_json: JsonOption = False) -> None:
    """Copies the gallery as it is now; the copy's id is the last word of the output.

    Example: gmn snapshot take --gallery entrance
    """
    taken = client.take_snapshot()
    text = f"{taken.crops:,} crops, {taken.bytes:,} bytes, as snapshot {taken.snapshot_id}"
    show(taken, as_json, text)


@snapshot.command("list")
@with_client
def list_snapshots(client: Client, as_json: JsonOption = False) -> None:
    """Lists the gallery's snapshots, oldest first.

    Example: gmn snapshot list --gallery entrance
    """
    found = list(client.snapshots())
    titles = ("snapshot", "taken", "version", "crops", "bytes")
    rows = (
        (
            one.snapshot_id,
            one.created_at.isoformat(timespec="seconds"),
            *(f"{count:,}" for count in (one.version, one.crops, one.bytes)),
        )
        for one in found
    )
    nothing = f"There is no snapshot of gallery {client.gallery_name}."
    show(found, as_json, plain_table(titles, rows) if found else nothing)


@snapshot.command("restore")
@with_client
def restore(
    client: Client,
    snapshot_id: Annotated[str, Argument(help="Which one; see gmn snapshot list.")],
    as_json: JsonOption = False,
) -> None:
    """Makes the gallery what it was; what was deleted since stays deleted.

    Crops that were enrolled since are no longer in it. A damaged snapshot changes nothing.

    Example: gmn snapshot restore 20260301T093000Z-1f0c9a72 --gallery entrance
    """
    restored = client.restore_snapshot(snapshot_id)
    text = f"Gallery {client.gallery_name} holds the {restored.crops:,} crops of {snapshot_id}."
    show(restored, as_json, text)
