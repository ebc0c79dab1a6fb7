"""Images and labelled data sets for the client's commands, and measurements on them.

The client knows neither manifests nor the trainer, which reads data sets.
"""

from __future__ import annotations

import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group

from gmn_client import Client, QueryOptions, RequestRefused
from gmn_client.commands.bulk import Source, SourceCrop
from gmn_client.commands.common import Shown, plain_table, progress_bar
from gmn_client.models import Crop, QueryAnswer
from model.crops.folder import CropFolder
from model.crops.manifest import find_manifest, read_manifest
from model.crops.names import Ignored, is_image_name
from model.crops.texts import nfc
from model.problems import InputProblem, legible
from model.shards import shards_in

if TYPE_CHECKING:
    from training.datasets.record import CropRecord

CUTS = (1, 5, 10)
METRICS = {"rank_1": "Rank-1", "rank_5": "Rank-5", "rank_10": "Rank-10", "mAP": "mAP"}
# Public sets give this identity to crops that show nobody.
JUNK = "-1"
CONCURRENT_REQUESTS = 4
# The service's own bound on `top_k`.
MAX_RESULTS = 10_000


def find_upload(
    name: str, split: str | None, camera: str | None, identity: str | None = None
) -> Source:
    """Find the archives or images of a SOURCE that `gmn enroll` sends.

    Args:
        name: an archive, a folder of features, or what `find_source` takes.
        split, camera, identity: see `find_source`; an archive has no splits.

    Raises:
        InputProblem: as `find_source`, or an archive cannot be read.
    """
    archives = _find_archives(Path(name), split)
    return Source(archives=archives) if archives else find_source(name, split, camera, identity)


def _find_archives(path: Path, split: str | None) -> list[Path]:
    """Return files that are imported as they are: an archive, or the feature files of a folder.

    Raises:
        InputProblem: a file of another kind, or a split was given.
    """
    archives = shards_in(path) if path.is_dir() else []
    if path.is_file() and path.suffix.lower() != ".csv" and not is_image_name(path.name):
        archives = [path]
    if not archives:
        return []
    if split is not None:
        raise InputProblem(f"--split {split}: an archive names none; send its manifest")
    first = archives[0]
    if not zipfile.is_zipfile(first):
        raise InputProblem(
            f"{first}: neither a CSV manifest nor a zip archive that can be read; pack the images "
            "into a zip, or name their folder"
        )
    return archives


def find_source(
    name: str, split: str | None, camera: str | None, identity: str | None = None
) -> Source:
    """Find the images of a SOURCE, of one split and camera.

    Args:
        name: an image, a CSV manifest, a folder (see `CropFolder`), or `KIND:PATH`.
        split: None for the images of all splits.
        camera: None for the images of all cameras; the camera of all images if the source names
            none.
        identity: whom the images show, if the source names nobody.

    Raises:
        InputProblem: it is none of these, cannot be read, or contains no such image; or it names
            the people itself.
    """
    source = _read_source(name)
    crops = _select("split", split, source.crops)
    if any(crop.camera for crop in crops):
        crops = _select("camera", camera, crops)
    elif camera is not None:
        crops = [replace(crop, camera=camera) for crop in crops]
    if identity is not None:
        if any(crop.identity for crop in crops):
            raise InputProblem(
                f"--identity {identity}: the source names the people itself; leave it out, or "
                "name the folder of one person"
            )
        crops = [replace(crop, identity=identity) for crop in crops]
    return replace(source, crops=crops)


def _read_source(name: str) -> Source:
    path = Path(name)
    ignored = Ignored()
    is_folder = path.is_dir()
    manifest = find_manifest(path) if is_folder else path
    labelled = manifest is not None and manifest.is_file()
    if is_folder:
        files = list(CropFolder(path, manifest).check(ignored))
        if not files:
            raise InputProblem(
                f"{path}: holds no image; name the folder that holds the images{ignored.remark()}"
            )
    elif is_image_name(path.name) and labelled:
        return Source([SourceCrop(path.name, path.read_bytes)], is_image=True)
    elif labelled:
        files = read_manifest(path, required=("path",), ignored=ignored)
    elif ":" in name:
        return read_spec(name)
    else:
        raise InputProblem(
            f"{legible(name)}: is not there; name an image, a folder of images, a zip archive, a "
            "CSV manifest, or a data set KIND:PATH"
        )
    crops = [
        SourceCrop(
            str(file.path if labelled else file.path.relative_to(path)),
            file.path.read_bytes,
            # The labels are compared with options and with answers, which are in NFC.
            identity=file.identity and nfc(file.identity),
            camera=file.camera and nfc(file.camera),
            captured_at=file.captured_at,
            split=file.split,
            external_id=file.external_id,
            metadata=file.metadata,
            track=file.track,
        )
        for file in files
    ]
    return Source(crops, _reasons(ignored))


def _reasons(ignored: Ignored) -> list[dict[str, str]]:
    return [asdict(file) for file in ignored.lines()]


def _select(label: str, value: str | None, crops: Sequence[SourceCrop]) -> Sequence[SourceCrop]:
    chosen = [crop for crop in crops if value is None or getattr(crop, label) == nfc(value)]
    if crops and not chosen:
        known = sorted({str(getattr(crop, label) or "unknown") for crop in crops})
        raise InputProblem(
            f"--{label} {legible(value)}: the source has no image with this {label}; it has "
            f"{', '.join(known[:20])}"
        )
    return chosen


def read_spec(spec: str) -> Source:
    """Read the crops of a `KIND:PATH` for the client's commands.

    Raises:
        InputProblem: the data set cannot be read.
    """
    from training.datasets.registry import read_dataset

    dataset = read_dataset(spec)
    return Source(source_crops(dataset.records), _reasons(dataset.ignored))


