"""Features of a whole data set: shard by shard, decoding beside the network, and resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.artefact import Artefact
from model.crops.decode import decode_crop
from model.feature_file import Origin, read_origin, read_unreadable, write_features
from model.openvino_runtime import DtypeName, RuntimeUnusable
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from model.runtimes import EmbeddingRuntime, Probes
from model.shards import SHARD, shard_name
from model.torch_runtime import TorchRuntime
from training.datasets.record import CropRecord
from training.evaluation.embedding import ProgressBar, read_ahead
from training.evaluation.files import make_folder, replacing

SHARD_CROPS = 2048
# Embedded while as many are decoded; all that is in memory beside the features of a shard.
BATCH_CROPS = 128


class Network(NamedTuple):
    """A network that computes features.

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
    """The outcome of a run.

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


def network_of(artefact: Artefact, device: torch.device, bfloat16: bool) -> Network:
    """Return an artefact's embedder: in OpenVINO on a CPU where it can, else in PyTorch."""
    dtype: DtypeName = "bfloat16" if bfloat16 else "float32"
    runtime: EmbeddingRuntime | None = None
    if device.type == "cpu":
        with suppress(RuntimeUnusable):
            runtime = Probes(artefact).agreeing("openvino", dtype)
    runtime = runtime or TorchRuntime(artefact, dtype, str(device))
    description = artefact.description
    return Network(
        description.preprocessing,
        runtime.embed,
        description.embedding_fingerprint,
        runtime.dtype,
        runtime.name,
    )


def embed_to_file(
    network: Network, records: Sequence[CropRecord], path: Path, progress_bar: ProgressBar
) -> Outcome:
    """Write the features of all crops to one file.

    Raises:
        InputProblem: where no crop can be read, or the file cannot be written.
    """
    outcome = Outcome()
    _write(network, _origin(network, records), {path: records}, outcome, progress_bar, least=1)
    return outcome


def embed_to_folder(
    network: Network,
    records: Sequence[CropRecord],
    folder: Path,
    part: Part,
    progress_bar: ProgressBar,
) -> Outcome:
    """Write the shards of a part that are not in the folder yet, each whole or not at all.

    Raises:
        InputProblem: where the folder has shards of another artefact, of other crops or of another
            precision, and where it cannot be written.
    """
    origin = _origin(network, records)
    outcome = Outcome()
    make_folder(folder)
    count = -(-len(records) // SHARD_CROPS)
    names = [shard_name(number, count) for number in range(count)]
    there = {file.name for file in folder.iterdir() if SHARD.fullmatch(file.name)}
    if others := there.difference(names):
        raise _other(folder / min(others), "crops")
    missing: dict[Path, Sequence[CropRecord]] = {}
    for number in range(part.number - 1, count, part.parts):
        shard = folder / names[number]
        if shard.name not in there:
            missing[shard] = records[number * SHARD_CROPS : (number + 1) * SHARD_CROPS]
            continue
        kinds = ("artefact", "precision", "crops")
        for kind, stored, asked in zip(kinds, read_origin(shard), origin, strict=True):
            if stored != asked:
                raise _other(shard, kind)
        outcome.unreadable += read_unreadable(shard)
        outcome.skipped += 1
    _write(network, origin, missing, outcome, progress_bar)
    return outcome


def _origin(network: Network, records: Sequence[CropRecord]) -> Origin:
    """Return what features are made of; the digest is of the crops' names and labels, in order."""
    if not records:
        raise InputProblem("there is no crop to embed; name data with images in it")
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(list(_labels(record).values())).encode())
    return Origin(network.embedder, network.precision, digest.hexdigest())


def _other(shard: Path, what: str) -> InputProblem:
    return InputProblem(
        f"{shard}: is there already, of another {what.replace('crops', 'list of crops')}; name "
        "another folder as --out, or remove this one"
    )


def _labels(record: CropRecord) -> dict[str, str]:
    """Return the columns of a feature file that are known without the crop's file."""
    moment = record.captured_at.isoformat() if record.captured_at else ""
    named = {"paths": record.source, "identities": record.identity, "cameras": record.camera}
    return {**named, "captured_at": moment}


def _write(
    network: Network,
    origin: Origin,
    files: Mapping[Path, Sequence[CropRecord]],
    outcome: Outcome,
    progress_bar: ProgressBar,
    least: int = 0,
) -> None:
    """Write the features of the readable crops of each file; `least` of them, or none.

    Batches are decoded ahead, over the ends of files too.
    """
    batches = [batch for records in files.values() for batch in _batches(records)]
    read = read_ahead(lambda record: _read(record, network.preprocessing), batches)
    total = sum(len(records) for records in files.values())
    with progress_bar("Embedding", total) as progress:
        for path, records in files.items():
            parts: list[NDArray[np.float32]] = []
            rows: list[dict[str, str]] = []
            unreadable: list[str] = []
            with replacing(path) as beside:
                for crops in islice(read, len(_batches(records))):
                    good = [crop for crop in crops if not isinstance(crop, str)]
                    unreadable += [crop for crop in crops if isinstance(crop, str)]
                    if good:
                        parts.append(network.embed(np.stack([pixels for pixels, _ in good])))
                        rows += [labels for _, labels in good]
                    progress(len(crops))
                if len(rows) < least:
                    raise InputProblem(f"no crop can be read; the first: {unreadable[0]}")
                if not parts:
                    # Tells the dimension of no feature.
                    size = network.preprocessing
                    blank = np.zeros((1, size.height, size.width, 3), np.uint8)
                    parts = [network.embed(blank)[:0]]
                features = np.concatenate(parts)
                columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
                write_features(beside, features, columns, origin, unreadable)
            outcome.features += len(features)
            outcome.written += 1
            outcome.unreadable += unreadable


def _batches(records: Sequence[CropRecord]) -> list[Sequence[CropRecord]]:
    return [records[at : at + BATCH_CROPS] for at in range(0, len(records), BATCH_CROPS)]


def _read(
    record: CropRecord, size: Preprocessing
) -> tuple[NDArray[np.uint8], dict[str, str]] | str:
    """Return a crop's resized pixels and its row of a feature file; or why it cannot be read."""
    try:
        content = record.content()
        pixels = size.resize(decode_crop(content))
    except (InputProblem, OSError) as error:
        reason = str(error).removeprefix(f"{record.source}: ")
        return f"{record.source}: {reason}"
    return pixels, {**_labels(record), "sha256": hashlib.sha256(content).hexdigest()}
