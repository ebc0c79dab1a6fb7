"""The text of an API key, and how it is told from any other.

A key reads `gmn_<key_id>_<secret>`. The id is public: logs and `gmn keys revoke` name a key by it.
The secret is 256 random bits, so that a fast hash keeps it: there is no dictionary to try.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from service.record.key_records import ApiKey, Scope

KEY_ID = r"[A-Za-z0-9]{1,32}"
KEY_TEXT = re.compile(rf"gmn_({KEY_ID})_([A-Za-z0-9_-]{{32,128}})", re.ASCII)
SECRET_BYTES = 32
KEY_ID_BYTES = 6
# Nothing has this hash: it stands in for that of an unknown id.
NO_HASH = "0" * 64


def create_key(
    scopes: Sequence[Scope],
    gallery: str | None,
    note: str,
    learn: bool = True,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Makes a key: what is kept of it, and its text, which nobody can make again."""
    key_id, secret = secrets.token_hex(KEY_ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    kept = ApiKey(
        key_id,
        _sha256(secret),
        tuple(scopes),
        gallery,
        note,
        datetime.now(UTC),
        learn=learn,
        expires_at=expires_at,
    )
    return kept, f"gmn_{key_id}_{secret}"


def find_key(text: str, keys: Mapping[str, ApiKey]) -> ApiKey | None:
    """The key that a text is; None for an unknown, revoked or mistyped one.

    Takes as long for an unknown id as for a wrong secret.

    Args:
        text: as it was sent.
        keys: by their ids.
    """
    match = KEY_TEXT.fullmatch(text)
    key_id, secret = match.groups() if match else ("", "")
    found = keys.get(key_id)
    right = hmac.compare_digest(_sha256(secret), found.secret_sha256 if found else NO_HASH)
    return found if right else None


def redacted(text: str) -> str:
    """The text with every key's secret left out; the public id stays."""
    return KEY_TEXT.sub(r"gmn_\1_***", text) if "gmn_" in text else text


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
