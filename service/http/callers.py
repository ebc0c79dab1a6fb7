"""Who is calling and what they may do, by the keys of the record and of `GMN_API_KEYS_FILE`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from model.problems import InputProblem
from service.errors import Forbidden, ServiceError, Unauthorised
from service.http.keys import find_key, read_key_file
from service.record.small_records import ApiKey, Keys, Scope

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caller:
    """The sender of a request.

    Attributes:
        name: the key's id, or `loopback` where no key is asked for.
        scopes: what the caller may do; `admin` may do everything.
        gallery: the only gallery the caller may touch; None for all.
        learn: whether the caller's searches count for the calibration of the galleries searched.
    """

    name: str
    scopes: tuple[Scope, ...]
    gallery: str | None
    learn: bool = True

    def require(self, any_of: Collection[Scope]) -> None:
        """Raises `Forbidden` unless the caller has one of these scopes, or `admin`."""
        if "admin" not in self.scopes and not set(any_of) & set(self.scopes):
            raise Forbidden(
                f"the key {self.name} has the scope {', '.join(self.scopes)}, and this call needs "
                f"{' or '.join(any_of)}; send a key that has it"
            )

    def require_gallery(self, gallery: str | None) -> None:
        """Raises `Forbidden` where the caller's key is for another gallery; None stands for all."""
        if self.gallery not in (None, gallery):
            other = "all of them" if gallery is None else f"{gallery!r}"
            raise Forbidden(
                f"the key {self.name} is for the gallery {self.gallery!r} and this call is about "
                f"{other}; send a key for that, or for all"
            )

    def may_see(self, gallery: str) -> bool:
        """Whether the caller may see a gallery."""
        return self.gallery in (None, gallery)


# The caller where no key is asked for: on loopback, as long as there is none.
LOCAL_ADMIN = Caller("loopback", ("admin",), None)


class KeyRing:
    """Finds the caller of a request by the keys that were read last."""

    def __init__(self, records: Keys, file: Path | None, loopback: bool) -> None:
        """Reads the keys for the first time; blocks.

        Args:
            records: of the record store.
            file: of further keys. Where one is named, a key is asked for, also if it is empty.
            loopback: whether only this machine reaches the service, which then asks for a key as
                soon as there is one.

        Raises:
            InputProblem: where the file is wrong, or where no key protects an address that other
                machines reach.
        """
        self._records = records
        self._file = file
        self._loopback = loopback
        self._deployed, self._wrong = ([], []) if file is None else read_key_file(file)
        if self._wrong:
            raise InputProblem(self._wrong[0])
        self._recorded: Sequence[ApiKey] = records.all()
        self._current = True
        self._count()
        if not self._keys and not loopback:
            raise InputProblem(
                "other machines can reach this address, and there is no API key, so that anyone "
                "could read and delete galleries; make a key with gmn keys create --scope admin, "
                "name a file of keys in GMN_API_KEYS_FILE, or serve on 127.0.0.1"
            )
        if not self._keys and file is None:
            log.warning(
                "there is no API key: every program on this machine may do everything; a proxy in "
                "front needs keys, so make one with gmn keys create"
            )

    def caller(self, key: str | None, local: bool = True) -> Caller:
        """The caller that sends a key, or none.

        Args:
            key: as it was sent.
            local: whether the request comes from this machine itself and through no proxy.

        Raises:
            Unauthorised: where a key is asked for, and this one is unknown, revoked or expired.
        """
        if not self._keys and self._loopback and self._file is None:
            if local:
                return LOCAL_ADMIN
            raise Unauthorised(
                "this service has no key yet, and without one it answers this machine only; the "
                "request came through a proxy, or by HTTP/1.0 as a proxy's does: make a key with "
                "gmn keys create"
            )
        if key is None:
            raise Unauthorised(
                "this service asks for a key; send one as 'Authorization: Bearer <key>', or make "
                "one with gmn keys create"
            )
        found = find_key(key, self._keys)
        if found is None:
            raise Unauthorised(
                "this key is unknown here or was revoked; send another, or make one with "
                "gmn keys create"
            )
        if found.expires_at is not None and found.expires_at <= datetime.now(UTC):
            raise Unauthorised(
                f"the key {found.key_id} expired at {found.expires_at.isoformat()}; send another, "
                "or make one with gmn keys create"
            )
        return Caller(found.key_id, found.scopes, found.gallery, found.learn)

    def read(self) -> None:
        """Reads the file and the record again; blocks.

        While the record cannot be read, the keys that were read last stay in force.

        A wrong line of the file is no key and the others count; a file that is gone has none. So a
        mistake in the file locks out the keys of its lines, and lets no other in.
        """
        if self._file is not None:
            before = self._wrong
            try:
                self._deployed, self._wrong = read_key_file(self._file)
            except InputProblem as problem:
                self._deployed, self._wrong = [], [str(problem)]
            if self._wrong != before:
                log.error("%s", "; ".join(self._wrong) or "every line of the key file counts again")
        try:
            self._recorded = self._records.all()
            self._current = True
        except ServiceError as error:
            if self._current:
                log.error("keys could not be read again: %s", error.detail)
            self._current = False
        self._count()

    def _count(self) -> None:
        self._keys = {key.key_id: key for key in (*self._deployed, *self._recorded)}
