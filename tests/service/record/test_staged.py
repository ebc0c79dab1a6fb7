"""Vectors of another embedder in a file of their own, and the switch to them."""

import numpy as np
import pytest

from service.record import crops as crops_module
from tests.service.gallery.new_crops import (
    OTHER_EMBEDDER,
    enroll,
    is_on_disk,
    new_crop,
)


@pytest.fixture
def ids(record, gallery):
    """Three crops whose vectors of another embedder are prepared for the first two."""
    added = enroll(record, gallery, new_crop(1), new_crop(2), new_crop(3))
    record.staged.begin(gallery, OTHER_EMBEDDER)
    record.staged.add(gallery, {1: np.full(3, 1.5), 2: np.full(3, 2.5)})
    return added


def _files(tmp_path):
    return {path.name for path in tmp_path.glob("vectors-*.f32")}


def _vectors(record, gallery):
    return [crop.vector.tolist() for crop in record.crops.vectors(gallery)]


def _missing(record, gallery):
    return [crop.slot for crop in record.staged.missing(gallery, 0, 9)]


def test_the_file_of_the_former_embedder_goes_with_the_switch(record, gallery, ids, tmp_path):
    assert record.staged.switch(gallery) is None
    assert _vectors(record, gallery) == [[1.25] * 4, [2.25] * 4, [3.25] * 4]
    assert _files(tmp_path) == {f"vectors-{gallery}-0.f32", f"vectors-{gallery}-1.f32"}
    record.staged.add(gallery, {3: np.full(3, 3.5)})
    assert record.staged.switch(gallery) == 2
    assert _vectors(record, gallery) == [[1.5] * 3, [2.5] * 3, [3.5] * 3]
    assert _files(tmp_path) == {f"vectors-{gallery}-1.f32"}
    # Noted in the commit itself, so that a process that is killed here leaves no file for ever.
    assert f"vectors-{gallery}-0.f32" in record.unneeded_files.all()


def test_crops_removed_and_enrolled_amid_a_reindex_leave_no_vector_and_are_waited_for(
    record, gallery, ids, tmp_path
):
    record.crops.remove(gallery, ids[:1])
    contents = {path.name: path.read_bytes() for path in tmp_path.glob("vectors-*.f32")}
    assert not any(contents[f"vectors-{gallery}-0.f32"][: 2 * 4 * 4])
    assert not any(contents[f"vectors-{gallery}-1.f32"][: 2 * 3 * 4])
    record.staged.add(gallery, {3: np.full(3, 3.5)})
    enroll(record, gallery, new_crop(4))
    assert record.staged.switch(gallery) is None
    assert _missing(record, gallery) == [4]
    record.staged.add(gallery, {4: np.full(3, 4.5)})
    assert record.staged.switch(gallery) == 4
    assert _vectors(record, gallery) == [[2.5] * 3, [3.5] * 3, [4.5] * 3]


def test_vectors_that_were_prepared_for_another_embedder_are_unneeded(record, gallery, ids):
    record.staged.begin(gallery, "c" * 64)
    assert f"vectors-{gallery}-1.f32" in record.unneeded_files.all()
    assert _missing(record, gallery) == [1, 2, 3]
    record.staged.begin(gallery, None)
    assert _missing(record, gallery) == []


def test_vectors_that_are_read_during_the_switch_are_those_of_the_new_embedder(
    record, gallery, ids, monkeypatch
):
    record.staged.add(gallery, {3: np.full(3, 3.5)})
    read = crops_module.read_vectors

    def switch_and_read(*args):
        monkeypatch.undo()
        record.staged.switch(gallery)
        return read(*args)

    monkeypatch.setattr(crops_module, "read_vectors", switch_and_read)
    embedder, crops = record.crops.vectors_of(gallery, [2, 3])
    assert embedder == OTHER_EMBEDDER
    assert [crop.vector.tolist() for crop in crops] == [[2.5] * 3, [3.5] * 3]


@pytest.mark.sqlite_alone
def test_no_file_keeps_vectors_of_another_embedder_beyond_a_cancelled_reindex(
    record, gallery, ids, tmp_path
):
    prepared = np.full(3, 1.5, np.float32).tobytes()
    assert is_on_disk(tmp_path, prepared)
    record.staged.begin(gallery, None)
    assert not is_on_disk(tmp_path, prepared)
