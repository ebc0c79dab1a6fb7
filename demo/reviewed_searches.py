"""`gmn train --reviews GALLERY`: a service's reviewed searches as a data set, in the run's folder.

The trainer knows no client, and the client no data set.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from typer import Option, echo

from gmn_client import DEFAULT_URL, Client, RequestRefused
from gmn_client.commands.parameters import with_parameters
from gmn_client.models import Review
from model.problems import InputProblem

Node = tuple[str, str]
REVIEWS_HELP = "Reviewed searches of the service in GMN_URL, as a set; repeatable."


def with_reviews(train: Callable[..., None]) -> Callable[..., None]:
    """Add the option `--reviews` to the command `train`; `--data` may be left out beside it."""

    def command(
        *,
        reviews: Annotated[
            list[str] | None, Option(metavar="GALLERY", help=REVIEWS_HELP, show_default=False)
        ] = None,
        data: Annotated[
            list[str] | None, Option(help="KIND:PATH, repeatable.", show_default=False)
        ] = None,
        **given: Any,
    ) -> None:
        specs = list(data or ())
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if reviews and (given["out"] is None or given["dry_run"] or several):
            raise InputProblem(
                "--reviews: one process writes pictures into the run's folder; name it with --out, "
                "without --dry-run and torchrun"
            )
        for gallery in reviews or ():
            folder = given["out"] / f"reviews-{gallery}"
            if not given["resume"]:
                echo(fetch_reviews(gallery, folder), err=True)
            specs.append(f"manifest:{folder}")
        if not specs:
            raise InputProblem("--data is missing: name KIND:PATH, or a gallery with --reviews")
        train(data=specs, **given)

    options = dict(signature(train, eval_str=True).parameters)
    # The help lists --data where it lists it without --reviews.
    options["data"] = signature(command, eval_str=True).parameters["data"]
    return with_parameters(command, train, options.values())


def fetch_reviews(gallery: str, folder: Path) -> str:
    """Write the reviewed pictures of a gallery with a manifest into a new folder.

    A search's picture and its confirmed crops are one person, named as the crops are. Rejected
    crops with a name are that person's. Where decisions and names contradict each other the search
    is left out.

    Returns:
        A sentence on the pictures and people.

    Raises:
        InputProblem: there is nothing to train on, or the folder is there already.
        RequestRefused: the key may not read the gallery's reviews; it needs `admin`.
    """
    if folder.exists():
        raise InputProblem(f"{folder}: is there already; name a new --out, or add --resume")
    url = os.environ.get("GMN_URL") or DEFAULT_URL
    with Client(url, os.environ.get("GMN_API_KEY"), gallery=gallery) as client:
        people, left_out = people_of(list(client.reviews(everyone=True)))
        if not people:
            raise InputProblem(
                f"--reviews {gallery}: no search has a confirmed result; confirm some on the page, "
                "or with gmn api review"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Its owner alone can read the folder, which gets its name once it is whole.
        with TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as part:
            written = _write_pictures(client, people, Path(part))
            Path(part).rename(folder)
    return (
        f"reviews of {gallery}: {written} pictures of {len(set(people.values()))} people; "
        f"{len(left_out)} contradictory searches are left out, {len(people) - written} pictures "
        "are not kept or have been deleted"
    )


def people_of(reviews: list[Review]) -> tuple[dict[Node, str], set[str]]:
    """Name the person on each picture, by ("query" or "crop", id), and the searches left out.

    Decisions and names that join pictures make them one person's, over any number of searches.
    Where they contradict each other, the search is left out.
    """
    names: dict[str, set[str]] = defaultdict(set)
    for review in reviews:
        if review.decision == "confirmed" and review.identity:
            names[review.query_id].add(review.identity)
    left_out = {query_id for query_id, identities in names.items() if len(identities) > 1}
    while True:
        used = [review for review in reviews if review.query_id not in left_out]
        groups = _groups(used)
        # A crop without a name that several searches confirm may join two names.
        wrong = {review.query_id for review in used if _is_contradictory(review, groups)}
        if not wrong:
            break
        left_out |= wrong

    people: dict[Node, str] = {}
    for group in groups.subsets():
        name = next(iter(_names(group)), f"reviewed {'-'.join(min(group))}")
        people |= {node: name for node in sorted(group) if node[0] != "name"}
    for review in used:
        if review.decision == "rejected" and review.identity:
            people["crop", review.crop_id] = review.identity
    return people, left_out


def _groups(reviews: list[Review]) -> Any:
    """Return sets of confirmed crops, their searches and names, each set of one person."""
    from scipy.cluster.hierarchy import DisjointSet

    groups = DisjointSet()
    for review in reviews:
        if review.decision == "confirmed":
            query = ("query", review.query_id)
            nodes = [query, ("crop", review.crop_id)]
            if review.identity:
                nodes.append(("name", review.identity))
            for node in nodes:
                groups.add(node)
                groups.merge(query, node)
    return groups


def _is_contradictory(review: Review, groups: Any) -> bool:
    """Return whether a search's person has two names, or the decision rejects a crop of them."""
    query = ("query", review.query_id)
    if query not in groups:
        return False
    group = groups.subset(query)
    names = _names(group)
    is_same = ("crop", review.crop_id) in group or review.identity in names
    return len(names) > 1 or (review.decision == "rejected" and is_same)


def _names(group: Iterable[Node]) -> list[str]:
    return [name for kind, name in group if kind == "name"]


def _write_pictures(
    client: Client,
    people: dict[Node, str],
    folder: Path,
) -> int:
    written = 0
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "identity", "camera", "captured_at"])
        for (kind, number), identity in people.items():
            captured_at = None
            try:
                if kind == "query":
                    camera = client.kept_search(number).request.get("camera")
                    content = client.kept_image(number)
                else:
                    crop = client.crop(number)
                    camera = crop.camera
                    captured_at = crop.captured_at and crop.captured_at.isoformat()
                    content = client.image(number)
            except RequestRefused as refusal:
                if refusal.problem.status != 404:
                    raise
                continue
            name = f"{kind}-{number}"
            (folder / name).write_bytes(content)
            rows.writerow([name, identity, camera or "unknown", captured_at])
            written += 1
    return written
