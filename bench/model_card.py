"""`gmn model-card`: writes an artefact's card from the content of its file alone.

`python -m bench.model_card` writes the cards of the shipped artefacts to docs/models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.tables import ROOT, fill, markdown_table, percent

if TYPE_CHECKING:
    from model.artefact import Description

PLACE = ROOT / "docs" / "models"
DATA = {
    "data set": "{name}",
    "crops": "{crops:,}",
    "people": "{identities:,}",
    "cameras": "{cameras:,}",
    "terms": "{terms}",
}
MEASURED = {
    "held out of": "{set}",
    "people": "{identities:,}",
    "queries": "{queries:,}",
    "scoring": "{scoring}",
    "Rank-1, %": "{rank_1}",
    "mAP, %": "{mAP}",
}
USE = """It ranks crops of people, cut out of camera frames, by likeness, to find a person again
across cameras. A person looks at each result before anything follows from it."""
LIMITS = """- It recognises no faces. Whether it finds a person after a change of clothes is not
  measured.
- Figures hold for cameras like those of the training. [results](../results.md) has what is left of
  them where a whole data set was left out.
- The data sets do not state age, sex or origin of their people, so errors by group are not known.
  Measure it with labelled crops of the people and cameras that it is to serve, by `gmn evaluate`,
  before decisions depend on it.
- An operating point names the share of searches for people who are not enrolled that are answered
  `match`; it is larger where the thresholds do not fit the cameras
  ([calibration](../calibration.md))."""


def model_card(
    artefact: Annotated[str, typer.Argument(help="A shipped name, or a file.")] = "bundled",
) -> None:
    """Prints an artefact's model card as Markdown: use, terms, data, figures, limits.

    Everything in it is read from the file, which is held against its fingerprint first.

    Example: gmn model-card bundled
    """
    typer.echo(card(artefact), nl=False)


def card(artefact: str) -> str:
    """Write the card of a shipped name or a file; raises `ArtefactProblem` for a damaged file."""
    from model.artefact import artefact_name, load_artefact, resolve_artefact

    path = resolve_artefact(artefact)
    about = load_artefact(path).description
    return "\n\n".join(_sections(artefact_name(path), about)) + "\n"


def _sections(name: str, about: Description) -> Iterator[str]:
    origin = about.provenance
    yield f"# Model card: {name.removesuffix('.safetensors')}"
    yield f"**Terms of use.** {' '.join(origin.terms.split())}"
    yield f"## Use\n\n{USE}"
    yield "## Networks\n\n" + "\n".join(_networks(about))
    yield "## Training data\n\n" + _data(about)
    if origin.sources:
        yield "## Weights that it began from\n\n" + "\n".join(_sources(about))
    yield "## Figures\n\n" + _figures(about)
    yield f"## Limits\n\n{LIMITS}"
    yield "## Origin\n\n" + "\n".join(_origin(about))


def _networks(about: Description) -> Iterator[str]:
    embedder = about.embedder
    sizes = about.preprocessing
    yield f"- Embedder: `{embedder.backbone}`, features of {embedder.dimension} numbers"
    yield f"- Input: {sizes.height} × {sizes.width} pixels, RGB"
    pair = "M-Net, which compares pairs of features" if about.metric_network else "none"
    yield f"- Metric network: {pair}"
    yield f"- Scorings: {', '.join(about.scorings)}; `{about.default_scoring}` is the default"


def _data(about: Description) -> str:
    if not about.provenance.data:
        return "None of this project: the weights are as their publisher has them."
    table = markdown_table(fill(DATA, data.model_dump()) for data in about.provenance.data)
    share = about.provenance.held_out.get("fraction")
    left = f"\n\nOf the people {share:.0%} were held out of the training of the weights."
    return table + (left if share else "")


def _sources(about: Description) -> Iterator[str]:
    for source in about.provenance.sources:
        data = [f"{dataset.name} of this project" for dataset in source.data]
        data += source.documented_data
        trained = f"trained on {', '.join(data)}" if data else "its training data are not known"
        terms = f"; {' '.join(source.terms.split())}" if source.terms else ""
        yield f"- {source.role}: `{source.name}`, {trained}{terms}"


def _figures(about: Description) -> str:
    rows = []
    for people, metrics in about.provenance.metrics.items():
        for scoring in about.scorings:
            figures: Any = metrics.get(scoring)
            if isinstance(figures, dict) and "mAP" in figures:
                shown = {key: percent(figures[key]) for key in ("rank_1", "mAP")}
                rows.append(fill(MEASURED, metrics | shown | {"set": people, "scoring": scoring}))
    if not rows:
        return "None was measured on people: see [results](../results.md)."
    return markdown_table(rows) + "\n\nBrackets: 95% bootstrap intervals."


def _origin(about: Description) -> Iterator[str]:
    origin = about.provenance
    yield f"- Made {origin.created_at} by commit `{origin.commit}`"
    yield f"- Command: `{origin.command}`"
    yield f"- Fingerprint: `{about.artefact_fingerprint}`"
    yield f"- Fingerprint of the embedder: `{about.embedding_fingerprint}`"


if __name__ == "__main__":
    from model.artefact import shipped_artefacts

    for shipped in shipped_artefacts():
        (PLACE / f"{shipped.replace('@', '-')}.md").write_text(card(shipped), encoding="utf-8")
