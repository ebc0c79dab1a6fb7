"""The tracker: joins the boxes of successive frames to tracks by their overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmn_camera.assignment import best_pairs
from gmn_camera.boxes import Boxes, Scores, overlaps

# Boxes with a lower score continue tracks but begin none.
MIN_NEW_SCORE = 0.5
# Boxes with a low score have to overlap more with the track that they continue.
MIN_UNSURE_IOU = 0.5
# A track gets its number with its second box, because a single detection is often no person.
MIN_BOXES = 2
# The mean velocity of this many boxes says where the next one is.
SETTLED_BOXES = 3
# A track ends if it has had no box for longer than this.
LOST_SECONDS = 2.0
# A track of a single box ends if it misses more frames than this.
MOST_MISSED = 1
# Weight of the newest displacement in the running mean of the velocity.
NEWEST_WEIGHT = 0.4
NO_TRACK = -1


@dataclass(eq=False)
class FollowedPerson:
    """A person who is followed.

    Attributes:
        number: identifies the track.
        box, velocity: the newest box `(4,)`, and its change per second.
        seen_at: time of the newest box in seconds.
        boxes: number of its boxes.
        missed: number of frames since the newest box.
    """

    number: int
    box: Boxes
    velocity: Boxes
    seen_at: float
    boxes: int = 1
    missed: int = 0

    def expected_box(self, seconds: float) -> Boxes:
        return self.box + self.velocity * (seconds - self.seen_at)

    def add(self, box: Boxes, seconds: float) -> None:
        newest = (box - self.box) / max(seconds - self.seen_at, 1e-3)
        self.velocity = (1 - NEWEST_WEIGHT) * self.velocity + NEWEST_WEIGHT * newest
        self.box = box
        self.seen_at = seconds
        self.boxes += 1
        self.missed = 0

    def has_ended(self, seconds: float) -> bool:
        if self.boxes < MIN_BOXES:
            return self.missed > MOST_MISSED
        return seconds - self.seen_at > LOST_SECONDS


class Tracker:
    """A tracker like ByteTrack that predicts boxes at constant velocity."""

    def __init__(self, min_iou: float) -> None:
        """Create a tracker without tracks.

        Args:
            min_iou: least intersection over union of a box with the predicted box of its track.
        """
        self._min_iou = min_iou
        self._people: list[FollowedPerson] = []
        self._next_number = 0

    @property
    def follows_anybody(self) -> bool:
        return bool(self._people)

    @property
    def knows_velocities(self) -> bool:
        """Return True if each person who is followed has enough boxes for a velocity."""
        return all(person.boxes >= SETTLED_BOXES for person in self._people)

    def update(self, seconds: float, boxes: Boxes, scores: Scores) -> NDArray[np.intp]:
        """Add the boxes of a frame, and return their track numbers `(n,)`; -1 without a track.

        Args:
            seconds: time of the frame.
            boxes: boxes in any unit.
        """
        numbers = np.full(len(boxes), NO_TRACK)
        sure = np.flatnonzero(scores >= MIN_NEW_SCORE)
        unsure = np.flatnonzero(scores < MIN_NEW_SCORE)
        for person in self._people:
            person.missed += 1
        begun = self._continue(seconds, boxes, sure, self._min_iou, numbers)
        self._continue(seconds, boxes, unsure, MIN_UNSURE_IOU, numbers)
        for position in begun:
            person = FollowedPerson(self._next_number, boxes[position], np.zeros(4), seconds)
            self._people.append(person)
            self._next_number += 1
        self._people = [person for person in self._people if not person.has_ended(seconds)]
        return numbers

    def _continue(
        self,
        seconds: float,
        boxes: Boxes,
        positions: NDArray[np.intp],
        min_iou: float,
        numbers: NDArray[np.intp],
    ) -> list[int]:
        """Match boxes to the tracks that have none in this frame yet.

        Args:
            positions: indexes of the boxes to match.
            numbers: gets the track numbers of the matched boxes.

        Returns:
            The indexes of the boxes without a match.
        """
        left = dict.fromkeys(positions.tolist())
        people = [person for person in self._people if person.missed]
        if people and left:
            expected = np.array([person.expected_box(seconds) for person in people])
            likeness = overlaps(expected, boxes[positions])
            for row, column in best_pairs(likeness):
                if likeness[row, column] >= min_iou:
                    person = people[row]
                    position = int(positions[column])
                    person.add(boxes[position], seconds)
                    del left[position]
                    if person.boxes >= MIN_BOXES:
                        numbers[position] = person.number
        return list(left)
