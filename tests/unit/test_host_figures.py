"""Citations after several compressions: each span is a stretch of the text that came in first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcompress_integrations.host_figures import KEY, starts_of, with_run
from ctxcompress_integrations.records import CompressedPassage, CompressionResult, Span
from ctxcompress_integrations.text.spans import join_spans

TEXT = "Cats sleep all day. Rain fell in May.\nThe tower is 330 metres tall. 塔は高い。Es regnet. It was built in 1889."


def run(text, edges, joiner, metadata):
    """Keep the stretches between pairs of edges; the kept text and the metadata that a host then holds."""
    places = sorted({min(edge, len(text)) for edge in edges})
    spans = tuple(Span(a, b) for a, b in zip(places[::2], places[1::2], strict=False))
    kept = CompressedPassage("p", join_spans(text, spans, joiner), spans, None, metadata, text)
    return kept.text, with_run(metadata, CompressionResult("q", [kept], 1, 1), kept)


edges = st.lists(st.integers(0, len(TEXT)), max_size=12)
joiners = st.sampled_from([None, "", " ", "|", " ... "])


@given(st.lists(st.tuples(edges, joiners), min_size=1, max_size=4))
def test_spans_lead_back_to_the_source_through_any_number_of_runs(runs):
    text, metadata = TEXT, {"page": 3}
    for of_run, joiner in runs:
        if not text:
            break
        text, metadata = run(text, of_run, joiner, metadata)
        figures = metadata[KEY]
        assert figures["n_chars_in"] == len(TEXT)
        assert metadata["page"] == 3
        for (start, end), at in zip(figures["spans"], figures["starts"], strict=True):
            assert TEXT[start:end] == text[at : at + end - start]
        kept = sum(end - start for start, end in figures["spans"])
        assert kept >= len(text) - 5 * 6 * len(runs)  # all but joiners is accounted for


def test_starts_with_gaps_of_several_widths():
    spans = (Span(0, 3), Span(4, 5), Span(5, 6), Span(9, 11))
    for joiner, starts in ((None, [0, 4, 5, 7]), ("--", [0, 5, 8, 11]), ("", [0, 3, 4, 5])):
        text = join_spans("abc d e  fg", spans, joiner)
        assert starts_of(CompressedPassage("p", text, spans, original="abc d e  fg")) == starts


@pytest.mark.parametrize(
    "stale",
    [
        {"spans": [[0, 4]], "starts": [0], "n_chars_in": 90, "n_chars_out": 4},  # another text
        {"spans": [[0, 9], [1]], "starts": [0, 1], "n_chars_in": 90, "n_chars_out": 9},
        {"spans": [[0, 9]], "starts": [0, 1], "n_chars_in": 90, "n_chars_out": 9},
        {"spans": [[0, float("inf")]], "starts": [0], "n_chars_in": 90, "n_chars_out": 9},
        {"spans": [[-5, 4]], "starts": [0], "n_chars_in": 90, "n_chars_out": 9},
        {"spans": [[0, 9]], "starts": [0], "n_chars_in": 3, "n_chars_out": 9},
        {"spans": [[0, 9]], "starts": [1], "n_chars_in": 90, "n_chars_out": 9},
        {"spans": [[5, 9], [0, 4]], "starts": [0, 5], "n_chars_in": 90, "n_chars_out": 9},
        {"spans": "x", "starts": [0], "n_chars_in": 90, "n_chars_out": 9},
        {"spans": [[0, 9]]},
        "text",
    ],
)
def test_what_is_no_earlier_run_is_not_traced(stale):
    _, metadata = run("some text", [0, 4], None, {KEY: stale})
    assert (metadata[KEY]["spans"], metadata[KEY]["n_chars_in"]) == ([[0, 4]], 9)
