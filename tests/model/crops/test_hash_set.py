"""A set of very many texts."""

from model.crops.hash_set import RECENT, HashSet


def test_a_text_is_new_once_however_many_follow():
    names = HashSet()
    assert all(names.add(f"{number}.png") for number in range(2 * RECENT + 100))
    assert not any(names.add(f"{number}.png") for number in range(0, 2 * RECENT + 100, 9))
    assert "0.png" in names
    assert "other.png" not in names
