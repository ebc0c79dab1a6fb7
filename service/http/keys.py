"""API keys: their text, and `GMN_API_KEYS_FILE`, which holds one JSON object a line.

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
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from model.problems import InputProblem
from service.record.small_records import ApiKey, Scope

KEY_ID = r"[A-Za-z0-9]{1,32}"
KEY_TEXT = re.compile(rf"gmn_({KEY_ID})_([A-Za-z0-9_-]{{32,128}})", re.ASCII)
SECRET_BYTES = 32
KEY_ID_BYTES = 6
# Nothing has this hash: it stands in for that of an unknown id.
NO_HASH = "0" * 64
EXAMPLE = '{"key_id": "door", "secret_sha256": "<64 hex digits>", "scopes": ["query"]}'


def create_key(
    scopes: Sequence[Scope],
    gallery: str | None,
    note: str,
    learn: bool = True,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Makes a key: what is kept of it, and its text, which cannot be made again."""
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


class KeyLine(BaseModel):
    """One line.

    Attributes:
        key_id: letters and digits; the key reads `gmn_<key_id>_<secret>`.
        secret_sha256: SHA-256 of the secret, hexadecimal. The secret has 32 to 128 letters, digits,
            `-` and `_`, drawn at random.
        scopes: of `query`, `enroll`, `metrics` and `admin`.
        gallery: the only gallery that it is for.
        note: whom it was made for.
        learn: whether its searches count for the calibration of the galleries they search.
        expires_at: from then on it is refused, such as `2027-01-01T00:00:00Z`; null for never.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key_id: str = Field(pattern=f"^{KEY_ID}$")
    secret_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    gallery: str | None = None
    note: str = ""
    learn: bool = True
    expires_at: AwareDatetime | None = None


def read_key_file(path: Path) -> tuple[list[ApiKey], list[str]]:
    """The keys of a file, and what is wrong with its other lines.

    Raises:
        InputProblem: where there is no such file, or it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputProblem(
            f"{path}: the API keys cannot be read ({reason}); name a readable file of lines like "
            f"{EXAMPLE} in GMN_API_KEYS_FILE"
        ) from error
    keys: dict[str, ApiKey] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            read = KeyLine.model_validate_json(line)
        except ValidationError as error:
            problems.append(f"{path}, line {number}: {_reason(error)}; write it like {EXAMPLE}")
            continue
        key = ApiKey(**dict(read), created_at=written_at)
        if key.key_id in keys:
            problems.append(
                f"{path}, line {number}: key_id {key.key_id} is there twice; rename one of them"
            )
        keys.setdefault(key.key_id, key)
    return list(keys.values()), problems


def _reason(error: ValidationError) -> str:
    # Never what was there instead: it may be the secret itself.
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
