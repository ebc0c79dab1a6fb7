"""Every query's own figures, kept beside a report, so that two runs compare query by query."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.problems import InputProblem
from training.evaluation.files import replacing
from training.evaluation.metrics import QueryMetrics
from training.evaluation.searches import Search

FILE_NAME = "queries.npz"
DIGEST = "search"
IDENTITIES = "identities"


@dataclass(frozen=True)
class QueryValues:
    """One data set's queries, those that count, as several rankings answered them.

    Attributes:
        search: a digest of queries and gallery; runs with the same one answered the same searches.
        identities: whose query it is, `(N,)`, numbered from 0.
        rankings: by ranking and metric, `(N,)` values 0 to 1.
    """

    search: str
    identities: NDArray[np.int64]
    rankings: Mapping[str, Mapping[str, NDArray[np.float64]]]


def query_values(search: Search, metrics: Mapping[str, QueryMetrics]) -> QueryValues:
    """The values of one search's queries by every ranking, which all counted the same queries."""
    counted = next(iter(metrics.values())).queries
    return QueryValues(
        search=search_digest(search),
        identities=search.labels().query_identities[counted],
        rankings={name: found.values() for name, found in metrics.items()},
    )


def search_digest(search: Search) -> str:
    """Return the same for the same queries and gallery, wherever on a disk the data lie."""
    digest = hashlib.sha256(str(search.other_cameras_only).encode())
    for part in (search.queries, search.gallery):
        digest.update(b"\0\0")
        for record in part:
            # A name that is the same on every disk.
            folder = "/".join(Path(record.source).parts[-2:])
            name = f"{folder}\0{record.identity}\0{record.domain}\0{record.camera}\n"
            digest.update(name.encode())
    for split in search.splits:
        digest.update(split.queries.tobytes() + b"\0\0" + split.gallery.tobytes())
    return digest.hexdigest()


def write_query_values(path: Path, values: Sequence[QueryValues | None]) -> None:
    """Writes one report's values, a data set after the other, without a pickle.

    Raises:
        InputProblem: where the file cannot be written.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    for number, own in enumerate(values):
        if own is None:
            continue
        arrays[f"{number}/{DIGEST}"] = np.array(own.search)
        arrays[f"{number}/{IDENTITIES}"] = own.identities.astype(np.int32)
        for ranking, metrics in own.rankings.items():
            for metric, numbers in metrics.items():
                # Half of a float's digits are more than any table shows, and a quarter of a file.
                arrays[f"{number}/{ranking}/{metric}"] = numbers.astype(np.float32)
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_query_values(path: Path) -> dict[int, QueryValues]:
    """By a data set's number in its report; empty where there is no such file.

    Raises:
        InputProblem: for a file that is damaged.
    """
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputProblem(
            f"{path}: is not a readable .npz ({error}); evaluate again, or delete it"
        ) from error
    kept: dict[int, dict[str, dict[str, NDArray[Any]]]] = {}
    for name, values in arrays.items():
        number, _, rest = name.partition("/")
        ranking, _, entry = rest.rpartition("/")
        kept.setdefault(int(number), {}).setdefault(ranking, {})[entry] = values
    found = {}
    for place, rankings in kept.items():
        whole = rankings.pop("")
        found[place] = QueryValues(
            search=str(whole[DIGEST]),
            identities=whole[IDENTITIES].astype(np.int64),
            rankings={
                ranking: {metric: own.astype(np.float64) for metric, own in metrics.items()}
                for ranking, metrics in rankings.items()
            },
        )
    return found
