"""The base of everything that an artefact's description holds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """A part of an artefact's description: frozen, and unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Metadata(Stored):
    """A part of which fields that this version does not know are read past.

    No weight and no input of a network depends on it.
    """

    model_config = ConfigDict(extra="ignore")


def is_absent(value: object) -> bool:
    """Given as `exclude_if` to fields that older artefacts lack.

    An older version refuses fields that it does not know, so that absent ones are not written.
    """
    return value is None
