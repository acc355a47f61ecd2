"""Terms of BM25, in scripts with and without spaces."""

import pytest

from ctxcompress_integrations import TextCompressor
from ctxcompress_integrations.scorers.lexical import Lexical


@pytest.mark.parametrize(
    ("text", "query", "kept"),
    [
        ("使用Python编程很有趣。今天天气很好。", "What is Python?", "使用Python编程很有趣。"),
        ("使用 Python 编程。今天天气很好。", "Python是什么", "使用 Python 编程。"),
        ("使用ＰＹＴＨＯＮ编程。今天天气很好。", "python", "使用ＰＹＴＨＯＮ编程。"),
        ("我喜欢喝水。今天天气很好。", "水", "我喜欢喝水。"),
        ("サーバーを再起動する。今日は晴れ。", "サーバー", "サーバーを再起動する。"),
        ("แมวกินปลาทุกวัน ซื้อiPhoneใหม่", "iphone", "แมวกินปลาทุกวัน ซื้อiPhoneใหม่"),
    ],
)
def test_words_between_scripts_are_found(text, query, kept):
    assert TextCompressor(Lexical()).compress([text], query, threshold=1e-6).text.strip() == kept
