"""How pure groups of crops without a name are, through a running service.

`python -m bench.unnamed_groups --artefact ARTEFACT --data KIND:PATH` starts a service, enrolls
crops of people drawn at random without their names, groups them, and compares the groups with the
names.
"""

from __future__ import annotations

import json
import resource
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import typer

from demo.data_sets import read_spec
from demo.service import own_service
from gmn_client import Client
from service.commands.bulk import SourceCrop, enroll_crops

SEED = 0
# Of a public data set its distractors and junk, which are of no one person.
NO_PERSON = ("0000", "-1")
EACH = 8
PEOPLE = 250


def sample(crops: Sequence[SourceCrop], people: int, each: int) -> list[SourceCrop]:
    """Crops of people drawn at random, so many of each at most, without their names.

    The name is kept as `external_id`, which no grouping reads.
    """
    of: dict[str, list[SourceCrop]] = defaultdict(list)
    for one in crops:
        if one.identity not in (None, *NO_PERSON):
            of[str(one.identity)].append(one)
    random = np.random.default_rng(SEED)
    drawn = [sorted(of)[place] for place in random.permutation(len(of))[:people]]
    named = [(name, of[name][place]) for name in drawn for place in range(min(each, len(of[name])))]
    chosen = [replace(one, identity=None, external_id=name) for name, one in named]
    return [chosen[place] for place in random.permutation(len(chosen))]


def figures(groups: Sequence[Sequence[str]], who: Mapping[str, str]) -> dict[str, Any]:
    """Of groups of crop ids: `purity` is the share of their crops that are of its main person.

    `pairs_right` is the share of pairs within groups that are of one person, and `pairs_found` the
    share of all pairs of one person that are within a group.
    """
    counts = [np.unique([who[one] for one in group], return_counts=True)[1] for group in groups]
    grouped = sum(map(len, groups))
    right = sum(map(_pairs, counts))
    pairs = sum(len(group) * (len(group) - 1) // 2 for group in groups)
    of_one = _pairs(np.unique(list(who.values()), return_counts=True)[1])
    found = {
        "grouped": grouped / len(who),
        "pure_groups": sum(len(one) == 1 for one in counts) / max(1, len(groups)),
        "purity": sum(int(one.max()) for one in counts) / max(1, grouped),
        "pairs_right": right / max(1, pairs),
        "pairs_found": right / max(1, of_one),
    }
    return {"groups": len(groups), **{name: round(value, 4) for name, value in found.items()}}


def _pairs(counts: np.ndarray) -> int:
    return int((counts * (counts - 1) // 2).sum())


def main(
    artefact: Annotated[str, typer.Option(help="A file, or the name of a shipped one.")],
    data: Annotated[str, typer.Option(metavar="KIND:PATH", help="The crops.")],
    people: Annotated[int, typer.Option(help="How many are drawn.")] = PEOPLE,
    each: Annotated[int, typer.Option(help="Crops of each person, at most.")] = EACH,
    split: Annotated[str | None, typer.Option(help="Only crops of this split.")] = None,
) -> None:
    """Measures, and prints one JSON object."""
    crops = [one for one in read_spec(data) if split in (None, one.split)]
    chosen = sample(crops, people, each)
    with own_service(artefact) as url, Client(url, gallery="unnamed") as client:
        client.create_gallery("unnamed")
        list(enroll_crops(client, chosen))
        who = {one.crop_id: str(one.external_id) for one in client.crops()}
        began = time.monotonic()
        client.wait_for_job(client.group_unnamed().job_id)
        seconds = time.monotonic() - began
        found = client.groups()
    # Of the service, which has ended.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    measured = figures([one.crop_ids for one in found.results], who)
    known = {"artefact": artefact, "data": data, "crops": len(who)}
    known |= {"people": len(set(who.values())), "single": found.single}
    typer.echo(
        json.dumps(known | measured | {"seconds": round(seconds, 1), "peak_mib": round(peak)})
    )


if __name__ == "__main__":
    typer.run(main)
