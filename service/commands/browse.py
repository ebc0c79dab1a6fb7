"""Commands that list, configure, rename and remove over HTTP."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from gmn_client import Client
from gmn_client.models import Gallery
from service.commands.common import (
    Columns,
    Shown,
    command_group,
    follow,
    method_command,
    table_of,
    with_client,
)

SHOWN_AT_MOST = 1000


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
CROP_COLUMNS: Columns = {
    "crop": "crop_id",
    "identity": "identity",
    "camera": "camera",
    "captured (UTC)": "captured_at",
    "track": "track",
    "external id": "external_id",
}
IDENTITY_COLUMNS: Columns = {
    "identity": "identity",
    "crops": "crops",
    "cameras": "cameras",
    "last seen (UTC)": "last_seen",
}
JOB_COLUMNS: Columns = {
    "gallery": "gallery",
    "job": "job_id",
    "state": "state",
    "crops": lambda job: f"{job.progress.done:,} of {job.progress.total:,} crops",
    "problems": "problems",
    "detail": "detail",
}

gallery = command_group(
    """Lists, creates, shows, sets up and deletes galleries.

    Example: gmn gallery create lobby --retention-days 90

    Example: gmn gallery set lobby --calibration frozen
    """
)
for command, method in (
    ("list", "galleries"),
    ("show", "gallery"),
    ("create", "create_gallery"),
    ("set", "change_gallery"),
):
    gallery.command(command)(method_command("", method, GALLERY_COLUMNS, positional="name"))
gallery.command("delete")(
    method_command(
        "", "delete_gallery", question="Delete gallery {name} with its crops and snapshots?"
    )
)
identities = method_command(
    """Lists the identities of a gallery, those whose name contains QUERY.

    Example: gmn identities ann --sort last_seen
    """,
    "identities",
    IDENTITY_COLUMNS,
    positional="query",
    limit=SHOWN_AT_MOST,
)
crops = method_command(
    """Lists crops of a gallery.

    Example: gmn crops --unnamed --order=-captured --limit 20
    """,
    "crops",
    CROP_COLUMNS,
    limit=SHOWN_AT_MOST,
)
rename = method_command(
    """Renames an identity, or merges it into an existing one. The key needs the scope admin.

    A merge can be undone for 30 days: gmn api undo_merge MERGE_ID

    Example: gmn rename Bob Robert --gallery lobby
    """,
    "rename_identity",
)
forget = method_command(
    """Removes a person from a gallery and its snapshots, and lists what remains.

    It cannot be undone: no restore brings them back. On a terminal the command asks first; without
    one it needs --yes. The key needs the scope admin.

    Example: gmn forget 0042 --gallery entrance --yes
    """,
    "forget",
    question="Remove {identity} from gallery {gallery} and its snapshots?",
)


@with_client
def reindex(
    client: Client,
    wait: Annotated[bool, Option("--wait", help="Until it is done; 1 if it fails.")] = False,
    everything: Annotated[bool, Option("--all", help="All that another model filled.")] = False,
) -> Shown:
    """Embeds galleries anew with the served model: the given one, or all that need it.

    The service does the work; a reindex in progress is continued. Until it is done, the previous
    model answers if it is a shipped one or the service was started with --previous. The problems of
    a job are listed by gmn api job_problems JOB.

    Example: gmn reindex --gallery entrance --wait

    Example: gmn reindex --all --wait
    """
    names = [client.gallery_name]
    if everything:
        names = [gallery.name for gallery in client.galleries() if gallery.state != "ready"]
    jobs = [client.reindex(name) for name in names]
    if wait:
        jobs = [follow(client, job, job.gallery) for job in jobs]
    is_done = not wait or all(job.state == "done" for job in jobs)
    return Shown(jobs if everything else jobs[0], table_of(jobs, JOB_COLUMNS), is_done)
