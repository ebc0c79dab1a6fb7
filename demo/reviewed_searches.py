"""`gmn train --reviews GALLERY`: a service's reviewed searches as a data set, in the run's folder.

The trainer knows no client, and the client no data set.
"""

from __future__ import annotations

import csv
import functools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from inspect import Signature, signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from gmn_client import DEFAULT_URL, Client, RequestRefused
from gmn_client.models import Review
from model.problems import InputProblem

if TYPE_CHECKING:
    from scipy.cluster.hierarchy import DisjointSet

Node: TypeAlias = tuple[str, str]
MANIFEST = "manifest.csv"
COLUMNS = ("path", "identity", "camera", "captured_at")
UNKNOWN_CAMERA = "unknown"
ReviewsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reviews",
        metavar="GALLERY",
        help="Reviewed searches of the service in GMN_URL, as a set; repeatable.",
        show_default=False,
    ),
]
DataOption = Annotated[
    list[str] | None, typer.Option("--data", help="KIND:PATH, repeatable.", show_default=False)
]


def with_reviews(train: Callable[..., None]) -> Callable[..., None]:
    """Add the option `--reviews` to the command `train`; `--data` may be left out beside it."""

    def command(
        *,
        reviews: ReviewsOption = None,
        data: DataOption = None,
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
                typer.echo(fetch_reviews(gallery, folder), err=True)
            specs.append(f"manifest:{folder}")
        if not specs:
            raise InputProblem("--data is missing: name KIND:PATH, or a gallery with --reviews")
        train(data=specs, **given)

    # Typer reads the options of a function's signature.
    options = dict(signature(train, eval_str=True).parameters)
    for name in ("data", "reviews"):
        options[name] = signature(command, eval_str=True).parameters[name]
    parameters = [option.replace(kind=option.KEYWORD_ONLY) for option in options.values()]
    functools.update_wrapper(command, train)
    command.__annotations__ = {option.name: option.annotation for option in parameters}
    vars(command)["__signature__"] = Signature(parameters)
    return command


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
            counts = _write(client, people, Path(part))
            Path(part).rename(folder)
    return (
        f"reviews of {gallery}: {counts['written']} pictures of {len(set(people.values()))} "
        f"people; {len(left_out)} contradictory searches are left out, {counts['missing']} "
        "pictures are not kept or have been deleted"
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
    # A crop without a name that several searches confirm may join two names.
    while wrong := {review.query_id for review in _contradictory(reviews, left_out)}:
        left_out |= wrong
    people: dict[Node, str] = {}
    for group in _groups(reviews, left_out).subsets():
        name = next((name for kind, name in group if kind == "name"), "")
        name = name or f"reviewed {'-'.join(min(group))}"
        people |= {node: name for node in sorted(group) if node[0] != "name"}
    for review in reviews:
        if review.decision == "rejected" and review.identity and review.query_id not in left_out:
            people["crop", review.crop_id] = review.identity
    return people, left_out


def _contradictory(reviews: list[Review], left_out: set[str]) -> Iterator[Review]:
    """Yield decisions of a person of two names, and rejected crops of the search's person."""
    groups = _groups(reviews, left_out)
    for review in reviews:
        query = ("query", review.query_id)
        if review.query_id in left_out or query not in groups:
            continue
        group = groups.subset(query)
        names = [name for kind, name in group if kind == "name"]
        is_same = ("crop", review.crop_id) in group or review.identity in names
        if len(names) > 1 or (review.decision == "rejected" and is_same):
            yield review


def _groups(reviews: list[Review], left_out: set[str]) -> DisjointSet:
    """Return sets of confirmed crops, their searches and names, each set of one person."""
    from scipy.cluster.hierarchy import DisjointSet

    groups = DisjointSet()
    for review in reviews:
        if review.decision == "confirmed" and review.query_id not in left_out:
            query = ("query", review.query_id)
            nodes = [query, ("crop", review.crop_id)]
            if review.identity:
                nodes.append(("name", review.identity))
            for node in nodes:
                groups.add(node)
                groups.merge(query, node)
    return groups


def _write(
    client: Client,
    people: dict[Node, str],
    folder: Path,
) -> Counter[str]:
    counts: Counter[str] = Counter()
    with (folder / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for (kind, number), identity in people.items():
            try:
                if kind == "query":
                    camera = client.kept_search(number).request.get("camera")
                    content = client.kept_image(number)
                    captured = None
                else:
                    crop = client.crop(number)
                    content = client.image(number)
                    camera = crop.camera
                    captured = crop.captured_at
            except RequestRefused as refusal:
                if refusal.problem.status != 404:
                    raise
                counts["missing"] += 1
                continue
            name = f"{kind}-{number}"
            (folder / name).write_bytes(content)
            moment = captured.isoformat() if captured else ""
            rows.writerow((name, identity, camera or UNKNOWN_CAMERA, moment))
            counts["written"] += 1
    return counts
