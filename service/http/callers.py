"""Who is calling, and what they may do."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from service.errors import Forbidden
from service.record.key_records import ApiKey, Scope


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request.

    Attributes:
        name: the key's id, or `loopback` where no key is asked for.
        scopes: what they may do; `admin` may do everything.
        gallery: the only gallery they may touch; None for all.
        learn: whether their searches count for the calibration of the galleries they search.
    """

    name: str
    scopes: tuple[Scope, ...]
    gallery: str | None
    learn: bool = True

    @classmethod
    def of(cls, key: ApiKey) -> Caller:
        """Whoever holds a key."""
        return cls(key.key_id, key.scopes, key.gallery, key.learn)

    def require(self, any_of: Collection[Scope]) -> None:
        """Raises `Forbidden` unless they have one of these scopes, or `admin`."""
        if "admin" not in self.scopes and not set(any_of) & set(self.scopes):
            raise Forbidden(
                f"the key {self.name} has the scope {', '.join(self.scopes)}, and this call needs "
                f"{' or '.join(any_of)}; send a key that has it"
            )

    def require_gallery(self, gallery: str) -> None:
        """Raises `Forbidden` where their key is for another gallery."""
        if not self.may_see(gallery):
            raise Forbidden(
                f"the key {self.name} is for the gallery {self.gallery!r} and not for "
                f"{gallery!r}; send a key for that one, or for all"
            )

    def may_see(self, gallery: str) -> bool:
        """Whether a gallery is theirs to see."""
        return self.gallery in (None, gallery)

    def require_every_gallery(self) -> None:
        """Raises `Forbidden` where their key is for one gallery, and the call is about all."""
        if self.gallery is not None:
            raise Forbidden(
                f"the key {self.name} is for the gallery {self.gallery!r}, and this call is about "
                "all of them; send a key for all"
            )


# Where no key is asked for: on loopback, as long as there is none.
WHOEVER_IS_HERE = Caller("loopback", ("admin",), None)
