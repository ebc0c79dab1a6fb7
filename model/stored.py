"""The base of everything that an artefact's description holds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """A part of an artefact's description: frozen, and unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def is_absent(value: object) -> bool:
    """Given as `exclude_if` to fields that older artefacts lack.

    An artefact's fingerprint covers its description as written: fields that an older version did
    not write must not appear in it.
    """
    return value is None
