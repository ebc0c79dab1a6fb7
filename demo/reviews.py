"""`gmn train --reviews GALLERY`: a service's reviews as a data set, in a folder of the run.

The trainer knows no service, and the service no trainer.
"""

from __future__ import annotations

import csv
import functools
import inspect
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from gmn_client import DEFAULT_URL, Client, RequestRefused
from gmn_client.desk_models import Review
from model.problems import InputProblem

MANIFEST, COLUMNS = "manifest.csv", ("path", "identity", "camera", "captured_at")
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
    """The command `train` with the option `--reviews`, beside which `--data` may be left out."""

    def command(*, reviews: ReviewsOption = None, data: DataOption = None, **given: Any) -> None:
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

    own = inspect.signature(train, eval_str=True).parameters
    added = inspect.signature(command, eval_str=True).parameters
    parameters = {**own, "data": added["data"], "reviews": added["reviews"]}.values()
    functools.update_wrapper(command, train)
    keyword = [one.replace(kind=one.KEYWORD_ONLY) for one in parameters]
    command.__annotations__ = {one.name: one.annotation for one in keyword}
    vars(command)["__signature__"] = inspect.Signature(keyword)
    return command


def fetch_reviews(gallery: str, folder: Path) -> str:
    """Writes the reviewed pictures of a gallery with a manifest into a new folder.

    A search's picture and its confirmed crops are one person, named as the crops are. Rejected
    crops with a name are that person's. Where decisions and names contradict each other the search
    is left out.

    Returns:
        A sentence on what was written.

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
                "or with gmn review"
            )
        with _written(folder) as part:
            counts = _write(client, people, part)
    return (
        f"reviews of {gallery}: {counts['written']} pictures of {len(set(people.values()))} "
        f"people; {len(left_out)} contradictory searches are left out, {counts['missing']} "
        "pictures are not kept or have been deleted"
    )


def people_of(reviews: list[Review]) -> tuple[dict[tuple[str, str], str], set[str]]:
    """Who is on which picture, by ("query" or "crop", id); and the searches that are left out."""
    left_out: set[str] = set()
    own: dict[str, set[str]] = defaultdict(set)
    for one in reviews:
        if one.decision == "confirmed" and one.identity is not None:
            own[one.query_id].add(one.identity)
    left_out |= {query_id for query_id, names in own.items() if len(names) > 1}
    # A crop without a name that several searches confirm may join two names.
    while True:
        groups = _groups([one for one in reviews if one.query_id not in left_out])
        named = {("crop", one.crop_id): one.identity for one in reviews if one.identity is not None}
        names: dict[Any, set[str]] = defaultdict(set)
        for node, identity in named.items():
            if node in groups:
                names[groups[node]].add(identity)
        wrong = {
            one.query_id
            for one in reviews
            if (query := ("query", one.query_id)) in groups
            and (
                len(names[groups[query]]) > 1
                or (one.decision == "rejected" and _same(groups, names, query, one))
            )
        }
        if not wrong:
            break
        left_out |= wrong
    people = {
        node: next(iter(names[group]), f"reviewed {'-'.join(group)}")
        for node, group in groups.items()
    }
    rejected = {
        ("crop", one.crop_id): one.identity
        for one in reviews
        if one.decision == "rejected" and one.identity is not None and one.query_id not in left_out
    }
    return people | rejected, left_out


def _same(groups: dict[Any, Any], names: dict[Any, set[str]], query: Any, rejected: Review) -> bool:
    """Whether a rejected crop is of the person that the search's confirmed crops show."""
    group = groups[query]
    return groups.get(("crop", rejected.crop_id)) == group or rejected.identity in names[group]


def _groups(reviews: list[Review]) -> dict[tuple[str, str], tuple[str, str]]:
    """The group of each search and confirmed crop: those that decisions and names join are one."""
    parents: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while parents.setdefault(node, node) != node:
            node = parents[node]
        return node

    for one in reviews:
        if one.decision == "confirmed":
            parents[root(("crop", one.crop_id))] = root(("query", one.query_id))
            if one.identity is not None:
                parents[root(("name", one.identity))] = root(("query", one.query_id))
    return {node: root(node) for node in list(parents) if node[0] != "name"}


def _write(client: Client, people: dict[tuple[str, str], str], folder: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    with (folder / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for (kind, number), identity in people.items():
            try:
                if kind == "query":
                    camera = client.kept_search(number).request.get("camera")
                    content, captured = client.kept_image(number), None
                else:
                    crop = client.crop(number)
                    content, camera, captured = client.image(number), crop.camera, crop.captured_at
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


@contextmanager
def _written(folder: Path) -> Iterator[Path]:
    """A folder that is there only once it is whole; others cannot read the pictures."""
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(mode=0o700, parents=True)
    try:
        yield part
    except BaseException:
        for file in part.iterdir():
            file.unlink()
        part.rmdir()
        raise
    part.rename(folder)
