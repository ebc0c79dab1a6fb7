"""`gmn artefact`, `calibrate`, `export` and `import-weights`: files of artefacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.problems import InputProblem
from model.wording import counted
from training.commands.common import (
    ArtefactName,
    DataSpecs,
    DeviceOption,
    JsonOption,
    PluginOption,
    print_tables,
    progress_bar,
)

GALLERY_SIZES = (100, 1_000, 10_000)
SHOWN = ("far_1e-2", "far_1e-3")

artefact = typer.Typer(
    no_args_is_help=True,
    help="""Changes the file of an artefact, or makes one of two others.

    Example: gmn artefact add-graph mine.safetensors
    """,
)


@artefact.command("add-graph")
def add_graph(
    file: Annotated[Path, typer.Argument(help="The artefact's file, which is replaced.")],
) -> None:
    """Adds the graph that lets a service embed crops without PyTorch; fingerprints do not change.

    Artefacts that this version trains or imports have it already.

    Example: gmn artefact add-graph mine.safetensors
    """
    from model.artefact import load_artefact
    from model.openvino_graph import graph_tensors

    loaded = load_artefact(file)
    loaded.save(file, graph_tensors(loaded.embedder, loaded.description.preprocessing))
    typer.echo(f"{file}: has a graph for services without PyTorch")


@artefact.command("add-reference")
def add_reference(
    file: Annotated[Path, typer.Argument(help="The artefact's file, which is replaced.")],
    features: Annotated[
        list[Path],
        typer.Argument(metavar="FEATURES...", help="Files or folders of gmn embed by it."),
    ],
) -> None:
    """Adds a reference, by which the false alarms of a watch list are forecast.

    Its vectors show nobody: each is the sum of the vectors of two people whom the artefact was
    trained on. Training crops are recognised by their SHA-256, and all others are left out. Each
    file of features has one data set. Other fingerprints do not change, so that galleries keep
    their vectors and thresholds.

    Example: gmn artefact add-reference mine.safetensors cuhk01.npz market1501.npz
    """
    from training.reference import add_reference

    vectors = add_reference(file, features)
    typer.echo(f"{file}: has a reference of {counted(len(vectors), 'vector')}")


@artefact.command("extrapolate")
def extrapolate(
    start: Annotated[str, typer.Argument(help="The artefact that the training began from.")],
    trained: Annotated[str, typer.Argument(help="The artefact that it made.")],
    alpha: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="How far to go: 1 is the trained weights.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write.")],
) -> None:
    """Makes an artefact with the weights START + ALPHA · (TRAINED − START).

    With an ALPHA above 1 the weights continue the direction of a training, below 1 they lie between
    its start and its end. M-Net and thresholds are those of TRAINED until gmn calibrate fits them.

    Example: gmn artefact extrapolate open mine.safetensors --alpha 1.25 --out further.safetensors
    """
    from model.artefact import resolve_artefact
    from training.extrapolate import extrapolate
    from training.provenance import command_line

    files = (resolve_artefact(start), resolve_artefact(trained))
    description = extrapolate(*files, alpha, out, command_line())
    typer.echo(
        f"{out}: embedding fingerprint {description.embedding_fingerprint[:12]}…; its thresholds "
        f"are those of {trained} until gmn calibrate {out} fits them"
    )


def calibrate(
    artefact: ArtefactName,
    data: DataSpecs,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The file to write; without it the artefact itself is changed.",
        ),
    ] = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Fits an artefact's probabilities and thresholds again, and writes them into it.

    People whose crops the artefact was trained on are left out. Weights and embedding fingerprint
    do not change, so that galleries stay usable. If the artefact has no figures yet, it gets those
    of these people.

    Example: gmn calibrate bundled --data cuhk01:/data/cuhk01 --out mine.safetensors
    """
    from model.artefact import load_artefact, resolve_artefact, shipped_artefacts
    from model.precision import choose_device
    from model.weights import stored_tensors
    from training.datasets.registry import read_datasets
    from training.evaluation.calibration import calibrated_scores
    from training.evaluation.embedding import embed_searches
    from training.evaluation.evaluate_search import evaluate_search
    from training.evaluation.files import make_folder
    from training.evaluation.tables import Table
    from training.finish import brief_metrics
    from training.provenance import TrainingFingerprints
    from training.seen import unseen_people
    from training.validation import refuse_collapsed

    source = resolve_artefact(artefact)
    if out is None and artefact in shipped_artefacts():
        raise InputProblem(f"{artefact} ships with the program; name another file with --out")
    loaded = load_artefact(source)
    target = out or source
    make_folder(target.parent)
    chosen = choose_device(device)
    loaded.embedder.to(chosen)
    training = TrainingFingerprints.of(loaded)
    searches = {}
    people = []
    datasets = read_datasets(data)
    for dataset in datasets:
        search = unseen_people(dataset, loaded.description.provenance, training)
        searches[dataset.name] = search
        people.append(f"{'held-out ' if search.held_out else ''}identities of {dataset.name}")
        if search.held_out:
            others = len({record.identity for record in search.records})
            typer.echo(
                f"{dataset.name}: the artefact was trained on some of these people; only the other "
                f"{others:,} are used",
                err=True,
            )
    network = loaded.metric_network
    if network is not None:
        network.to(chosen)
    features = embed_searches(
        loaded.embedder,
        loaded.description.preprocessing,
        searches,
        progress_bar,
    )
    refuse_collapsed(str(source), features, network)
    with calibrated_scores(
        network,
        features,
        searches,
        list(searches),
        ", ".join(people),
        progress_bar,
        target.parent,
    ) as (calibration, scores):
        figures = loaded.description.provenance.metrics
        if not figures:
            figures = brief_metrics(
                [
                    evaluate_search(
                        None,
                        dataset,
                        searches[dataset.name],
                        loaded.description.scorings,
                        features[dataset.name],
                        scores[dataset.name],
                    )
                    for dataset in datasets
                ]
            )
        description = loaded.save(
            target,
            stored_tensors("metric_network", network) if network else {},
            calibration=calibration.model_dump(mode="json"),
            provenance=loaded.header["provenance"] | {"metrics": figures},
        )
    calibration = description.calibration
    if as_json:
        typer.echo(calibration.model_dump_json(indent=2))
        return
    rows = []
    for name in description.scorings:
        fitted = calibration.scorings[name]
        by_size = [fitted.operating_points(size) for size in GALLERY_SIZES]
        rows += [
            [name, point, *(f"{thresholds[point]:.3f}" for thresholds in by_size)]
            for point in SHOWN
        ]
    columns = ["scoring", "operating point", *(f"N = {size:,}" for size in GALLERY_SIZES)]
    print_tables([Table("Thresholds in galleries of N crops", columns, rows, labels=2)])
    typer.echo(
        f"{target}: calibrated on {calibration.data}; embedding fingerprint "
        f"{description.embedding_fingerprint[:12]}… has not changed"
    )


