"""Keys as Redis keeps them lead back to the keys, in the same order within every range."""

from __future__ import annotations

from datetime import UTC

from hypothesis import given
from hypothesis import strategies as st

from service.record.keys import PARTS, above, as_text, below, key, packed, unpacked

numbers = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
texts = st.one_of(st.text(max_size=8), st.sampled_from(["a" * 32, "b" * 64, "0" * 16, "f" * 16]))
moments = st.datetimes(timezones=st.just(UTC)).map(as_text)
fields = st.sampled_from(["sha256", "identity", "camera", "external_id", "another"])
OF_PART = {"n": numbers, "m": moments, "f": fields, "h": texts}


@st.composite
def keys(draw, kind):
    """A key of a kind, with a further text where its last parts are not described."""
    parts = [draw(OF_PART[part]) for part in PARTS[kind]]
    return kind + b"\0" + key(*parts, *draw(st.lists(texts, max_size=1)))


@st.composite
def ranges(draw):
    """A key of a kind, and a range of that kind as the record asks for."""
    kind = draw(st.sampled_from([one for one in PARTS if not one.startswith(b"!")]))
    own = draw(keys(kind))
    other = draw(keys(kind))
    shared = draw(st.integers(1, len(PARTS[kind])))
    described = PARTS[kind]
    first = [draw(OF_PART[part]) for part in described]
    prefix = kind + b"\0" + key(*first[:shared])
    bounds = [below(prefix)]
    if shared < len(described) and described[shared] in "nm":
        bounds.append(above(prefix, draw(OF_PART[described[shared]])))
    rest = [draw(OF_PART[part]) for part in described[shared:]]
    inside = prefix + key(*rest)
    return [own, other, inside], draw(st.sampled_from(bounds))


@given(ranges())
def test_a_range_has_the_same_keys_in_it(drawn):
    found, (start, end) = drawn
    for own in found:
        assert unpacked(packed(own)) == own
        assert packed(packed(own)) == packed(own)
        inside = packed(start) <= packed(own) < packed(end)
        assert inside == (start <= own < end)


@given(st.tuples(numbers, numbers, numbers), st.tuples(numbers, numbers, numbers))
def test_numbers_keep_their_order(one, other):
    first = key("crop", *one)
    second = key("crop", *other)
    assert (packed(first) < packed(second)) == (first < second)
    assert len(packed(key("crop", 1, 0, 70_000))) == 8


def test_what_a_crop_is_found_by_is_short():
    own = key("by", 3, 0, "sha256", "5e" * 32, 1_000_000)
    assert (len(own), len(packed(own))) == (126, 43)
    assert unpacked(packed(own)) == own
