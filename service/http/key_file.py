"""`GMN_API_KEYS_FILE`: keys that are deployed with the service, one JSON object a line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from model.problems import InputProblem
from service.http.keys import KEY_ID
from service.record.key_records import ApiKey, Scope

EXAMPLE = '{"key_id": "door", "secret_sha256": "<64 hex digits>", "scopes": ["query"]}'


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
    scopes: list[Scope] = Field(min_length=1)
    gallery: str | None = None
    note: str = ""
    learn: bool = True
    expires_at: AwareDatetime | None = None


@dataclass(frozen=True)
class KeyFile:
    """What a file holds: its keys, and what is wrong with the lines that are none."""

    keys: tuple[ApiKey, ...]
    problems: tuple[str, ...]


def read_key_file(path: Path) -> KeyFile:
    """Reads a file; a line that is wrong is a problem, and the others count.

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
            key = _key(line, written_at)
        except ValidationError as error:
            problems.append(f"{path}, line {number}: {_reason(error)}; write it like {EXAMPLE}")
            continue
        if key.key_id in keys:
            problems.append(
                f"{path}, line {number}: key_id {key.key_id} is there twice; rename one of them"
            )
        keys.setdefault(key.key_id, key)
    return KeyFile(tuple(keys.values()), tuple(problems))


def _key(line: str, written_at: datetime) -> ApiKey:
    read = KeyLine.model_validate_json(line)
    return ApiKey(
        read.key_id,
        read.secret_sha256,
        tuple(read.scopes),
        read.gallery,
        read.note,
        written_at,
        learn=read.learn,
        expires_at=read.expires_at,
    )


def _reason(error: ValidationError) -> str:
    # Never what was there instead: somebody may have written the secret itself.
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
