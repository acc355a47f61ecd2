"""The HTML: escaped, complete, small."""

from html.parser import HTMLParser

import pytest

from ctxcompress_integrations import Passage, TextCompressor
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
