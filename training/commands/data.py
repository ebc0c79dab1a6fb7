"""`gmn check-data` and `gmn embed`: find faults of data sets, and write their features."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.problems import InputProblem
from model.wording import counted
from training.commands.common import (
    DeviceOption,
    JsonOption,
    print_tables,
    progress_bar,
)

if TYPE_CHECKING:
    from training.datasets.check import Report
    from training.evaluation.offline import Network, Part
    from training.evaluation.tables import Value

# The number of cameras and of pairs of splits that are printed; --json has them all.
LISTED = 10
UNREADABLE_SHOWN = 20
SPEC_HELP = (
    "A CSV manifest, or KIND:PATH such as cuhk01:/data/cuhk01, with options such as "
    "cuhk03np:/data/cuhk03-np,boxes=detected. KIND is one of market1501, msmt17, cuhk03np, cuhk02, "
    "cuhk01, cuhksysu, viper, grid, prid2011, ilids, randperson, dukemtmc, manifest, folder, "
    "synthetic, rendered."
)


def check_data(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help=SPEC_HELP)],
    examples: Annotated[
        int, typer.Option("--examples", min=0, help="The number of findings of each kind to name.")
    ] = 10,
    as_json: JsonOption = False,
) -> None:
    """Reads data sets, counts their crops, and reports faults.

    It finds files that cannot be read; crops that are too small, blurred, dark, overexposed or not
    person-shaped; counts that differ from the published ones; people under one camera only; other
    files, which are ignored; and files with the same pixels, under different labels, in training
    and test splits, or in several of the given sets. All findings are counted, and --examples of
    each kind named. The exit status is 1 if a file cannot be read; notes and poor crops do not
    change it. docs/datasets.md lists every KIND and where to get it.

    Example: gmn check-data market1501:/data/Market-1501-v15.09.15 /data/people.csv
    """
    # Fail on a missing package before the data are read.
    import training.evaluation.tables  # noqa: F401
    from training.datasets.check import check_datasets
    from training.datasets.registry import read_datasets

    datasets = read_datasets(specs)
    total = sum(len(dataset.records) for dataset in datasets)
    with progress_bar("Reading files", total) as progress:
        report = check_datasets(datasets, examples, on_file=lambda: progress(1))
    if as_json:
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _print_report(report)
    if any(dataset["unreadable"]["count"] for dataset in report["datasets"]):
        raise typer.Exit(1)


def _print_report(report: Report) -> None:
    for dataset in report["datasets"]:
        _print_dataset(dataset)
    if report["shared"] or report["notes"]:
        typer.secho("\nBetween places", bold=True)
    _print_notes(report)
    if shared := report["shared"][:LISTED]:
        rows = [
            [
                ("within " if len(pair["places"]) == 1 else "") + " and ".join(pair["places"]),
                pair["pictures"],
                pair["crossing"],
            ]
            for pair in shared
        ]
        _print_table(["pictures in several files", "same pixels", "label differs"], rows)
    for key, title in (
        ("crossing_duplicates", "\nSame pixels, different label or split"),
        ("duplicates", "\nSame pixels, same label and split"),
    ):
        _print_findings(title, report[key])


def _print_dataset(dataset: Report) -> None:
    version = f"  ({dataset['version']})" if dataset["version"] else ""
    typer.secho(f"\n{dataset['name']}{version}  {dataset['spec']}", bold=True)
    typer.echo(
        f"  Terms: {dataset['terms']}\n"
        f"  From: {dataset['obtain']}\n"
        f"  {counted(dataset['images'], 'image')}, "
        f"{counted(dataset['identities'], 'identity', 'identities')}, "
        f"{counted(len(dataset['images_by_camera']), 'camera')}"
    )
    keys = ["images", "published_images", "identities", "published_identities"]
    rows = [
        [split["split"] or "none", *(split[key] for key in keys)] for split in dataset["splits"]
    ]
    _print_table(["split", "images", "published", "identities", "published"], rows)
    cameras = list(dataset["images_by_camera"].items())
    rest = ""
    if len(cameras) > 2 * LISTED:
        rest = f" and {len(cameras) - LISTED:,} more; --json names them all"
        cameras = sorted(cameras, key=lambda camera: -camera[1])[:LISTED]
    listed = ", ".join(f"{name} {count:,}" for name, count in cameras)
    typer.echo(f"  Images by camera: {listed}{rest}")
    for side in ("width", "height"):
        if sizes := dataset[side]:
            typer.echo(
                f"  {side.capitalize()} {sizes['smallest']} to {sizes['largest']} "
                f"(median {sizes['median']:g}) pixels"
            )
    _print_findings("  Unreadable files", dataset["unreadable"], "red")
    if number := dataset["ignored"]["count"]:
        typer.echo(f"  Ignored files, folders and columns: {number:,}")
    for example in dataset["ignored"]["examples"]:
        typer.echo(f"    {example['source']}: {example['detail']}")
    for fault in dataset["quality"]:
        share = f"{fault['files']['count'] / dataset['images']:.2%} of the images"
        title = f"  {fault['code'].replace('_', ' ').capitalize()}, {share}"
        _print_findings(title, fault["files"])
    _print_notes(dataset)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
    from training.evaluation.tables import Table

    print_tables([Table("", columns, rows)])


def _print_findings(
    title: str,
    findings: Report,
    colour: str = "yellow",
) -> None:
    count = findings["count"]
    examples = findings["examples"]
    if count:
        typer.secho(f"{title}: {count:,}", fg=colour)
    for example in examples:
        if "sources" in example:
            unnamed = example["files"] - len(example["sources"])
            more = f" and {unnamed:,} more files" if unnamed else ""
            line = f"{', '.join(example['people'])}: {', '.join(example['sources'])}{more}"
        else:
            line = f"  {example['source']}: {example['detail']}"
        typer.echo(f"  {line}")
    if count > len(examples):
        typer.echo(f"    and {count - len(examples):,} more; --examples {count} names them all")


def _print_notes(report: Report) -> None:
    for note in report["notes"]:
        typer.secho(f"  Note: {note}", fg="yellow")


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
        Path, typer.Option(metavar="PATH", help="The .npz file, or the folder, to write.")
    ],
    part: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Write the shards of the I-th of N processes only."),
    ] = None,
    device: DeviceOption = "auto",
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="Run the backbone in bfloat16, faster on some CPUs.")
    ] = False,
) -> None:
    """Writes the features of a data set into a file, or into a folder of shards.

    A file has the arrays `features` (n, d) float32, not of unit length, `paths`, `identities`,
    `cameras`, `captured_at` and `sha256`; read it with `numpy.load(FILE, allow_pickle=False)`. A
    folder has shards of 2,048 crops. Existing shards are skipped, so that the same command
    continues a killed run; --part divides them among processes and machines. Crops that cannot be
    read are named and left out, and the exit status is then 1.

    Example: gmn embed bundled --data cuhk01:/data/cuhk01 --out features.npz

    Example: gmn embed bundled --data cuhk01:/data/cuhk01 --out features --part 1/2
    """
    from training.datasets.registry import read_dataset
    from training.evaluation.offline import embed_to_file, embed_to_folder

    to_file = out.suffix == ".npz" or out.is_file()
    if to_file and part:
        raise InputProblem(f"--part {part}: divides a folder of shards; name a folder as --out")
    shards = _part(part or "1/1")
    records = read_dataset(data).records
    network = _network(artefact, device, bfloat16)
    if to_file:
        outcome = embed_to_file(network, records, out, progress_bar)
    else:
        outcome = embed_to_folder(network, records, out, shards, progress_bar)
    unreadable = outcome.unreadable
    for crop in unreadable[:UNREADABLE_SHOWN]:
        typer.echo(f"left out: {crop}", err=True)
    if (more := len(unreadable) - UNREADABLE_SHOWN) > 0:
        typer.echo(f"left out: {more:,} more, listed in the files as `unreadable`", err=True)
    in_shards = f" in {counted(outcome.written, 'new shard')}, {outcome.skipped:,} existed"
    typer.echo(
        f"{out}: {counted(outcome.features, 'feature')}{'' if to_file else in_shards}; "
        f"{counted(len(unreadable), 'crop')} left out; "
        f"computed by {network.runtime} in {network.precision}",
        err=True,
    )
    if unreadable:
        raise typer.Exit(1)


def _part(asked: str) -> Part:
    from training.evaluation.offline import Part

    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", asked)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputProblem(f"--part {asked}: write I/N, such as 2/4 for the second of 4 processes")
    return Part(int(match[1]), int(match[2]))


def _network(
    artefact: str,
    device: str,
    bfloat16: bool,
) -> Network:
    from model.artefact import load_artefact, resolve_artefact
    from model.precision import choose_device
    from training.evaluation.offline import Network, network_of
    from training.evaluation.peers import INPUT, SUFFIXES, Peer

    if Path(artefact).suffix in SUFFIXES:
        peer = Peer(Path(artefact))
        return Network(INPUT, peer.embed_crops, peer.name)
    return network_of(load_artefact(resolve_artefact(artefact)), choose_device(device), bfloat16)