def export(
    artefact: ArtefactName,
    onnx: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Where to write embedder.onnx, pair_scorer.onnx and preprocessing.json.",
        ),
    ],
    plugins: PluginOption = None,
) -> None:
    """Writes an artefact's networks as ONNX graphs, for programs without PyTorch.

    Before they are written, ONNX Runtime runs the graphs, and their outputs are compared with
    PyTorch's.

    Example: gmn export bundled --onnx runs/bundled-onnx
    """
    from model.artefact import resolve_artefact
    from training.onnx_export import export_onnx
    from training.plugins import load_plugins

    load_plugins(plugins or ())
    parity = export_onnx(resolve_artefact(artefact), onnx)
    typer.echo(
        f"{onnx}: embedder.onnx, pair_scorer.onnx and preprocessing.json\n"
        f"compared with PyTorch on {parity.crops} drawn crops and {parity.pairs} pairs of them: "
        f"{parity.summary()}"
    )


def import_weights(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The state dict of an OSNet (.pth), as torchreid saves it.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="ARTEFACT", help="Where to write.")],
    trained_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A data set that the publisher of the weights names, such as MSMT17; repeatable.",
        ),
    ] = None,
    terms: Annotated[
        str, typer.Option(help="The weights' terms, such as 'Apache License 2.0'.")
    ] = "",
) -> None:
    """Makes an artefact of published OSNet weights, without M-Net.

    The artefact ranks by cosine, and is calibrated on drawn people: gmn calibrate fits it to
    photographed ones. gmn train with initial_weights=ARTEFACT adds M-Net.

    Example: gmn import-weights osnet_x0_25_msmt17.pth --trained-on MSMT17 --out osnet.safetensors
    """
    from training.import_weights import import_weights
    from training.provenance import command_line

    if out.suffix != ".safetensors":
        raise InputProblem(f"--out {out}: an artefact's name ends in .safetensors")
    description = import_weights(
        file,
        out,
        documented_data=trained_on or (),
        terms=terms,
        command=command_line(),
    )
    config = description.embedder
    typer.echo(f"{out}: {config.backbone}, {config.dimension} numbers a crop")
