"""Stop texts, cut from whole answers and from pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcompress_integrations.text.stops import check_stop, cut_at, cut_stream


def slow_cut(text, stop):
    """Read character by character until the text so far ends with a stop."""
    for end in range(len(text) + 1):
        ending = [s for s in stop if text[:end].endswith(s)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


texts = st.text(alphabet="ab\n", max_size=12)
stops = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3)


@given(texts, stops)
def test_cut_equals_the_loop(text, stop):
    assert cut_at(text, stop) == slow_cut(text, stop)


@given(st.lists(texts, max_size=6), stops)
def test_pieces_are_cut_where_the_whole_is(pieces, stop):
    assert "".join(cut_stream(pieces, stop)) == cut_at("".join(pieces), stop)[0]


def test_what_cannot_become_a_stop_comes_at_once():
    assert list(cut_stream(["The ", "end", "!"], ["end."])) == ["The ", "end!"]
    assert list(cut_stream(["a", "b"], [])) == ["a", "b"]


def test_no_piece_is_made_after_the_stop():
    made = []

    def pieces():
        try:
            for piece in ("a", "STOP", "b"):
                made.append(piece)
                yield piece
        finally:
            made.append("closed")

    assert list(cut_stream(pieces(), ["STOP"])) == ["a"]
    assert made == ["a", "STOP", "closed"]


@pytest.mark.parametrize("stop", ["\n", [""], [3]])
def test_wrong_stops_are_named(stop):
    with pytest.raises(ValueError, match="stop must be a list"):
        check_stop(stop)
