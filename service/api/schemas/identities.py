"""Identities, as they go over the wire."""

from __future__ import annotations

from service.api.schemas.base import Schema


class IdentityOut(Schema):
    """How many crops, under how many cameras, one identity has."""

    identity: str
    crops: int
    cameras: int


class IdentityDetailOut(Schema):
    """How many crops one identity has, and which cameras took them."""

    identity: str
    crops: int
    cameras: list[str]


class IdentitiesOut(Schema):
    """One page of identities, in the order of their names."""

    results: list[IdentityOut]
    next_cursor: str | None


class RelabelledOut(Schema):
    """How many crops bear the new name; `merged` where others bore it before."""

    gallery_version: int
    identity: str
    changed: int
    merged: bool


class RemainderOut(Schema):
    """What is still kept of a forgotten person: where, what, and until when."""

    where: str
    what: str
    until: str


class ForgottenOut(Schema):
    """What was removed of a person, crops by snapshot too, and what remains."""

    gallery_version: int
    removed: int
    snapshots: dict[str, int]
    remaining: list[RemainderOut]
