"""Features of a whole data set: shard by shard, decoding beside the network, and resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.artefact import Artefact
from model.crops.decode import decode_crop
from model.feature_file import Origin, read_origin, read_unreadable, write_features
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from model.runtimes import DtypeName, EmbeddingRuntime, Probes, RuntimeUnusable, TorchRuntime
from model.shards import SHARD, shard_name
from training.datasets.record import CropRecord
from training.evaluation.embedding import ProgressBar, read_ahead
from training.evaluation.files import make_folder, replacing

SHARD_CROPS = 2048
# Embedded while as many are decoded; all that is in memory beside the features of a shard.
BATCH_CROPS = 128


class Network(NamedTuple):
    """What computes features.

    Attributes:
        preprocessing: of its input.
        embed: resized crops `(B, height, width, 3)` uint8 RGB to features `(B, d)` float32.
        embedder: fingerprint of the embedder, or a ready-made model's name.
        precision: its number format.
        runtime: what computes it, such as `openvino`.
    """

    preprocessing: Preprocessing
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    embedder: str
    precision: str = "float32"
    runtime: str = "openvino"


class Part(NamedTuple):
    """The shards of one of several processes: every `parts`-th from the `number`-th, from 1."""

    number: int = 1
    parts: int = 1


@dataclass
class Outcome:
    """What a run has done.

    Attributes:
        features: how many it has computed.
        written: files that it has written.
        skipped: shards of its part that were there.
        unreadable: names and reasons of the crops of its part that cannot be read.
    """

    features: int = 0
    written: int = 0
    skipped: int = 0
    unreadable: list[str] = field(default_factory=list)


class _Embedded(NamedTuple):
    """The features `(n, d)` of the readable ones of some crops, and what is known of those."""

    features: NDArray[np.float32]
    columns: dict[str, list[str]]
    unreadable: list[str]


class _ReadCrop(NamedTuple):
    """A crop's resized pixels, and the SHA-256 of its file."""

    record: CropRecord
    pixels: NDArray[np.uint8]
    sha256: str


def network_of(artefact: Artefact, device: torch.device, bfloat16: bool) -> Network:
    """An artefact's embedder: in OpenVINO on a CPU, in PyTorch elsewhere and where that cannot."""
    description, runtime = artefact.description, _runtime(artefact, device, bfloat16)
    own = description.preprocessing, runtime.embed, description.embedding_fingerprint
    return Network(*own, runtime.dtype, runtime.name)


def _runtime(artefact: Artefact, device: torch.device, bfloat16: bool) -> EmbeddingRuntime:
    dtype: DtypeName = "bfloat16" if bfloat16 else "float32"
    if device.type == "cpu":
        try:
            return Probes(artefact).agreeing("openvino", dtype)
        except RuntimeUnusable:
            pass
    return TorchRuntime(artefact, dtype, device)


def embed_to_file(
    network: Network, records: Sequence[CropRecord], path: Path, progress_bar: ProgressBar
) -> Outcome:
    """Writes the features of all crops to one file.

    Raises:
        InputProblem: where no crop can be read, or the file cannot be written.
    """
    origin = _origin(network, records)
    with replacing(path) as beside:
        with progress_bar("Embedding", len(records)) as progress:
            (embedded,) = _embed(network, [records], progress)
        if not len(embedded.features):
            raise InputProblem(f"no crop can be read; the first: {embedded.unreadable[0]}")
        write_features(beside, embedded.features, embedded.columns, origin, embedded.unreadable)
    return Outcome(len(embedded.features), 1, 0, embedded.unreadable)


