"""`/v1/keys`: API keys are listed, made and revoked by an administrator of every gallery."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BeforeValidator, Field

from gmn_client.models import Keys, NewKey, Scope
from service.http import keys
from service.http.forms import MULTIPART, Form, GalleryName, Name
from service.http.guard import guarded_router, needs
from service.http.problems import problems
from service.record.keys import ApiKey
from service.runtime import Call
from service.search.options import MAX_NAMES, split_names

router = guarded_router("/v1/keys", "keys")
# A key for one gallery makes none, which could have another gallery or end later.
Administrator = Annotated[Call, needs("admin", every_gallery=True)]
# A whole key in its place is refused before the audit log would have it.
KeyId = Annotated[str, Path(max_length=32, pattern=f"^{keys.KEY_ID}$", description="A key's id.")]


class NewKeyForm(Form):
    """An API key to be made."""

    scopes: Annotated[
        tuple[Scope, ...], BeforeValidator(keys.chosen_scopes), BeforeValidator(split_names)
    ] = Field(examples=[["query"]], json_schema_extra={"minItems": 1, "maxItems": MAX_NAMES})
    """What it may do; `admin` may do everything. Repeated or comma-separated."""
    gallery: GalleryName | None = None
    """The only gallery that it is for."""
    note: Name = ""
    """Whom it is for; listed, never sent."""
    learn: bool = True
    """Whether its searches count for the calibration of the galleries."""
    expires_days: int | None = Field(None, ge=1, le=36_500)
    """It is refused after so many days; never unless sent."""
    rate: int | None = Field(None, ge=1, le=1_000_000)
    """Requests a minute that each process answers; any number unless sent."""
    rate_images: bool = False
    """The rate counts images, boxes of a frame too, in place of requests."""
    # A variable that is empty by mistake would widen the rights of the key.
    never_empty = frozenset({"gallery", "expires_days", "rate"})


@router.get("")
async def list_keys(call: Administrator) -> Keys:
    """Lists the API keys without their secrets, oldest first, those of GMN_API_KEYS_FILE too."""
    ring = call.runtime.keys
    return Keys(results=await ring.threads.run(ring.listed))


@router.post("", status_code=201, responses=problems("key_conflict"))
async def create_key(call: Administrator, form: Annotated[NewKeyForm, MULTIPART]) -> NewKey:
    """Makes an API key; its text is answered this once, and only a hash of it is kept.

    It counts at once in this process, and within a second in others. From the first key on, which
    has to be an administrator's, every call needs a key.
    """
    runtime = call.runtime
    (key, text) = keys.create_key(**dict(form))

    async def add(_: dict[str, Any]) -> list[ApiKey]:
        return await runtime.keys.threads.run(runtime.keys.add, key)

    others = await runtime.audited(
        "create_key",
        add,
        key_id=key.key_id,
        scopes=",".join(key.scopes),
        gallery=key.gallery,
    )
    galleries = {gallery.name for gallery in runtime.galleries.all()}
    warnings = list(keys.warnings_about(key, others, galleries))
    return NewKey.model_validate(vars(key) | {"key": text, "warnings": warnings})


@router.delete("/{key_id}", status_code=204, responses=problems("key_conflict"))
async def delete_key(call: Administrator, key_id: KeyId) -> None:
    """Revokes an API key: refused at once by this process, and within a second by others.

    A call may revoke the key that it is sent with, but not the last administrator's.
    """
    ring = call.runtime.keys

    async def revoke(_: dict[str, Any]) -> None:
        await ring.threads.run(ring.revoke, key_id)

    await call.runtime.audited("revoke_key", revoke, key_id=key_id)
