"""The base classes of the parts of an artefact's description."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """A frozen part of an artefact's description, in which unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Metadata(Stored):
    """A part in which fields of other versions are ignored.

    The weights and the input of the networks do not depend on it.
    """

    model_config = ConfigDict(extra="ignore")


def is_absent(value: object) -> bool:
    """Return whether a field has no value; passed as `exclude_if` by fields that are optional.

    A file without such a field is also read by versions that do not know the field.
    """
    return value is None
