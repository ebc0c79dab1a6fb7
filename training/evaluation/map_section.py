"""Activation maps of several models over the same crops, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from training.datasets.record import CropRecord
from training.evaluation.markup import paragraph, picture, section
from training.evaluation.pictures import jpeg

Maps = Sequence[Mapping[str, NDArray[np.uint8]]]
"""Of each crop, by the name of its map, the crop with the map over it, `(H, W, 3)` uint8."""


def map_section(records: Sequence[CropRecord], models: Mapping[str, Maps]) -> str:
    """A row for each crop, and beside it every model's maps.

    Args:
        records: the crops.
        models: by a model's name, what `draw_maps` gave of these crops.

    Raises:
        InputProblem: naming the crop that cannot be read.
    """
    head, names = ["<th></th>"], ["<th scope='col'>crop</th>"]
    for model, maps in models.items():
        head.append(
            f'<th class="apart" scope="colgroup" colspan="{len(maps[0])}">{escape(model)}</th>'
        )
        names += [_cell("th", place, escape(name)) for place, name in enumerate(maps[0])]
    rows = []
    for number, record in enumerate(records):
        who = f"{record.identity}, camera {record.camera}"
        cells = [f"<td>{picture(jpeg(record.decode()), who)}</td>"]
        for model, maps in models.items():
            cells += [
                _cell("td", place, picture(jpeg(drawn), f"{who}: {name} of {model}"))
                for place, (name, drawn) in enumerate(maps[number].items())
            ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return section(
        "Where the networks look",
        [
            paragraph(
                "The sum over channels of |activation|, each map scaled to itself: bright is where "
                "a stage responds most.",
                "note",
            ),
            f'<div class="wide" tabindex="0"><table class="maps"><caption>Activation maps</caption>'
            f"<thead><tr>{''.join(head)}</tr><tr>{''.join(names)}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table></div>",
        ],
    )


def _cell(tag: str, place: int, inside: str) -> str:
    apart = ' class="apart"' if place == 0 else ""
    return f"<{tag}{apart}>{inside}</{tag}>"
