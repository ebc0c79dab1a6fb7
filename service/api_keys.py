"""API keys: their format, `GMN_API_KEYS_FILE` (one JSON object per line), and authentication.

A key has the form `gmn_<key_id>_<secret>`. The id is public: logs and `gmn keys revoke` use it. The
secret has 256 random bits, so a fast hash suffices: no dictionary attack is possible.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import re
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gmn_client.models import Key, Scope
from model.problems import InputProblem, legible
from service.errors import (
    InvalidField,
    RecordUnavailable,
    TooManyRequests,
    Unauthorised,
    UnknownKey,
)
from service.ops.shared import KeyRates
from service.ops.threads import MonitoredThreadPool
from service.record.keys import (
    API_KEY,
    KEY_ID,
    NO_HASH,
    ApiKey,
    Keys,
    any_administers,
)
from service.settings import SCOPES
from service.sign_on import User, read_address
from service.wording import describe_invalid

KEY_TEXT = re.compile(rf"gmn_({KEY_ID})_([A-Za-z0-9_-]{{32,128}})", re.ASCII)
SECRET_BYTES = 32
KEY_ID_BYTES = 6
# Interval at which the record notes when keys were last used.
NOTED_EVERY_SECONDS = 60.0
# A request of a user that goes on, such as a stream of events, ends after this time.
USER_STAYS = timedelta(minutes=15)
EXAMPLE = '{"key_id": "door", "secret_sha256": "<64 hex digits>", "scopes": ["query"]}'
NO_KEY = (
    "there is no API key: every program on this machine may do everything, and so may every client "
    "of a proxy on it; make one with gmn keys create --scope admin before a proxy stands in front"
)
UNKNOWN_KEY = (
    "a request brings an API key, but this service has none, so that every key may do everything; "
    "if there should be keys, stop this service and name their data directory with --data-dir or "
    "GMN_DATA_DIR"
)
OTHER_RATE = "make a key with another rate with gmn keys create --rate"
log = logging.getLogger(__name__)


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    address = read_address(host)
    return address is not None and address.is_loopback


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def chosen_scopes(given: Iterable[str]) -> tuple[Scope, ...]:
    """Return the scopes in comma-separated texts; raises `InvalidField`."""
    texts = ",".join(str(text) for text in given).split(",")
    wanted = {text.strip() for text in texts} - {""}
    unknown = sorted(wanted - set(SCOPES))
    if unknown or not wanted:
        named = ", ".join(legible(scope) for scope in unknown)[:80]
        raise InvalidField(
            f"scopes: there is no scope {named or 'in it'}; name one or several of "
            f"{', '.join(SCOPES)}"
        )
    return tuple(scope for scope in SCOPES if scope in wanted)


def create_key(expires_days: int | None = None, **fields: Any) -> tuple[ApiKey, str]:
    """Create a key; returns its record and its text, which cannot be recovered later.

    Args:
        expires_days: days until the key expires; None for never.
        fields: all other fields of the `ApiKey` except its id and its secret.
    """
    now = datetime.now(UTC)
    key = ApiKey(
        secrets.token_hex(KEY_ID_BYTES),
        NO_HASH,
        created_at=now,
        expires_at=None if expires_days is None else now + timedelta(expires_days),
        **fields,
    )
    return with_new_secret(key)


def with_new_secret(key: ApiKey, former_until: datetime | None = None) -> tuple[ApiKey, str]:
    """Return a key with a new secret, and its text; the old secret stays valid for a while."""
    secret = secrets.token_urlsafe(SECRET_BYTES)
    changed = replace(
        key,
        secret_sha256=_sha256(secret),
        former_sha256=key.secret_sha256 if former_until else None,
        former_until=former_until,
    )
    return changed, f"gmn_{key.key_id}_{secret}"


def warnings_about(
    key: ApiKey, others: Collection[ApiKey], galleries: Collection[str]
) -> Iterator[str]:
    if not others:
        yield "This is the first key: from now on every call needs one, also on this machine."
    if not any_administers([*others, key]):
        yield (
            "No key has the scope admin for every gallery, so that no call can make a gallery or a "
            "key; make one with gmn keys create --scope admin."
        )
    if key.gallery and key.gallery not in galleries:
        yield f"There is no gallery {key.gallery} yet; the key is for one of that name."


def find_key(text: str, keys: Mapping[str, ApiKey]) -> ApiKey | None:
    """Return the key of a text, or None; unknown ids take as long as wrong secrets."""
    match = KEY_TEXT.fullmatch(text)
    key_id, secret = match.groups() if match else ("", "")
    key = keys.get(key_id)
    digest = _sha256(secret)
    is_right = hmac.compare_digest(digest, key.secret_sha256 if key else NO_HASH)
    if key and key.former_until and key.former_until > datetime.now(UTC):
        is_right |= hmac.compare_digest(digest, key.former_sha256 or NO_HASH)
    return key if is_right else None


def redacted(text: str) -> str:
    return KEY_TEXT.sub(r"gmn_\1_***", text) if "gmn_" in text else text


def read_key_file(path: Path | None) -> tuple[list[ApiKey] | None, list[str]]:
    """Read a key file, and return its keys and a message for each problem.

    The keys are None if the file cannot be read at the moment, and empty if it is missing or not
    UTF-8.
    """
    if path is None:
        return [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        problem = (
            f"{path}: the API keys cannot be read ({reason}); name a readable file of lines like "
            f"{EXAMPLE} in GMN_API_KEYS_FILE"
        )
        is_empty = isinstance(error, FileNotFoundError | UnicodeDecodeError)
        return [] if is_empty else None, [problem]
    keys: dict[str, ApiKey] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            read = API_KEY.validate_json(line, strict=True, extra="forbid")
        except ValidationError as error:
            # Omit the wrong value, which may be the secret itself.
            first = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            message = describe_invalid(first)
            reason = f"{field}: {message}" if field else message
            problems.append(f"{path}, line {number}: {reason}; write it like {EXAMPLE}")
            continue
        key = replace(read, created_at=written_at)
        if keys.setdefault(key.key_id, key) is not key:
            problems.append(
                f"{path}, line {number}: key_id {key.key_id} is there twice; rename one of them"
            )
    return list(keys.values()), problems


# The caller when no key is required: on loopback, as long as no key exists.
LOCAL_ADMIN = ApiKey("loopback", NO_HASH, ("admin",))


class KeyRing:
    """Authenticates requests with the keys that were read most recently."""

    def __init__(
        self,
        records: Keys,
        file: Path | None,
        loopback: bool,
        rates: KeyRates | None = None,
        signs_on: bool = False,
    ) -> None:
        """Read the keys for the first time; blocks.

        Args:
            file: additional keys. If a file is named, a key is required even if the file is empty.
            loopback: only this machine can reach the service, so no key is required until one
                exists.
            rates: counts the requests of keys.
            signs_on: a proxy signs users on, so that a key or a user is always required.

        Raises:
            InputProblem: the file is malformed, or other machines can reach the service and no key
                exists.
        """
        self.threads = MonitoredThreadPool(1, "keys")
        self._records = records
        self._file = file
        self._loopback = loopback
        self._signs_on = signs_on
        deployed, self._wrong = read_key_file(file)
        if self._wrong:
            raise InputProblem(self._wrong[0])
        self._deployed = deployed or []
        self._recorded: Sequence[ApiKey] = records.all()
        self._asked_for = records.asked_for
        self._current = True
        self._used: dict[str, datetime] = {}
        self._has_warned_of_unknown_key = False
        self._noted = time.monotonic()
        self._rates = rates or KeyRates()
        self._merge_keys()
        if not self._keys and not loopback and not signs_on:
            raise InputProblem(
                "other machines can reach this address, and there is no API key, so that anyone "
                "could read and delete galleries; make a key with gmn keys create --scope admin, "
                "name a file of keys in GMN_API_KEYS_FILE, or serve on 127.0.0.1"
            )
        if self.is_open:
            log.warning(NO_KEY)

    def caller(self, key: str | None, local: bool = True) -> ApiKey:
        """Return the key of a request, or `LOCAL_ADMIN` if none is required.

        Args:
            key: text of the key that was sent; None if there was none.
            local: the request comes directly from this machine, not through a proxy.

        Raises:
            Unauthorised: the key is missing, unknown, revoked or expired.
        """
        match = None if key is None else find_key(key, self._keys)
        if self.is_open:
            if local:
                if key is not None:
                    self._warn_of_unknown_key()
                return LOCAL_ADMIN
            reason = (
                "this service has no key yet, and without one it answers this machine only; the "
                "request came through a proxy, or by HTTP/1.0 as a proxy's does: send a key"
            )
        elif key is None:
            reason = "this service asks for a key; send one as 'Authorization: Bearer <key>'"
            if self._signs_on:
                reason += ", or sign on at its proxy"
        elif match is None:
            reason = "this key is unknown here or was revoked; send another"
        elif match.expires_at is None or match.expires_at > datetime.now(UTC):
            self._used[match.key_id] = datetime.now(UTC)
            return match
        else:
            reason = (
                f"the key {match.key_id} expired at {match.expires_at.isoformat()}; send another"
            )
        raise Unauthorised(f"{reason}, or make one with gmn keys create")

    def _warn_of_unknown_key(self) -> None:
        # Otherwise a service of a wrong data directory would look like the right one.
        if not self._has_warned_of_unknown_key:
            self._has_warned_of_unknown_key = True
            log.warning(UNKNOWN_KEY)

    async def require_rate(self, key: ApiKey, count: int = 1) -> None:
        """Count a request of a key, or its images; an idle minute's worth may be sent at once.

        Raises:
            InvalidField: more images than the rate allows within a minute.
            TooManyRequests: the rate is currently exceeded.
        """
        if key.rate is None:
            return
        may = f"send {key.rate} {'images' if key.rate_images else 'requests'} a minute"
        if count > key.rate:
            raise InvalidField(
                f"images: {count} were sent, and the key {key.key_id} may {may}; send fewer"
            )
        wait = await self._rates.take(key.key_id, key.rate, count)
        if wait:
            raise TooManyRequests(key.key_id, may, OTHER_RATE, retry_after_s=math.ceil(wait))

    def require_valid(self, key: ApiKey) -> None:
        """Raise `Unauthorised` if a key that was valid is not any more."""
        if isinstance(key, User):
            # The proxy names a user's groups with each request.
            if datetime.now(UTC) > key.created_at + USER_STAYS:
                raise Unauthorised("the user signed on some time ago; send the request again")
            return
        known = LOCAL_ADMIN if self.is_open else self._keys.get(key.key_id)
        if known is None or (known.expires_at and known.expires_at <= datetime.now(UTC)):
            raise Unauthorised(f"the key {key.key_id} was revoked or has expired; send another")

    def valid_keys(self) -> dict[str, ApiKey]:
        """Return the keys that are valid now, by their ids."""
        if self.is_open:
            return {LOCAL_ADMIN.key_id: LOCAL_ADMIN}
        now = datetime.now(UTC)
        return {
            key_id: key
            for key_id, key in self._keys.items()
            if key.expires_at is None or key.expires_at > now
        }

    def listed(self) -> list[Key]:
        self.read()
        used = self._records.last_used()
        keys = self._keys.values()
        return [
            Key(**vars(key), last_used_at=used.get(key.key_id), in_file=key in self._deployed)
            for key in sorted(keys, key=lambda key: (key.created_at, key.key_id))
        ]

    def add(self, key: ApiKey) -> list[ApiKey]:
        """Store a new key, valid from now on, and return the previous ones; blocks.

        Raises:
            KeyConflict: it would be the first key but is not an administrator's.
        """
        self.read()
        others = list(self._keys.values())
        self._records.add(key, self._deployed)
        self.read()
        return others

    def revoke(self, key_id: str) -> None:
        """Revoke a key from now on; blocks.

        Raises:
            UnknownKey: the record has no such key.
            KeyConflict: it is the last administrator's key.
        """
        self.read()
        if not self._records.revoke(key_id, self._deployed):
            raise UnknownKey(key_id)
        self.read()

    def read(self) -> None:
        """Read the file and the record again, and note which keys were used; blocks.

        While either cannot be read, the keys read before stay valid. Malformed lines of the file
        are skipped, and a missing or undecodable file counts as empty: a mistake in the file only
        disables keys.
        """
        deployed, wrong = read_key_file(self._file)
        if deployed is not None:
            self._deployed = deployed
        if wrong != self._wrong:
            log.error("%s", "; ".join(wrong) or "every line of the key file counts again")
            self._wrong = wrong
        try:
            self._recorded = self._records.all()
            self._current = True
            self._asked_for = self._records.asked_for
            if self._used and time.monotonic() - self._noted > NOTED_EVERY_SECONDS:
                self._noted = time.monotonic()
                used = self._used
                self._used = {}
                self._records.note_used(used)
        except Exception as error:
            # Out of file descriptors, SQLite raises an error of its own.
            if self._current and not isinstance(error, RecordUnavailable):
                log.error("keys could not be read again, or noted as used", exc_info=error)
            self._current = False
        self._merge_keys()

    def _merge_keys(self) -> None:
        self._keys = {key.key_id: key for key in (*self._deployed, *self._recorded)}
        asked_for = self._keys or self._asked_for
        is_closed = self._file is not None or self._signs_on or bool(asked_for)
        self.is_open = self._loopback and not is_closed
