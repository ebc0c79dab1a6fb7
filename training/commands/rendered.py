"""`gmn draw-people`: draw a data set of rendered people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.wording import counted
from training.commands.common import progress_bar


def draw_people(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the data set.")],
    people: Annotated[int, typer.Option(help="The number of people.")] = 500,
    crops: Annotated[int, typer.Option(help="The number of crops of each.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same people.")] = 0,
) -> None:
    """Draws crops of people who do not exist, as a data set to train on.

    Bodies, garments and hair are meshes of MakeHuman, which are free of rights (CC0); their
    colours and patterns, the poses, cameras and backgrounds are drawn. Each person is seen by four
    of the eight cameras of a site. A stopped command continues when it is called again.

    Example: gmn draw-people drawn --people 500 --crops 16
    """
    from training.rendered import draw

    plan = draw.Plan(people, crops, seed)
    with progress_bar("Drawing people", people) as progress:
        draw.draw_people(plan, out, progress)
    typer.echo(f"{out}: {counted(people, 'person', 'people')}, {counted(people * crops, 'crop')}")