def source_crops(records: Iterable[CropRecord]) -> list[SourceCrop]:
    """Return the crops of a data set for the client; drawn ones are encoded as PNG when read."""
    return [
        SourceCrop(
            record.source,
            record.content,
            record.identity,
            record.camera,
            record.captured_at,
            record.split,
        )
        for record in records
    ]


def summarize(
    answers: Iterable[tuple[SourceCrop, QueryAnswer]],
    gallery: Iterable[SourceCrop | Crop],
) -> dict[str, Any]:
    """Compute means of the ranking metrics and of the times, and counts of verdicts.

    As in Market-1501's protocol, results of the query's own person and camera do not count. Answers
    are read one by one and are not held in memory.

    Args:
        answers: each query with its answer.
        gallery: every crop of the gallery. If rankings are cut short, true matches beyond the cut
            count as never found, so that mAP is a lower bound.

    Returns:
        The metrics from 0 to 1, or None without a query that has a true match; the number of
        queries that have one; counts by verdict; the number of matches whose first result is right;
        milliseconds of each stage in the service.
    """
    gallery_labels = Counter((crop.identity, crop.camera) for crop in gallery)
    crops_of_people = Counter(person for person, _ in gallery_labels.elements())
    verdicts: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    times: Counter[str] = Counter()
    totals = dict.fromkeys(METRICS, 0.0)
    scoring = ""
    for crop, answer in answers:
        verdicts[answer.verdict] += 1
        scoring = answer.scoring
        times.update(answer.timing_ms.model_dump())
        query = (crop.identity, crop.camera)
        results = [(row.identity, row.camera) for row in answer.results]
        if None not in query:
            results = [label for label in results if label != query and label[0] != JUNK]
        ranks = [rank for rank, (person, _) in enumerate(results, 1) if person == crop.identity]
        counts["matches_right"] += answer.verdict == "match" and 1 in ranks
        true_matches = crops_of_people[crop.identity] - gallery_labels[query]
        if None not in query and true_matches:
            counts["with_a_true_match"] += 1
            for cut in CUTS:
                totals[f"rank_{cut}"] += any(rank <= cut for rank in ranks)
            totals["mAP"] += sum(hits / rank for hits, rank in enumerate(ranks, 1)) / true_matches
    searched = counts["with_a_true_match"]
    queries = verdicts.total()
    return {
        "scoring": scoring,
        "queries": queries,
        "with_a_true_match": searched,
        **{name: total / searched if searched else None for name, total in totals.items()},
        "verdicts": dict(verdicts),
        "matches_right": counts["matches_right"],
        "service_timing_ms": {name: round(total / queries, 3) for name, total in times.items()},
    }


def query_crops(
    client: Client,
    crops: Iterable[SourceCrop],
    options: QueryOptions,
) -> Iterator[tuple[SourceCrop, QueryAnswer]]:
    """Query with each crop, several at a time, and yield crop and answer in order.

    Raises:
        InputProblem: a crop cannot be read, or the service refuses it.
    """

    def query(crop: SourceCrop) -> tuple[SourceCrop, QueryAnswer]:
        try:
            return crop, client.query(crop.read(), **options)
        except (OSError, RequestRefused) as error:
            raise InputProblem(f"{crop.name}: {error}") from error

    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
        yield from threads.map(query, crops)


def measure(
    client: Client,
    crops: Sequence[SourceCrop],
    options: QueryOptions,
) -> Shown:
    """Query with labelled crops, and report ranking metrics, verdicts and times of the answers."""
    enrolled = client.gallery().crops
    if enrolled == 0:
        raise InputProblem(
            f"--gallery {client.gallery_name}: is empty; fill it with gmn enroll first"
        )
    options.setdefault("top_k", min(enrolled, MAX_RESULTS))
    # Known names of the gallery would help the order by neighbours, against the field's protocol.
    options.setdefault("order", "score")
    started = time.perf_counter()
    with progress_bar() as progress:
        answers = progress.track(
            query_crops(client, crops, options), total=len(crops), description="Querying"
        )
        figures = summarize(answers, client.crops())
    seconds = time.perf_counter() - started
    summary = {
        "gallery": client.gallery_name,
        "gallery_crops": enrolled,
        "whole_rankings": options["top_k"] >= enrolled,
        **options,
        **figures,
        "queries_per_second": len(crops) / seconds,
    }
    return Shown(summary, _view(summary))


def _view(summary: dict[str, Any]) -> Group:
    parts: list[Any] = [
        f"{summary['queries']:,} queries against {summary['gallery_crops']:,} crops of gallery "
        f"{summary['gallery']}, ranked by {summary['scoring']}"
    ]
    if summary["mAP"] is None:
        parts.append("Rank-k and mAP: no query has a true match under another camera there")
    else:
        figures = [f"{summary[name]:.2%}" for name in METRICS]
        parts.append(plain_table(list(METRICS.values()), [figures]))
        parts.append(f"over the {summary['with_a_true_match']:,} that have a true match there")
    if not summary["whole_rankings"]:
        parts.append(f"mAP is a lower bound: rankings were cut at {summary['top_k']:,} results")
    verdicts = ", ".join(f"{count:,} {name}" for name, count in summary["verdicts"].items())
    stages = ", ".join(f"{name} {mean:.1f}" for name, mean in summary["service_timing_ms"].items())
    return Group(
        *parts,
        f"verdicts: {verdicts}; of the matches {summary['matches_right']:,} are right",
        f"{summary['queries_per_second']:.1f} queries/s; ms per query in the service: {stages}",
    )
