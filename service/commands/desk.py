"""`gmn searches`, `gmn review` and `gmn case`: kept searches, decisions on them, and cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypedDict, Unpack

from rich.console import Group
from typer import Argument, Option

from gmn_client import Client
from service.commands.common import (
    Column,
    Shown,
    YesOption,
    client_command,
    command_group,
    confirmed,
    listed,
    table_of,
    with_client,
)
from service.commands.query import answer_view

QueryId = Annotated[str, Argument(metavar="SEARCH", help="A kept search's id.")]
CaseId = Annotated[str, Argument(metavar="CASE", help="A case's id.")]
Everyone = Annotated[bool, Option("--everyone", help="Those of all keys; needs admin.")]
SEARCH_COLUMNS: tuple[Column, ...] = (
    *(("search", "query_id"), ("asked (UTC)", "created_at"), "verdict"),
    ("first result", lambda one: one.best and one.best.identity),
    *("confirmed", "rejected", "purpose"),
)


class ReviewOptions(TypedDict, total=False):
    """What follows a confirmation."""

    identity: Annotated[str, Option(help="Confirmed crops' name from now on.")]
    enroll: Annotated[bool, Option("--enroll", help="Enroll the kept picture too.")]
    camera: Annotated[str, Option(help="With --enroll: the picture's camera.")]


searches = command_group(
    """Lists kept searches, opens them again, and deletes them; gmn query --keep keeps one.

    Example: gmn searches list --gallery entrance
    """
)
case = command_group(
    """Lists, makes, fills, exports and deletes cases of kept searches.

    Example: gmn case list --gallery entrance
    """
)


@client_command(searches, "list")
def list_searches(client: Client, everyone: Everyone = False) -> Shown:
    """Lists the kept searches of the key, the newest first."""
    nothing = f"The key keeps no search of gallery {client.gallery_name}; gmn query --keep does."
    return listed(client.kept_searches(everyone=everyone), SEARCH_COLUMNS, nothing)


@client_command(searches, "show")
def show_search(client: Client, query_id: QueryId) -> Shown:
    """Opens a kept search under the names of now, with its decisions."""
    opened = client.kept_search(query_id)
    view = answer_view(f"search of {opened.created_at:%Y-%m-%d %H:%M} UTC", opened.answer)
    reviews = table_of(opened.reviews, [("crop", "crop_id"), "identity", "decision"])
    return Shown(opened, Group(view, *([reviews] if opened.reviews else [])))


@client_command(searches, "delete")
def delete_search(client: Client, query_id: QueryId) -> Shown:
    """Deletes a kept search with its picture, from cases too."""
    client.delete_kept_search(query_id)
    return Shown({"query_id": query_id}, f"Search {query_id} is deleted.")


@with_client
def review(
    client: Client,
    query_id: QueryId,
    decision: Annotated[Literal["confirmed", "rejected", "open"], Argument()],
    crop_ids: Annotated[list[str], Argument(metavar="CROP", help="Results of the search.")],
    **following: Unpack[ReviewOptions],
) -> Shown:
    """Notes whether results of a kept search show the person; open takes a decision back.

    gmn train adapt --reviews GALLERY trains on the decisions.

    Example: gmn review 0198f2c6a1b27d1c3e5f9a0b4c6d8e2f confirmed 0198f2c5 --identity Ann
    """
    found = client.review(query_id, *crop_ids, decision=decision, **following)
    text = f"{found.confirmed} confirmed, {found.rejected} rejected"
    text += f", enrolled as {found.enrolled_crop_id}" if found.enrolled_crop_id else ""
    return Shown(found, text)


@client_command(case, "list")
def list_cases(client: Client) -> Shown:
    """Lists the cases, the newest first."""
    columns = (("case", "case_id"), "name", ("searches", "count"), ("changed (UTC)", "changed_at"))
    return listed(client.cases(), columns, f"There is no case in gallery {client.gallery_name}.")


@client_command(case, "create")
def create_case(
    client: Client,
    name: Annotated[str, Argument(help="Its name.")],
    notes: Annotated[str, Option(help="What is known.")] = "",
) -> Shown:
    """Begins a case; its id is the last word of the output.

    Example: gmn case create "Bag at gate 3" --gallery entrance
    """
    made = client.create_case(name, notes)
    return Shown(made, f"Case {made.name}: {made.case_id}")


@client_command(case, "add")
def add_search(
    client: Client,
    case_id: CaseId,
    query_id: QueryId,
    note: Annotated[str, Option(help="A note on the search in this case.")] = "",
) -> Shown:
    """Puts a kept search into a case, or changes the note on it there.

    Example: gmn case add CASE SEARCH --note "same coat" --gallery entrance
    """
    changed = client.hold_search(case_id, query_id, note)
    return Shown(changed, f"Case {changed.name} holds {changed.count} searches.")


@client_command(case, "export")
def export_case(
    client: Client, case_id: CaseId, out: Annotated[Path, Option(help="The ZIP to write.")]
) -> Shown:
    """Writes a case as ZIP: a page, the pictures, a table, and the SHA-256 of each.

    Example: gmn case export CASE --out case.zip --gallery entrance
    """
    out.write_bytes(client.export_case(case_id))
    return Shown({"file": str(out)}, f"{out}: unpack it and open index.html")


@client_command(case, "delete")
def delete_case(client: Client, case_id: CaseId, yes: YesOption = False) -> Shown:
    """Deletes a case with the searches that no other case holds."""
    confirmed(yes, f"delete {case_id}", f"Delete case {case_id} and its searches?")
    removed = client.delete_case(case_id)
    return Shown(removed, f"The case is deleted with {removed.removed} searches.")
