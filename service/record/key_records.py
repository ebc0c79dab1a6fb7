"""API keys as they are kept: never the secret, only its hash."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Scope = Literal["query", "enroll", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = ("query", "enroll", "metrics", "admin")


@dataclass(frozen=True)
class ApiKey:
    """Who may do what.

    Attributes:
        key_id: the public part, by which a key is named in logs and revoked.
        secret_sha256: of the secret part, hexadecimal. The secret is 256 random bits, so that a
            fast hash does: there is no dictionary of them.
        scopes: what it may do; `admin` may do everything.
        gallery: the only gallery it may touch; None for all.
        note: whom it was made for.
        learn: whether its searches count for the calibration of the galleries they search.
        expires_at: from then on it is refused; None for never.
    """

    key_id: str
    secret_sha256: str
    scopes: tuple[Scope, ...]
    gallery: str | None
    note: str
    created_at: datetime
    learn: bool = True
    expires_at: datetime | None = None