def embed_to_folder(
    network: Network,
    records: Sequence[CropRecord],
    folder: Path,
    part: Part,
    progress_bar: ProgressBar,
) -> Outcome:
    """Writes the shards of a part that are not in the folder yet, each whole or not at all.

    Raises:
        InputProblem: where the folder has shards of another artefact, of other crops or of another
            precision, and where it cannot be written.
    """
    origin, outcome = _origin(network, records), Outcome()
    make_folder(folder)
    count = -(-len(records) // SHARD_CROPS)
    names = [shard_name(number, count) for number in range(count)]
    there = {file.name for file in folder.iterdir() if SHARD.fullmatch(file.name)}
    if others := there.difference(names):
        raise _other(folder / min(others), "crops")
    missing: dict[str, Sequence[CropRecord]] = {}
    for number in range(part.number - 1, count, part.parts):
        name = names[number]
        if name in there:
            _require_origin(folder / name, origin)
            outcome.unreadable += read_unreadable(folder / name)
            outcome.skipped += 1
        else:
            missing[name] = records[number * SHARD_CROPS : (number + 1) * SHARD_CROPS]
    with progress_bar("Embedding", sum(map(len, missing.values()))) as progress:
        shards = _embed(network, list(missing.values()), progress)
        for name, embedded in zip(missing, shards, strict=True):
            with replacing(folder / name) as beside:
                write_features(
                    beside, embedded.features, embedded.columns, origin, embedded.unreadable
                )
            outcome.features += len(embedded.features)
            outcome.written += 1
            outcome.unreadable += embedded.unreadable
    return outcome


def _origin(network: Network, records: Sequence[CropRecord]) -> Origin:
    """What features are made of; the digest is of the crops' names and labels, in order."""
    if not records:
        raise InputProblem("there is no crop to embed; name data with images in it")
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(list(_labels(record).values())).encode())
    return Origin(network.embedder, network.precision, digest.hexdigest())


def _require_origin(shard: Path, origin: Origin) -> None:
    for what, found, own in zip(
        ("artefact", "precision", "crops"), read_origin(shard), origin, strict=True
    ):
        if found != own:
            raise _other(shard, what)


def _other(shard: Path, what: str) -> InputProblem:
    return InputProblem(
        f"{shard}: is there already, of another {what.replace('crops', 'list of crops')}; name "
        "another folder as --out, or remove this one"
    )


def _labels(record: CropRecord) -> dict[str, str]:
    """The columns of a feature file that are known without the crop's file."""
    moment = record.captured_at.isoformat() if record.captured_at else ""
    named = {"paths": record.source, "identities": record.identity, "cameras": record.camera}
    return {**named, "captured_at": moment}


def _embed(
    network: Network, shards: Sequence[Sequence[CropRecord]], progress: Callable[[int], None]
) -> Iterator[_Embedded]:
    """The features of each shard; batches are decoded ahead, over the ends of shards too."""
    starts = [range(0, len(shard), BATCH_CROPS) for shard in shards]
    batches = [
        shard[start : start + BATCH_CROPS]
        for shard, own in zip(shards, starts, strict=True)
        for start in own
    ]
    read = read_ahead(partial(_read, size=network.preprocessing), batches)
    for own in starts:
        parts: list[NDArray[np.float32]] = []
        columns: dict[str, list[str]] = {}
        unreadable: list[str] = []
        for _ in own:
            crops = next(read)
            good = [crop for crop in crops if isinstance(crop, _ReadCrop)]
            if good:
                parts.append(network.embed(np.stack([crop.pixels for crop in good])))
            for crop in good:
                for name, text in {**_labels(crop.record), "sha256": crop.sha256}.items():
                    columns.setdefault(name, []).append(text)
            unreadable += [crop for crop in crops if isinstance(crop, str)]
            progress(len(crops))
        yield _Embedded(np.concatenate(parts or [_none(network)]), columns, unreadable)


def _none(network: Network) -> NDArray[np.float32]:
    """Features of no crop, `(0, d)`."""
    size = network.preprocessing
    return network.embed(np.zeros((1, size.height, size.width, 3), np.uint8))[:0]


def _read(record: CropRecord, size: Preprocessing) -> _ReadCrop | str:
    try:
        content = record.content()
        pixels = size.resize(decode_crop(content))
    except (InputProblem, OSError) as error:
        reason = str(error).removeprefix(f"{record.source}: ")
        return f"{record.source}: {reason}"
    return _ReadCrop(record, pixels, hashlib.sha256(content).hexdigest())
