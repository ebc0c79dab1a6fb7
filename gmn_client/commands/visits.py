"""`gmn visits`: where and when a person was seen."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from rich.console import Group, RenderableType
from rich.text import Text
from typer import Argument, BadParameter
from typing_extensions import Unpack

from gmn_client import Client
from gmn_client.commands.common import Columns, Shown, counted, table_of, with_client
from gmn_client.commands.query import NOTHING_SEARCHED, VERDICT_STYLES, format_probability
from gmn_client.methods import VisitsOptions
from gmn_client.models import PersonVisits, Visit, VisitsAnswer

# Options that also apply to the visits of a person with a name.
OF_IDENTITY = {"identities", "captured_after", "captured_before"}


def _format_gap(visit: Visit) -> str | None:
    return None if visit.gap_seconds is None else str(timedelta(seconds=round(visit.gap_seconds)))


SEEN_COLUMNS: Columns = {
    "first seen": "first_seen",
    "last seen": "last_seen",
    "camera": "camera",
    "crops": "crops",
}
FOUND_COLUMNS: Columns = {
    **SEEN_COLUMNS,
    "identity": "identity",
    "group": "group_id",
    "probability": lambda visit: format_probability(visit.probability),
    "best crop": lambda visit: visit.crop_ids[0],
}
LINKED_COLUMNS: Columns = {
    **SEEN_COLUMNS,
    "after": _format_gap,
    "same person": lambda visit: format_probability(visit.link_probability),
    "best crop": lambda visit: visit.crop_ids[0],
}


@with_client
def visits(
    client: Client,
    images: Annotated[
        list[Path] | None, Argument(metavar="IMAGE", help="Several are one person.")
    ] = None,
    galleries: str | None = None,
    group: str | None = None,
    **options: Unpack[VisitsOptions],
) -> Shown:
    """Asks the service where and when a person was seen.

    The person is on the images, or is --identity NAME or --group ID of the gallery. With images
    --identity chooses among the gallery's crops, and --keep keeps the search, as in gmn query.

    Example: gmn visits suspect.jpg --galleries entrance,yard

    Example: gmn visits suspect.jpg --after 2026-03-01T00:00:00Z --cameras gate,yard

    Example: gmn visits --identity 0042 --gallery entrance

    Args:
        galleries: search these at once, comma-separated; empty for all that the key may see.
        group: id of a group of crops without a name, as gmn api groups prints it.
    """
    names = options.get("identities", [])
    is_search = bool(images or options.get("crop_id") or options.get("track"))
    if is_search and group:
        raise BadParameter("--group is a person itself: leave it out, or the images and crops")
    if is_search:
        if options.get("keep"):
            options.setdefault("keep_picture", bool(images))
        answer = (
            client.visits(*(images or []), **options)
            if galleries is None
            else client.visits_in_galleries(*(images or []), galleries=[galleries], **options)
        )
        shown = [image.name for image in images or []] or options.get("crop_id")
        title = ", ".join(shown or [options.get("track", "")])
        return Shown(answer, _format_answer(title, answer, galleries is not None))
    if bool(group) + len(names) != 1:
        raise BadParameter("name either images, --crop, --track, one --identity, or --group")
    if galleries is not None or options.keys() - (OF_IDENTITY if names else set()):
        raise BadParameter(
            "only --gallery goes with --group, and --after and --before with --identity alone: "
            "these crops are known, and nothing is searched"
        )
    if group:
        person = client.group_visits(group)
    else:
        person = client.identity_visits(
            names[0],
            captured_after=options.get("captured_after"),
            captured_before=options.get("captured_before"),
        )
    return Shown(person, _format_person(group or names[0], person))


def _format_answer(title: str, answer: VisitsAnswer, are_several: bool) -> Group:
    columns = {"gallery": "gallery", **FOUND_COLUMNS} if are_several else FOUND_COLUMNS
    verdict = (answer.verdict, VERDICT_STYLES[answer.verdict])
    count = counted(len(answer.results), "visit")
    lines: list[RenderableType] = [Text.assemble(f"{title}: ", verdict, f", {count}")]
    if answer.verdict == "nothing_searched":
        lines.append(Text(NOTHING_SEARCHED, "yellow"))
    lines += [Text.assemble(("warning:", "yellow"), f" {text}") for text in answer.warnings]
    if answer.results:
        lines.append(table_of(answer.results, columns))
    if answer.uncertain:
        tracks = counted(len(answer.uncertain), "track")
        lines.append(Text(f"{tracks} may show the person:", "yellow"))
        lines.append(table_of(answer.uncertain, columns))
    if answer.incomplete:
        names = ", ".join(answer.incomplete)
        lines.append(
            Text(f"{names} may have more: choose a shorter time, or raise --top-k", "yellow")
        )
    lines += [
        Text(f"kept in {name} as search {query_id}; gmn api hold_search adds it to a case")
        for name, query_id in answer.query_ids.items()
    ]
    return Group(*lines)


def _format_person(name: str, person: PersonVisits) -> Group:
    title = Text(f"{name}: {counted(len(person.results), 'visit')}")
    return Group(title, table_of(person.results, LINKED_COLUMNS))
