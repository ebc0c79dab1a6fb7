"""`gmn model-card` and `gmn artefacts`: what an artefact is, and what it may be used for.

A card is written from the content of the artefact's file, and from what is known about published
weights. `python -m bench.model_card` writes the cards of the shipped artefacts, and the table of
their permitted uses, to docs/models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.tables import ROOT, fill, markdown_table, percent
from model.permitted_use import (
    BEYOND_COPYRIGHT,
    PermittedUse,
    corrected_terms,
    permitted_use,
    terms_of_use,
)

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
USES = """The answers follow from the licence of each artefact and from the terms of the data sets
that its file names. They are no legal advice. *Business* is use in a company's own work or in what
it does for others; *resale* is to pass the weights on as part of a product. *By licence* means that
the publisher's licence permits it, which says nothing about the training data."""
USES_NOTE = f"""**{BEYOND_COPYRIGHT}**
[Privacy](../privacy.md#before-the-first-crop) says what to settle before the first crop.

An artefact of your own that began from `bundled` or `small` is for research, like these. For one
that began from `open` or `small-start`, the terms of your own data decide: `see terms`.
`gmn artefacts FILE` answers for any file, and `GET /v1/model` and the foot of the page for the one
that is served."""
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


def artefacts(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ARTEFACT]...", help="Names or files; without any, what ships."),
    ] = None,
) -> None:
    """Lists artefacts with what they may be used for, one on a line.

    The answers follow from the licence and from the terms of the training data that the file names.
    They are no legal advice.

    Example: gmn artefacts

    Example: gmn artefacts runs/site/model.safetensors
    """
    from model.artefact import artefact_name, read_description, resolve_artefact, shipped_artefacts

    for file in files or shipped_artefacts():
        path = resolve_artefact(file)
        uses = permitted_use(read_description(path).provenance)
        typer.echo(f"{artefact_name(path)}: {_answers(uses)}. {uses.data}")
    typer.echo(BEYOND_COPYRIGHT)


def permitted_uses() -> str:
    """Write the page of what the shipped artefacts may be used for."""
    from model.artefact import read_description, shipped_artefacts

    uses = {
        name: permitted_use(read_description(path).provenance)
        for name, path in shipped_artefacts().items()
    }
    rows = [{"artefact": f"[{name}]({name}.md)"} | own._asdict() for name, own in uses.items()]
    return "\n\n".join(["# May I use it?", USES, markdown_table(rows), USES_NOTE]) + "\n"


def _answers(uses: PermittedUse) -> str:
    return f"research: {uses.research}; business: {uses.business}; resale: {uses.resale}"


def _sections(name: str, about: Description) -> Iterator[str]:
    origin = about.provenance
    yield f"# Model card: {name.removesuffix('.safetensors')}"
    uses = permitted_use(origin)
    yield f"**Terms of use.** {terms_of_use(origin)}"
    yield f"**[May I use it?](use.md)** {_answers(uses).capitalize()}. {uses.data}"
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
    terms_of_all = terms_of_use(about.provenance)
    for source in about.provenance.sources:
        data = [f"{dataset.name} of this project" for dataset in source.data]
        data += source.documented_data
        trained = f"trained on {', '.join(data) or 'data that its file does not name'}"
        stated = corrected_terms(source.terms, about.provenance)
        # Terms that the card begins with are not repeated.
        terms = f"; {stated}" if stated not in terms_of_all else ""
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
    (PLACE / "use.md").write_text(permitted_uses(), encoding="utf-8")
