"""Purity of the groups that a running service makes of unnamed crops.

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
# Names that public data sets give to distractors and junk.
NO_PERSON = ("0000", "-1")
CROPS_PER_PERSON = 8
PEOPLE = 250


def sample(crops: Sequence[SourceCrop], people: int, each: int) -> list[SourceCrop]:
    """Draw people at random, and return at most `each` crops of a person, without names.

    The name becomes the `external_id`, which no grouping reads.
    """
    crops_by_name: dict[str, list[SourceCrop]] = defaultdict(list)
    for crop in crops:
        if crop.identity not in (None, *NO_PERSON):
            crops_by_name[str(crop.identity)].append(crop)
    random = np.random.default_rng(SEED)
    names = sorted(crops_by_name)
    chosen = [
        replace(crop, identity=None, external_id=names[place])
        for place in random.permutation(len(names))[:people]
        for crop in crops_by_name[names[place]][:each]
    ]
    return [chosen[place] for place in random.permutation(len(chosen))]


def figures(groups: Sequence[Sequence[str]], names: Mapping[str, str]) -> dict[str, Any]:
    """Compare groups of crop ids with the names of all crops, by crop id.

    `purity` is the share of grouped crops that are of the main person of their group, `pairs_right`
    the share of pairs within groups that are of one person, and `pairs_found` the share of all
    pairs of one person that are within a group.
    """
    counts = [_count_names([names[crop_id] for crop_id in group]) for group in groups]
    grouped = sum(len(group) for group in groups)
    right = sum(_count_pairs(people) for people in counts)
    pairs = sum(len(group) * (len(group) - 1) // 2 for group in groups)
    all_right = _count_pairs(_count_names(list(names.values())))
    shares = {
        "grouped": grouped / len(names),
        "pure_groups": sum(len(people) == 1 for people in counts) / max(1, len(groups)),
        "purity": sum(int(people.max()) for people in counts) / max(1, grouped),
        "pairs_right": right / max(1, pairs),
        "pairs_found": right / max(1, all_right),
    }
    return {"groups": len(groups)} | {name: round(share, 4) for name, share in shares.items()}


def _count_names(names: list[str]) -> np.ndarray:
    return np.unique(names, return_counts=True)[1]


def _count_pairs(counts: np.ndarray) -> int:
    return int((counts * (counts - 1) // 2).sum())


def main(
    artefact: Annotated[str, typer.Option(help="A file, or the name of a shipped one.")],
    data: Annotated[str, typer.Option(metavar="KIND:PATH", help="The crops.")],
    people: Annotated[int, typer.Option(help="How many are drawn.")] = PEOPLE,
    each: Annotated[int, typer.Option(help="Crops of each person, at most.")] = CROPS_PER_PERSON,
    split: Annotated[str | None, typer.Option(help="Only crops of this split.")] = None,
) -> None:
    """Measure, and print one JSON object."""
    crops = [crop for crop in read_spec(data) if split in (None, crop.split)]
    chosen = sample(crops, people, each)
    with own_service(artefact) as url, Client(url, gallery="unnamed") as client:
        client.create_gallery("unnamed")
        list(enroll_crops(client, chosen))
        names = {crop.crop_id: str(crop.external_id) for crop in client.crops()}
        began = time.monotonic()
        client.wait_for_job(client.group_unnamed().job_id)
        seconds = time.monotonic() - began
        groups = client.groups()
    # The service has ended, and is the only child whose memory counts here.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    measured = {
        "artefact": artefact,
        "data": data,
        "crops": len(names),
        "people": len(set(names.values())),
        "single": groups.single,
        **figures([group.crop_ids for group in groups.results], names),
        "seconds": round(seconds, 1),
        "peak_mib": round(peak),
    }
    typer.echo(json.dumps(measured))


if __name__ == "__main__":
    typer.run(main)
