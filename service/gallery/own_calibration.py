"""A gallery's own calibration: the artefact's, moved to where unlabelled searches show it to be."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from model.calibration import Calibration
from model.problems import InputProblem
from model.recalibration import CROPS_PER_PERSON, LEAST_SEARCHES, recalibrate
from service.gallery.search_memory import SEARCHES, SearchMemory

FEW = 256
AFTER_FEW, AFTER_MANY = 20, 64
# Of a busy service's searches, once as many are remembered as there is room for.
SKIPPED_WHEN_BUSY = 3
State = Literal["artefact", "learning", "own"]


@dataclass(frozen=True)
class CalibrationInForce:
    """What verdicts are made by.

    Attributes:
        version: names it; equal versions are equal calibrations.
        state: `artefact` where this gallery does not learn, `learning` until there are enough
            searches, `own` where it has been moved.
        searches: how many unlabelled searches are behind it.
    """

    version: str
    calibration: Calibration
    state: State
    searches: int


class OwnCalibration:
    """Gathers a gallery's searches and moves its calibration by them now and then.

    `in_force` may be read from any thread; the memory has a lock of its own.
    """

    def __init__(
        self, prior: Calibration, prior_version: str, identical_mnet: float, learns: bool
    ) -> None:
        """Begins with the artefact's calibration.

        Args:
            prior: the artefact's own.
            prior_version: names it.
            identical_mnet: M-Net's score of a crop with itself.
            learns: whether to move it.
        """
        self._prior, self._prior_version = prior, prior_version
        self._identical = identical_mnet
        self._lock = threading.Lock()
        self.memory = SearchMemory()
        self._fitted_at = 0
        self._skipped = 0
        self._learns = learns
        self.in_force = self._unmoved()

    @property
    def learns(self) -> bool:
        """Whether it follows the gallery's searches."""
        return self._learns

    def wants(self, busy: bool) -> bool:
        """Whether the search that just came is to be remembered: every one, or some when busy."""
        with self._lock:
            enough = self.memory.searches == SEARCHES
            if not self._learns or (busy and enough and self._skipped < SKIPPED_WHEN_BUSY):
                self._skipped += 1
                return False
            self._skipped = 0
            return True

    def switch(self, learns: bool) -> None:
        """Makes it follow the gallery's searches, or the artefact alone."""
        with self._lock:
            self._learns = learns
            self.in_force = self._unmoved()
            self._fitted_at = 0

    def remember(self, record: Callable[[SearchMemory], None]) -> bool:
        """Lets a search be remembered; answers whether it is time to `fit`."""
        with self._lock:
            if not self._learns:
                return False
            record(self.memory)
            if self.in_force.state != "own":
                self.in_force = self._unmoved()
            step = AFTER_FEW if self.memory.seen < FEW else AFTER_MANY
            enough = self.memory.searches >= LEAST_SEARCHES
            return enough and self.memory.seen >= self._fitted_at + step

    def fit(self, gallery_size: int, crops_per_person: float | None) -> bool:
        """Moves the calibration to the remembered searches.

        Args:
            gallery_size: how many crops a search meets.
            crops_per_person: how many of them show one person, on average; None where unknown.

        Returns:
            Whether it was moved: searches without spread leave it as it was.
        """
        with self._lock:
            if not self._learns:
                return False
            seen, searches = self.memory.seen, self.memory.searches
            cosines, mnet = self.memory.cosines, self.memory.mnet
            self._fitted_at = seen
        try:
            moved = recalibrate(
                self._prior,
                cosines,
                self._identical,
                gallery_size,
                crops_per_person or CROPS_PER_PERSON,
                mnet,
            )
        except InputProblem:
            return False
        with self._lock:
            if self._learns:
                digest = hashlib.sha256(moved.model_dump_json().encode()).hexdigest()
                version = f"{self._prior_version}+{digest[:8]}"
                self.in_force = CalibrationInForce(version, moved, "own", searches)
        return True

    def to_json(self) -> str:
        """What to keep of it."""
        with self._lock:
            return self.memory.to_json()

    def restore(self, text: str, gallery_size: int, crops_per_person: float | None) -> None:
        """Takes up what another process kept; what cannot be read is gathered anew."""
        try:
            memory = SearchMemory.from_json(text)
        except InputProblem:
            return
        with self._lock:
            self.memory = memory
            if self.in_force.state != "own":
                self.in_force = self._unmoved()
        self.fit(gallery_size, crops_per_person)

    def _unmoved(self) -> CalibrationInForce:
        state: State = "learning" if self._learns else "artefact"
        return CalibrationInForce(
            self._prior_version, self._prior, state, self.memory.searches if self._learns else 0
        )
