"""An index with a file of vectors of its own, to which crops are added from memory."""

import tempfile
from pathlib import Path

import numpy as np
from pydantic_core import to_json

from service.index.columns import Columns
from service.index.gallery_index import GalleryIndex
from service.record.crop_rows import CropColumns
from service.record.transaction import batches
from service.record.values import group_code
from service.record.vectors import VectorFile

CROPS_AT_ONCE = 1000


class FilledIndex(GalleryIndex):
    """Index crops that a test makes."""

    def __init__(self, dimension, secret=b""):
        # The open file is enough, and leaves nothing behind.
        with tempfile.TemporaryDirectory() as folder:
            self.file = VectorFile(Path(folder) / "vectors.f32", dimension, only_read=False)
        self._metadata = {}
        self._tracks = {}
        super().__init__(Columns(dimension, secret, self._read, self._read_tracks))

    def fill(self, crops):
        for some in batches(crops, CROPS_AT_ONCE):
            self.file.write({crop.record.slot: crop.vector for crop in some})
            self.columns.add(self._columns([crop.record for crop in some]), self.file)

    def relabel(self, labels):
        labels = sorted(labels, key=lambda label: label.slot)
        super().relabel(self._columns(labels))

    def remove(self, slots):
        """Remove crops, and erase their vectors as the record does."""
        there = list(slots)
        super().remove(there)
        self.file.clear(there)

    def renew_segment(self, device=None):
        make = self.next_segment(device)
        assert make is not None
        self.adopt(make(lambda: None))

    def prepare_centring(self, named):
        columns = self.columns
        return columns.prepare_centring(named.version, columns.code_means(named), lambda: None)

    def _columns(self, labels):
        for label in labels:
            self._metadata[label.slot] = label.metadata
            self._tracks[label.slot] = label.track
        moments = [
            label.captured_at.timestamp() if label.captured_at else np.nan for label in labels
        ]
        return CropColumns(
            np.array([label.slot for label in labels], np.int64),
            np.array([group_code(label, self.columns.secret) for label in labels], np.int64),
            tuple(label.camera for label in labels),
            np.array(moments, np.float64),
            np.array([label.set_aside for label in labels], np.bool_),
        )

    def _read(self, slots):
        found = ((slot, self._metadata.get(slot)) for slot in slots)
        return [(slot, to_json(metadata).decode()) for slot, metadata in found if metadata]

    def _read_tracks(self, slots):
        found = ((slot, self._tracks.get(slot)) for slot in slots)
        return [(slot, track) for slot, track in found if track is not None]
