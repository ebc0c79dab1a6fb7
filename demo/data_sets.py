"""What the client's commands need of the trainer, which the service may not import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from service.commands.bulk import SourceCrop

Label = tuple[str | None, str | None]
"""Identity and camera of a crop; None where unknown."""

VERDICTS = ("match", "uncertain", "no_match", "nothing_searched")
REPORTED = ("rank_1", "rank_5", "rank_10", "mAP")


def read_spec(spec: str) -> Iterator[SourceCrop]:
    """The crops of a `KIND:PATH`, for the client's commands; drawn ones are encoded as PNG.

    Raises:
        InputProblem: naming what is wrong with the data set.
    """
    from training.datasets.registry import read_dataset

    for one in read_dataset(spec).records:
        labels = (one.identity, one.camera, one.captured_at, one.split)
        yield SourceCrop(one.source, one.content, *labels)


def rank_figures(identity: str, camera: str, ranking: Sequence[Label]) -> dict[str, float] | None:
    """One query's ranking metrics, by their names in the evaluation.

    Args:
        identity, camera: of the query.
        ranking: labels of every gallery crop, best first.

    Returns:
        Values 0 to 1, or None where the gallery holds no true match under another camera.
    """
    import numpy as np

    from training.evaluation.metrics import integer_labels, rank_queries

    if not any(found == identity and where != camera for found, where in ranking):
        return None
    people = [found or "" for found, _ in ranking]
    cameras = [where or "" for _, where in ranking]
    scores = -np.arange(len(ranking), dtype=np.float32)[None, :]
    labels = integer_labels([identity], [camera], people, cameras)
    return rank_queries(lambda _: scores, labels).means()


def summarize(
    queries: Iterable[tuple[Label, Sequence[Label], str]], gallery: Sequence[Label] = ()
) -> dict[str, Any]:
    """Means of the ranking metrics, and counts of verdicts.

    Gallery crops of the query's own identity and camera do not count. Queries are taken one by one
    and not kept.

    Args:
        queries: of each its label, the labels of its results, best first, and its verdict.
        gallery: labels of every gallery crop, where rankings are cut short. Results that were cut
            off count as ranked last, true matches after all others, so that mAP is a lower bound.

    Returns:
        The metrics, 0 to 1, or None without a query that has a true match; the number of queries
        that have one; counts by verdict; the number of matches whose first result is right.
    """
    verdicts: Counter[str] = Counter()
    figures: list[dict[str, float]] = []
    matches_right = 0
    whole = Counter(gallery)
    for label, ranking, verdict in queries:
        identity, camera = label
        verdicts[verdict] += 1
        known = identity is not None and camera is not None
        first = next((one for one in ranking if not (known and one == label)), (None, None))
        matches_right += verdict == "match" and first[0] == identity
        if identity is not None and camera is not None:
            cut = sorted((whole - Counter(ranking)).elements(), key=lambda one: one[0] == identity)
            found = rank_figures(identity, camera, [*ranking, *cut])
            figures += [found] if found else []
    means = {
        name: sum(one[name] for one in figures) / len(figures) if figures else None
        for name in REPORTED
    }
    return {
        "with_a_true_match": len(figures),
        **means,
        "verdicts": {name: verdicts[name] for name in VERDICTS},
        "matches_right": matches_right,
    }
