"""Provenances of artefacts that tests describe."""

from model.provenance import Provenance


def described_provenance(*data, sources=(), terms=""):
    """Return the provenance of weights that were trained on these data."""
    return Provenance(
        data=data,
        terms=terms,
        recipe={},
        command="",
        commit=None,
        created_at="",
        held_out={},
        initial_weights="none",
        metrics={},
        sources=sources,
    )
