"""Files become passages; what does not is named, with the reason."""

import gzip
from itertools import pairwise
from pathlib import Path

import pytest

from ctxcompress_integrations.cli.files import Reading


def read(tmp_path, name, content, **settings):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    reading = Reading(settings.pop("chunk_chars", 1000), **settings)
    reading.read([file])
    return list(reading.passages.values()), [why for _, why in reading.skipped]


def test_chunks_are_slices_of_the_file_cut_between_sentences(tmp_path):
    text = "\n\n".join(" ".join(f"Sentence {i} of paragraph {p} is here." for i in range(5)) for p in range(4))
    passages, _ = read(tmp_path, "a.txt", text, chunk_chars=150)
    for passage in passages:
        assert text[passage.metadata["start"] : passage.metadata["end"]] == passage.text
        assert len(passage.text) <= 150
        assert passage.text.startswith("Sentence")
        assert passage.text.endswith(".")
    assert "".join(text.split()) == "".join("".join(p.text.split()) for p in passages)
    assert any(a.text.endswith("paragraph 0 is here.") and "paragraph 1" in b.text for a, b in pairwise(passages))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n \t"])
def test_paragraphs_end_alike_with_either_line_ends(tmp_path, end):
    paragraph = " ".join(f"Sentence {i} of a paragraph is here." for i in range(5))
    text = (2 * end).join([paragraph] * 4)
    passages, _ = read(tmp_path, "a.txt", text, chunk_chars=300)
    assert [passage.text for passage in passages] == [paragraph] * 4
    assert [text[p.metadata["start"] : p.metadata["end"]] for p in passages] == [paragraph] * 4


def test_rows_keep_their_ids_and_metadata(tmp_path):
    rows = (
        '{"id": 0, "text": "zero", "metadata": {"source": "a book", "page": 3}}\n'
        '{"id": "q1", "context": "Shared.", "title": "T"}\n{"id": "q2", "context": "Shared.", "title": "T"}\n'
        '{"text": "one \u2028 line"}\n'
    )
    passages, skipped = read(tmp_path, "a.jsonl", rows)
    assert skipped == []
    assert [p.id.replace(str(tmp_path / "a.jsonl"), "") for p in passages] == ["0", "#2", "#4"]
    own = {"ctxcompress": {"file": str(tmp_path / "a.jsonl")}}
    assert passages[0].metadata == {"source": "a book", "page": 3, **own}, "a source of its own stays"
    assert passages[1].metadata == {"source": str(tmp_path / "a.jsonl"), "title": "T", **own}
    assert [p.text for p in passages] == ["zero", "Shared.", "one \u2028 line"]


def test_rows_that_cannot_be_stored_are_left_out(tmp_path):
    rows = [
        '{"text": "\\ud800"}',
        '{"text": "x", "metadata": {"score": NaN}}',
        '["text"]',
        '{"text": " "}',
        "[" * 200_000,
        '{"id": "a", "text": "good"}',
        '{"id": "a", "text": "again"}',
    ]
    passages, skipped = read(tmp_path, "a.jsonl", "\n".join(rows))
    assert [p.text for p in passages] == ["good"]
    assert len(skipped) == len(rows) - 1
    assert "surrogate" in skipped[0]
    assert "'a' occurs a second time" in skipped[-1]


def test_damaged_archives_are_named(tmp_path):
    archive = gzip.compress(b'{"text": "a long enough text to be packed"}\n' * 50)
    broken = archive[:20] + bytes([archive[20] ^ 0xFF]) + archive[21:25] + b"UUU" + archive[28:]
    for content in (broken, archive[:30], b"no archive"):
        passages, skipped = read(tmp_path, "a.jsonl.gz", content)
        assert passages == []
        assert "cannot be read" in skipped[0]


def test_globs_hidden_files_and_the_index_itself(tmp_path):
    for name in ("a.txt", "b.html", "sub/c.txt", ".hidden/d.txt", "x.index/e.txt"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("Some text.")

    def names(**settings):
        reading = Reading(1000, left_out=tmp_path / "x.index", **settings)
        reading.read([tmp_path, tmp_path / "a.txt"])
        return [Path(p.metadata["source"]).name for p in reading.passages.values()], len(reading.skipped)

    assert names() == (["a.txt", "c.txt"], 1)
    assert names(globs=["*.html", "sub/*"]) == (["b.html", "c.txt", "a.txt"], 0), "a file that is named is read"
