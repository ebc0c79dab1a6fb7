"""`gmn embed`: the features of a data set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from model.problems import InputProblem
from training.commands.progress import progress_bar

if TYPE_CHECKING:
    from training.evaluation.offline import Network, Part

UNREADABLE_SHOWN = 20


def embed(
    artefact: Annotated[
        str,
        typer.Argument(
            metavar="ARTEFACT",
            help="A .safetensors file, a name such as bundled, or a .xml or .onnx model.",
        ),
    ],
    data: Annotated[
        str, typer.Option(metavar="SPEC", help="KIND:PATH, such as cuhk01:/data/cuhk01.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="Where to write: a .npz file, or else a folder.")
    ],
    part: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Of a folder's shards, those of the I-th of N processes."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="Run the backbone in bfloat16, faster where it can.")
    ] = False,
) -> None:
    """Writes the features of a data set.

    A file holds `features` (n, d) float32 as the embedder gives them, `paths`, `identities`,
    `cameras`, `captured_at` and `sha256`, and opens with `numpy.load(FILE, allow_pickle=False)`.
    A folder gets shards of 2,048 crops; those that are there are skipped, so that the same command
    continues a run that was killed, and --part splits one among processes and machines. A crop that
    cannot be read is named and left out; the exit status is 1 then.

    Example: gmn embed bundled --data cuhk01:/data/cuhk01 --out features.npz

    Example: gmn embed bundled --data cuhk01:/data/cuhk01 --out features --part 1/2
    """
    from training.datasets.registry import read_dataset
    from training.evaluation.offline import Part, embed_to_file, embed_to_folder

    to_file = out.suffix == ".npz" or out.is_file()
    if to_file and part is not None:
        raise InputProblem(f"--part {part}: splits a folder of shards; name a folder as --out")
    chosen = Part() if part is None else _part(part)
    records = read_dataset(data).records
    network = _network(artefact, device, bfloat16)
    if to_file:
        outcome = embed_to_file(network, records, out, progress_bar)
    else:
        outcome = embed_to_folder(network, records, out, chosen, progress_bar)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for one in outcome.unreadable[:UNREADABLE_SHOWN]:
        console.print(f"left out: {one}")
    if (more := len(outcome.unreadable) - UNREADABLE_SHOWN) > 0:
        console.print(f"left out: {more:,} more, which the files name as `unreadable`")
    files = "" if to_file else f" in {outcome.written:,} shards, {outcome.skipped:,} were there"
    console.print(
        f"{out}: {outcome.features:,} features{files}; {len(outcome.unreadable):,} crops left out; "
        f"computed by {network.runtime} in {network.precision}"
    )
    if outcome.unreadable:
        raise typer.Exit(1)


def _part(asked: str) -> Part:
    from training.evaluation.offline import Part

    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", asked)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputProblem(f"--part {asked}: is no I/N; the second of four processes is 2/4")
    return Part(int(match[1]), int(match[2]))


def _network(artefact: str, device: str, bfloat16: bool) -> Network:
    from model.artefact import load_artefact, resolve_artefact
    from model.precision import choose_device
    from training.evaluation.offline import Network, network_of
    from training.evaluation.peers import INPUT, SUFFIXES, Peer

    if Path(artefact).suffix in SUFFIXES:
        peer = Peer(Path(artefact))
        return Network(INPUT, peer.embed_crops, peer.name)
    loaded = load_artefact(resolve_artefact(artefact))
    return network_of(loaded, choose_device(device), bfloat16)
