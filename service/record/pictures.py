"""Kept pictures: what is kept of an image, and a folder outside the record store for it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray
from PIL import Image

from model.problems import InputProblem
from service.errors import RecordUnavailable, StorageFailed
from service.ops.durable import make_folder, sync
from service.record.records import Picture
from service.settings import KeepImages

# decode_crop has read the whole file by then: the first bytes only have to tell formats apart.
SIGNATURES = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"RIFF", "image/webp"))
THUMBNAIL_HEIGHT = 256
THUMBNAIL_QUALITY = 90


def kept_picture(image: bytes, pixels: NDArray[np.uint8], keep: KeepImages) -> Picture | None:
    """The original, a smaller copy of it, or nothing.

    Args:
        image: the file.
        pixels: what it shows, `(height, width, 3)` RGB.
        keep: `original` keeps the bytes as they came; `thumbnail` a JPEG of at most 256 pixels'
            height, without metadata, and the original where that is smaller; `none` nothing.
    """
    if keep == "none":
        return None
    content_type = "image/bmp"
    for signature, known in SIGNATURES:
        if image.startswith(signature):
            content_type = known
    original = Picture(image, content_type)
    if keep == "original":
        return original
    picture = Image.fromarray(pixels)
    if picture.height > THUMBNAIL_HEIGHT:
        width = max(1, round(picture.width * THUMBNAIL_HEIGHT / picture.height))
        picture = picture.resize((width, THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=THUMBNAIL_QUALITY, subsampling=0)
    smaller = Picture(file.getvalue(), "image/jpeg")
    return smaller if len(smaller.content) < len(image) else original


class PictureFolder:
    """A picture's file is `GALLERY/CROP` below the folder.

    Raises:
        InputProblem: for a URL whose file system is unknown, not installed or cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            files, root = fsspec.core.url_to_fs(url)
            if isinstance(files, LocalFileSystem):
                make_folder(Path(root))
            else:
                files.makedirs(root, exist_ok=True)
        except (ImportError, ValueError, OSError) as error:
            raise InputProblem(
                f"GMN_IMAGES_URL={url}: cannot be used ({error}); name a folder such as "
                "file:///srv/crops, or install the package of its file system"
            ) from error
        self._files: Any = files
        self._root = root

    def put(self, gallery_id: int, crop_id: str, content: bytes) -> None:
        """Keeps a picture; on a local disk it survives a power cut once this returns.

        Raises:
            StorageFailed: where it cannot be kept.
        """
        path = self._path(gallery_id, crop_id)
        try:
            if isinstance(self._files, LocalFileSystem):
                _put_locally(Path(path), content)
            else:
                self._files.pipe_file(path, content)
        # Clients of object stores raise errors of their own.
        except Exception as error:
            raise StorageFailed(
                f"an image could not be kept at {self._url} ({error}); nothing was stored, mend "
                "that and send the request again"
            ) from error

    def get(self, gallery_id: int, crop_id: str) -> bytes | None:
        """A picture; None where there is none.

        Raises:
            RecordUnavailable: where the file system does not answer.
        """
        try:
            content: bytes = self._files.cat_file(self._path(gallery_id, crop_id))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise RecordUnavailable(
                f"{self._url}, where images are kept, does not answer ({error})"
            ) from error
        return content

    def remove(self, gallery_id: int, crop_ids: Iterable[str]) -> None:
        """Removes pictures, on a local disk for good; one that is not there is no error.

        Raises:
            OSError: where one that is there cannot be removed.
        """
        for crop_id in crop_ids:
            try:
                self._files.rm_file(self._path(gallery_id, crop_id))
            except FileNotFoundError:
                continue
            except OSError:
                raise
            except Exception as error:
                raise OSError(str(error)) from error
        folder = Path(self._root) / str(gallery_id)
        if isinstance(self._files, LocalFileSystem) and folder.is_dir():
            sync(folder)

    def _path(self, gallery_id: int, crop_id: str) -> str:
        return f"{self._root}/{gallery_id}/{crop_id}"


def _put_locally(path: Path, content: bytes) -> None:
    make_folder(path.parent)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)
