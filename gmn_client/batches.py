"""The enrollment of any number of images, as requests of as many as the service takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from itertools import accumulate, islice
from uuid import uuid4

import httpx

from gmn_client.calls import Call
from gmn_client.errors import InvalidInput, RequestRefused, parse
from gmn_client.models import Enrollment, RefusedImage
from gmn_client.uploads import (
    Image,
    ImageSource,
    enrollment_fields,
    idempotency_header,
    images_of,
    read_image,
)

IMAGES_PER_REQUEST = 128
BYTES_PER_REQUEST = 32 * 1024 * 1024


class Batches:
    """The requests of one enrollment, of which each is sent once the one before is answered.

    Args:
        path: where images are enrolled.
        images: read batch by batch.
        key: names the enrollment, a new name for None; the names of its requests derive from it.
        progress: called after each answer with the number of images answered so far.

    Raises:
        InvalidInput: for a key that no header can carry.
    """

    def __init__(
        self,
        path: str,
        images: Iterable[ImageSource],
        key: str | None,
        progress: Callable[[int], object] | None,
    ) -> None:
        self._path, self._progress = path, progress
        self._key = uuid4().hex if key is None else key
        idempotency_header(self._key)
        self._unread = images_of(images)
        # Images without an answer, with their sizes; the first `_count` are in the last request.
        self._waiting: list[tuple[Image, int]] = []
        self._count = self._done = 0
        self._max_images = IMAGES_PER_REQUEST
        self._answers: list[Enrollment] = []

    def next_call(self) -> Call[Enrollment] | None:
        """The next request; None where every image is answered.

        Raises:
            TypeError: for what is no image.
            InvalidInput: for a file that cannot be read, or no image at all.
        """
        room = max(0, self._max_images - len(self._waiting))
        self._waiting += map(read_image, islice(self._unread, room))
        if not self._waiting:
            if not self._done:
                raise InvalidInput("enroll: no image was given; give at least one")
            return None
        totals = accumulate(size for _, size in self._waiting[: self._max_images])
        self._count = max(1, sum(total <= BYTES_PER_REQUEST for total in totals))
        images = [image for image, _ in self._waiting[: self._count]]
        # A name of its own for each request, the same where the enrollment is repeated.
        derived = hashlib.sha256(f"{self._key} {self._done}".encode()).hexdigest()
        return Call(
            _read,
            "POST",
            self._path,
            fields=enrollment_fields(images),
            headers=idempotency_header(derived if self._done else self._key),
            images=images,
            repeatable=True,
        )

    def add(self, answer: Enrollment) -> None:
        """Takes the answer to the last request."""
        self._answers.append(answer)
        del self._waiting[: self._count]
        self._done += self._count
        if self._progress is not None:
            self._progress(self._done)

    def shrink(self, refusal: RequestRefused) -> None:
        """Halves the requests where the last had more images or bytes than the service takes.

        Raises:
            RequestRefused: it was refused for another reason.
        """
        problem, count = refusal.problem, self._count
        too_large = problem.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE
        if count > 1 and (too_large or problem.detail.startswith("images: ")):
            self._max_images = count // 2
        elif too_large:
            self.add(Enrollment(results=[RefusedImage(problem=problem)]))
        else:
            raise refusal

    def answer(self) -> Enrollment:
        """The outcome of every image, in order."""
        versions = [one.gallery_version for one in self._answers if one.gallery_version is not None]
        return Enrollment(
            gallery_version=max(versions, default=None),
            results=[result for one in self._answers for result in one.results],
            replayed=all(one.replayed for one in self._answers),
        )


def _read(response: httpx.Response) -> Enrollment:
    """The outcome of each image, also where none of them was usable."""
    try:
        enrolled = parse(Enrollment, response)
    except RequestRefused as refusal:
        if not refusal.problem.results:
            raise
        return Enrollment(results=refusal.problem.results)
    replayed = response.headers.get("Idempotent-Replayed") == "true"
    return enrolled.model_copy(update={"replayed": replayed})
