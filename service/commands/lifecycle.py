"""`gmn forget` and `gmn reindex`: administration of a gallery over HTTP."""

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
    confirmed,
    follow,
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
    return Shown(forgotten, Group(*(escape(line) for line in lines), remaining))


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
