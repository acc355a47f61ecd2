"""The HTML: escaped, complete, small."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from ctxcompress_integrations import (
    CompressedPassage,
    CompressionResult,
    Passage,
    Relevance,
    Span,
    TextCompressor,
    _heatmap,
)
from ctxcompress_integrations._heatmap import report_html
from ctxcompress_integrations.scorers.lexical import Lexical


class Reader(HTMLParser):
    """Text by the innermost tag, and whether every tag is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.cut, self.kept, self.tags = [], "", "", set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "del" in self.open:
            self.cut += data
        elif "p" in self.open and "article" in self.open:
            self.kept += data


@pytest.fixture
def result():
    passages = [
        Passage(
            "a<b>", "The <tower> is 330 metres & tall. <script>alert(1)</script> Nobody knows.", 0.5, {"title": "T&T"}
        ),
        Passage("rtl", "البرج عالٍ. يزوره كثيرون."),
    ]
    return TextCompressor(Lexical()).compress(passages, "How tall is the <tower>?", keep_ratio=0.4)


def test_fragment_holds_every_character_and_no_markup_of_the_documents(result):
    reader = Reader()
    html = result._repr_html_()
    reader.feed(html)
    assert reader.open == []
    assert "script" not in reader.tags
    assert "<tower> is 330 metres & tall." in reader.kept
    assert "Nobody knows." in reader.cut
    assert sorted(reader.kept + reader.cut) == sorted("".join(p.original for p in result.passages))
    assert 'dir="auto"' in html
    assert 'class="s' in html, "scores are shaded"


def test_report_is_a_whole_page(result):
    page = report_html([result, result], "a <title>")
    assert page.startswith("<!doctype html>")
    assert "a &lt;title&gt;" in page
    reader = Reader()
    reader.feed(page.removeprefix("<!doctype html>"))
    assert reader.open == []


def test_long_cuts_are_elided_and_empty_results_shown():
    compressor = TextCompressor(Lexical())
    text = "The tower is tall. " + "Nothing else matters here. " * 40_000
    html = compressor.compress([text], "tower", token_budget=5)._repr_html_()
    assert len(html) < 20_000
    assert "characters ..." in html
    assert "0 " in compressor.compress([], "tower", keep_ratio=0.5)._repr_html_()


def shaded(text, offsets, scores):
    """The pieces of ``text`` that carry a shade, by shade."""
    relevance = Relevance(np.array(offsets), np.array(scores, dtype=np.float32))
    passage = CompressedPassage("a", text, (Span(0, len(text)),), original=text, relevance=relevance)
    html = CompressionResult("q", [passage], 1, 1)._repr_html_()
    return re.findall(r'<i class="s(\d)">([^<]*)</i>', html)


def test_tokens_of_one_word_share_its_best_score():
    text = "an engine, a room"
    offsets = [(0, 2), (3, 6), (6, 9), (9, 10), (11, 12), (13, 17)]
    assert shaded(text, offsets, [0, 0, 1, 0, 0, 0]) == [("5", "engine,")]
    assert shaded("a é", [(0, 1), (2, 3), (2, 3)], [0, 0, 1]) == [("5", "é")], "two bytes of one character"


def test_scripts_without_spaces_are_shaded_by_token_and_marks_stay_on_their_letters():
    assert shaded("高塔在巴黎", [(i, i + 1) for i in range(5)], [0, 0, 0, 0, 1]) == [("5", "黎")]
    assert shaded("ที่นี่", [(i, i + 1) for i in range(6)], [0, 0, 0, 0, 0, 1]) == [("5", "นี่")]


def test_colours_can_be_read():
    """Text on what lies behind it: 4.5 to 1, as WCAG AA asks."""

    def luminance(colour):
        digits = colour * 2 if len(colour) == 3 else colour
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for theme in (_heatmap._LIGHT, _heatmap._DARK):
        colours = {name: luminance(value) for name, value in re.findall(r"--(\w+):#(\w+)", theme)}
        pairs = [
            ("text", "page"),
            ("text", "card"),
            ("soft", "page"),
            ("soft", "card"),
            ("cut", "card"),
            ("cut", "page"),
        ]
        for front, back in [*pairs, *(("text", f"s{shade}") for shade in range(1, 6))]:
            high, low = sorted((colours[front], colours[back]), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (theme[:20], front, back)
