"""Archives: a record copied during writes, without crops deleted since."""

import pytest

from model.problems import InputProblem
from service.record import archive
from service.record.archive import check_archive, fill_archive
from service.record.transaction import FILE
from service.record.verify import verify
from service.record.wiping import PAGE_BYTES, free_spans
from tests.service.gallery.new_crops import enroll, listed_ids, new_crop, open_record


@pytest.fixture
def record(tmp_path):
    (tmp_path / "data").mkdir()
    with open_record(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def copy(tmp_path):
    (tmp_path / "copy").mkdir()
    return tmp_path / "copy"


@pytest.mark.parametrize("when", ["before its vector", "after its row"])
def test_a_crop_removed_while_an_archive_is_written_is_no_part_of_it(
    record, gallery, copy, monkeypatch, when
):
    first, second, third = enroll(record, gallery, *(new_crop(number) for number in range(3)))
    name = "_copy_vectors" if when == "before its vector" else "_remove_deleted"
    goes_on = getattr(archive, name)

    def meanwhile(*arguments):
        record.crops.remove(gallery, [second])
        enroll(record, gallery, new_crop(4))
        return goes_on(*arguments)

    monkeypatch.setattr(archive, name, meanwhile)
    fill_archive(record.database, copy)
    check_archive(copy)
    assert verify(copy).damage == []
    with open_record(copy) as copied:
        assert listed_ids(copied, gallery) == [first, third]


def test_a_damaged_record_gives_no_archive(record, gallery, copy):
    enroll(record, gallery, new_crop(1), new_crop(2))
    record.database.vectors.open(gallery, 0, 4).clear([2])
    with pytest.raises(InputProblem, match="vector of crop"):
        fill_archive(record.database, copy)


def test_an_archive_has_no_copies_of_rows_that_a_later_removal_would_not_reach(
    record, gallery, copy
):
    # Names that come in no order split the pages of their index.
    names = [f"person {number * 7919 % 10007}" for number in range(500)]
    for start in range(0, len(names), 50):
        crops = [new_crop(n, names[n]) for n in range(start, start + 50)]
        enroll(record, gallery, *crops)
    fill_archive(record.database, copy)
    content = (copy / FILE).read_bytes()
    for place in range(0, len(content), PAGE_BYTES):
        page = content[place : place + PAGE_BYTES]
        assert not any(any(page[slice(*span)]) for span in free_spans(page, place == 0))
