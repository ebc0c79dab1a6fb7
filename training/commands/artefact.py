"""`gmn artefact`: changes of an artefact's file that need no data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

artefact = typer.Typer(
    no_args_is_help=True,
    help="""Looks after the file of an artefact.

    Example: gmn artefact add-graph mine.safetensors
    """,
)


@artefact.command("add-graph")
def add_graph(
    file: Annotated[Path, typer.Argument(help="The artefact's file, which is replaced.")],
) -> None:
    """Adds the graph with which a service computes without PyTorch; fingerprints stay.

    An artefact that this version trains or imports has it already.

    Example: gmn artefact add-graph mine.safetensors
    """
    from model.artefact import add_graph

    add_graph(file)
    typer.echo(f"{file}: holds a graph for services without PyTorch")
