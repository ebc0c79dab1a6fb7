"""`/v1/galleries/{gallery}/doubtful`: named crops that may be of somebody else or cut off."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request, Response

from gmn_client.models import DoubtfulCrop, DoubtfulCrops
from service.doubtful.tables import CURSOR
from service.gallery.browse import described_crops
from service.http.fields import Id
from service.http.forms import CURSOR_TEXT, Limit
from service.http.guard import Admin, Searcher, guarded_router
from service.http.problems import problems, write_list

router = guarded_router("/v1/galleries/{gallery}/doubtful", "doubtful crops")
CropId = Annotated[Id, Path(description="A crop's id, as the list has it.")]


@router.get("", response_model=DoubtfulCrops)
async def list_doubtful(
    request: Request,
    call: Searcher,
    cursor: Annotated[
        str | None, Query(max_length=40, pattern=f"^{CURSOR}$", description=CURSOR_TEXT)
    ] = None,
    limit: Limit = 100,
) -> Response:
    """Lists named crops that may show somebody else, or too little, the most doubtful first.

    Each crop is compared with the others of its person and with everybody else's. The gallery is
    checked in the background after each change; `checked` says whether that is done. Set a crop
    aside by `PATCH …/crops/{crop_id}` with `set_aside=true`, rename it there, or confirm it here.
    """
    doubtful = call.runtime.doubtful

    def read(gallery_id: int) -> DoubtfulCrops:
        page = doubtful.page(gallery_id, cursor, limit)
        slots = {row[name] for row in page.results for name in ("slot", "other_slot")}
        stored = list(call.record.crops.by_slot(gallery_id, sorted(slots)).values())
        described = described_crops(call.record, call.gallery, stored, vectors=False)
        crops = {crop.slot: shown for crop, shown in zip(stored, described, strict=True)}
        results = [
            DoubtfulCrop(
                crop=crops[row["slot"]],
                other=crops[row["other_slot"]],
                own_cosine=row["own"],
                own_probability=row["own_probability"],
                other_cosine=row["other"],
                other_probability=row["other_probability"],
            )
            for row in page.results
            # A crop may have been deleted since the page was read.
            if row["slot"] in crops and row["other_slot"] in crops
        ]
        checked = doubtful.is_checked(gallery_id, call.gallery.version)
        return DoubtfulCrops(results=results, next_cursor=page.next_cursor, checked=checked)

    page = await call.read(read)
    call.note_view("list_doubtful", count=len(page.results))
    return await write_list(request, page)


@router.put("/{crop_id}/confirmation", status_code=204, responses=problems("unknown_crop"))
async def confirm_crop(call: Admin, crop_id: CropId) -> None:
    """Confirms that a crop shows its person: it is not listed again while it has this identity."""
    await call.write(call.runtime.doubtful.confirm, crop_id, call.caller.key_id)
    await call.done("confirm_crop", crop_ids=[crop_id])


@router.delete("/{crop_id}/confirmation", status_code=204, responses=problems("unknown_crop"))
async def unconfirm_crop(call: Admin, crop_id: CropId) -> None:
    """Withdraws a confirmation: if the crop is still doubtful, it is listed again."""
    await call.write(call.runtime.doubtful.withdraw, crop_id)
    await call.done("withdraw_confirmation", crop_ids=[crop_id])
