"""The uses that an artefact's licence and the terms of its training data permit.

The answers follow from the provenance of an artefact, and from what became known about published
weights after artefacts had been made from them. They are no legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from model.provenance import Provenance

Permission = Literal["yes", "by licence", "no", "see terms"]
# Public data sets whose terms allow research alone, as kinds of data sets and publishers' names
# spell them, without their hyphens and spaces.
FOR_RESEARCH = (
    *("market1501", "msmt17", "cuhk01", "cuhk02", "cuhk03", "cuhk03np", "cuhksysu", "viper"),
    *("grid", "prid", "prid2011", "ilids", "dukemtmc", "dukemtmcreid"),
)
BEYOND_COPYRIGHT = (
    "Law beyond copyright, such as the rules of the EU AI Act on remote biometric identification, "
    "applies to every artefact."
)


class PublishedWeights(NamedTuple):
    """Facts about weights that others published.

    Attributes:
        terms: terms of use, with what is known about the training data.
        data: what is known and unknown about the training data, in sentences.
    """

    terms: str
    data: str


class PermittedUse(NamedTuple):
    """The uses that an artefact's licence and the terms of its data permit.

    Attributes:
        research: use in research.
        business: use in a company's own work, or in what it does for others.
        resale: passing the weights on as part of a product.
        data: what is known and unknown about the training data, in sentences.
    """

    research: Permission
    business: Permission
    resale: Permission
    data: str


INTEL = PublishedWeights(
    terms=(
        "Apache License 2.0 (Intel, Open Model Zoo); the training data are not public, and the "
        "publisher names MSMT17, whose terms are for research."
    ),
    data=(
        "Intel's training data are not public. Its published configurations name MSMT17, whose "
        "terms are for research, and its maintainer says that more data were used, which are "
        "private (openvinotoolkit/training_extensions, #2526, October 2023)."
    ),
)
# By SHA-256 of the file, as a `WeightSource` has it.
PUBLISHED = {
    # person-reidentification-retail-0277
    "23f9a898ca10adcca35b691d4ae5072537c868e8bcb308162220d568b3461733": INTEL,
    # person-reidentification-retail-0287
    "590248d93dff2eed54c355e4be79ac8742373e2fe1dc1d020c5141cdd86107e8": INTEL,
}


def permitted_use(provenance: Provenance) -> PermittedUse:
    """Return what the weights of an artefact may be used for.

    Weights that were trained on data for research, or that began from such weights, are for
    research alone. Weights of a known publisher on which nothing was trained have the publisher's
    licence. For all others the terms of their data decide, which the owner of the data knows.
    """
    for_research = sorted(set(_data_for_research(provenance)))
    published = _published(provenance)
    sentences = [weights.data for weights in published]
    if provenance.data:
        names = ", ".join(data.name for data in provenance.data)
        sentences.insert(0, f"The weights were trained on {names}.")
    if for_research:
        sentences.append(f"The terms of {', '.join(for_research)} allow research alone.")
        return PermittedUse("yes", "no", "no", " ".join(sentences))
    if published and not provenance.data:
        sentences.append(
            "What that means for a use that Apache-2.0 permits is for your lawyers to weigh."
        )
        return PermittedUse("by licence", "by licence", "by licence", " ".join(sentences))
    sentences.append("The terms decide.")
    return PermittedUse("see terms", "see terms", "see terms", " ".join(sentences))


def terms_of_use(provenance: Provenance) -> str:
    """Return the terms of an artefact on one line, corrected by what is known today."""
    return corrected_terms(provenance.terms, provenance)


def corrected_terms(terms: str, provenance: Provenance) -> str:
    """Return terms on one line, with what is known today about published weights.

    Args:
        terms: the terms of the artefact, or of one of its sources.
        provenance: provenance of the artefact, whose sources name the published weights.
    """
    for source in provenance.sources:
        published = PUBLISHED.get(source.sha256 or "")
        if published and source.terms:
            terms = terms.replace(source.terms, published.terms)
    return " ".join(terms.split())


def _published(provenance: Provenance) -> list[PublishedWeights]:
    known = (PUBLISHED.get(source.sha256 or "") for source in provenance.sources)
    return list(dict.fromkeys(weights for weights in known if weights))


def _data_for_research(provenance: Provenance) -> Iterator[str]:
    """Yield the names of the data sets for research that weights and their sources saw."""
    data_sets = [*provenance.data]
    for source in provenance.sources:
        data_sets += source.data
        yield from (name for name in source.documented_data if _letters(name) in FOR_RESEARCH)
    for data in data_sets:
        kind = data.spec.partition(":")[0]
        if _letters(kind) in FOR_RESEARCH or _letters(data.name) in FOR_RESEARCH:
            yield data.name


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
