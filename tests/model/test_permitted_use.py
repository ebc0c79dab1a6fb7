"""What an artefact may be used for, by its provenance."""

import tomllib
from pathlib import Path

import pytest

from model.artefact import read_description, shipped_artefacts
from model.permitted_use import (
    FOR_RESEARCH,
    INTEL,
    PUBLISHED,
    corrected_terms,
    permitted_use,
    terms_of_use,
)
from model.provenance import TrainingData, WeightSource
from tests.described import described_provenance

PUBLIC_SETS = Path(__file__).parents[2] / "training" / "datasets" / "public.toml"
RESEARCH_ALONE = ("yes", "no", "no")
BY_LICENCE = ("by licence",) * 3
BY_TERMS = ("see terms",) * 3


def data_of(name, spec=""):
    return TrainingData(
        name=name, spec=spec, terms="", crops=9, identities=3, cameras=2, fingerprints=0
    )


def weights(**about):
    return WeightSource(role="initial weights", name="start.safetensors", **about)


INTELS = weights(sha256=next(iter(PUBLISHED)), terms="Apache; the data are not stated.")


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("bundled", RESEARCH_ALONE),
        ("small", RESEARCH_ALONE),
        ("open", BY_LICENCE),
        ("small-start", BY_LICENCE),
    ],
)
def test_shipped_artefacts_are_for_research_or_have_their_publishers_licence(name, answers):
    provenance = read_description(shipped_artefacts()[name]).provenance
    uses = permitted_use(provenance)
    assert uses[:3] == answers
    assert INTEL.data in uses.data
    assert INTEL.terms in terms_of_use(provenance)
    assert "does not state" not in terms_of_use(provenance)


@pytest.mark.parametrize(
    ("provenance", "answers"),
    [
        (described_provenance(data_of("mine", "manifest:shop.csv")), BY_TERMS),
        (described_provenance(data_of("mine", "manifest:shop.csv"), sources=(INTELS,)), BY_TERMS),
        (described_provenance(data_of("renamed", "market1501:data/market1501")), RESEARCH_ALONE),
        (described_provenance(data_of("CUHK03-NP", "folder:cuhk03")), RESEARCH_ALONE),
        (described_provenance(sources=(weights(documented_data=("MSMT17",)),)), RESEARCH_ALONE),
        (
            described_provenance(
                data_of("mine", "manifest:shop.csv"),
                sources=(weights(data=(data_of("cuhk01", "cuhk01:campus"),)),),
            ),
            RESEARCH_ALONE,
        ),
        (described_provenance(sources=(weights(sha256="0" * 64, terms="MIT"),)), BY_TERMS),
        (described_provenance(sources=(INTELS,)), BY_LICENCE),
    ],
)
def test_data_for_research_decide_also_in_the_weights_that_a_training_began_from(
    provenance, answers
):
    assert permitted_use(provenance)[:3] == answers


def test_every_public_set_for_research_is_known():
    public = tomllib.loads(PUBLIC_SETS.read_text(encoding="utf-8"))
    kinds = {kind for kind, about in public.items() if "esearch" in about["terms"]}
    assert {"market1501", "msmt17", "cuhk01"} <= kinds
    assert kinds | {"dukemtmc"} <= set(FOR_RESEARCH)


def test_only_statements_about_published_weights_are_corrected():
    own = described_provenance(sources=(INTELS,), terms=f"Ours.\n{INTELS.terms}")
    assert terms_of_use(own) == f"Ours. {INTEL.terms}"
    other = described_provenance(
        sources=(weights(sha256="0" * 64, terms="MIT"),), terms="Ours. MIT"
    )
    assert terms_of_use(other) == "Ours. MIT"
    assert corrected_terms("Theirs.", own) == "Theirs."
