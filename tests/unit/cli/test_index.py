"""``index`` again: what the files no longer hold goes, and nothing else."""

import json

import pytest

from ctxcompress_integrations import CompressedIndex, Passage


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs" / "sub").mkdir(parents=True)
    (tmp_path / "docs" / "a.txt").write_text("The tower is tall.")
    (tmp_path / "docs" / "rows.jsonl").write_text('{"id": "r1", "text": "one"}\n{"id": "r2", "text": "two"}\n')
    (tmp_path / "docs" / "sub" / "b.txt").write_text("The river is long.")
    return tmp_path


@pytest.fixture
def index(command):
    """Index paths; the figures and the ids afterwards."""

    def run(*paths):
        code, out, err = command("index", *paths, "--index", "x.index", "--json")
        assert code == 0, err
        with CompressedIndex.open("x.index", read_only=True) as opened:
            return json.loads(out), set(opened.ids())

    return run


ALL = {"docs/a.txt#0", "r1", "r2", "docs/sub/b.txt#0"}


def test_passages_of_a_file_that_becomes_empty_go(folder, index):
    assert index("docs")[1] == ALL
    (folder / "docs" / "a.txt").write_text(" \n")
    figures, ids = index("docs")
    assert ids == ALL - {"docs/a.txt#0"}
    assert (figures["n_removed"], figures["n_gone"]) == (1, 0)
    (folder / "docs" / "sub" / "b.txt").write_text("")
    assert index("docs/sub/b.txt")[1] == {"r1", "r2"}, "the only file, too"


def test_a_row_that_is_gone_from_its_file_goes_whatever_its_id(folder, index):
    index("docs")
    (folder / "docs" / "rows.jsonl").write_text('{"id": "r2", "text": "two"}\n')
    assert index("docs/rows.jsonl")[1] == ALL - {"r1"}


def test_passages_of_files_that_are_gone_from_a_folder_go_when_that_is_asked(folder, index, command):
    index("docs")
    (folder / "docs" / "rows.jsonl").unlink()
    (folder / "docs" / "sub" / "b.txt").unlink()
    assert index("docs/a.txt", "--prune")[1] == ALL, "no folder was named"
    code, out, err = command("index", "docs", "--index", "x.index")
    assert (code, out) == (0, "4 passages in x.index, 0 new or changed, 0 removed\n")
    assert "files gone: docs/rows.jsonl, docs/sub/b.txt (2); --prune removes their passages" in err
    assert index("docs/sub", "docs/a.txt", "--prune")[1] == ALL - {"docs/sub/b.txt#0"}
    code, out, _ = command("index", "docs", "--index", "x.index", "--prune")
    assert (code, out) == (0, "1 passages in x.index, 0 new or changed, 2 removed\n")
    (folder / "docs" / "a.txt").unlink()
    figures, ids = index("docs", "--prune")
    assert (figures["n_gone"], ids) == (1, set()), "the only file, too"


def test_what_was_not_named_stays(folder, index):
    (folder / "other").mkdir()
    (folder / "other" / "c.txt").write_text("Not named again.")
    (folder / "docs" / "page.html").write_text("A page.")
    others = [
        Passage("docs/a.txt#7", "no source"),
        Passage("n", "a number for a source", metadata={"source": 7}),
        Passage("book", "a source that is no file", metadata={"source": "a book"}),
        Passage("note", "a note on a file", metadata={"source": "docs/a.txt"}),
        Passage("theirs", "of another loader", metadata={"source": "docs/rows.jsonl"}),
        Passage("docs/rows.jsonl#9", "of another loader", metadata={"source": "docs/rows.jsonl"}),
        Passage("list", "a list for a name", metadata={"ctxcompress": {"file": ["docs/a.txt"]}}),
        Passage("web", "a web address", metadata={"source": "https://example.org/rows.jsonl"}),
        Passage("up", "beside the folder", metadata={"source": "../rows.jsonl"}),
        Passage("nul", "no path at all", metadata={"source": "rows\x00.jsonl"}),
        Passage("far", "elsewhere", metadata={"source": "/nowhere/rows.jsonl"}),
    ]
    index("docs", "other", "docs/page.html")
    with CompressedIndex.open("x.index") as opened:
        opened.add(others)
    expected = ALL | {"other/c.txt#0", "docs/page.html#0"} | {passage.id for passage in others}
    assert index("docs", "--prune")[1] == expected
    assert index(".", "--prune")[1] == expected
    (folder / "other" / "c.txt").unlink()
    (folder / "docs" / "a.txt").write_text("")
    assert index("docs", "--prune")[1] == expected - {"docs/a.txt#0"}
    (folder / "docs" / "sub" / "b.txt").write_bytes("Größe".encode("latin-1"))
    assert index("docs", "--prune")[1] == expected - {"docs/a.txt#0"}, "what cannot be read is not known to be lost"


def test_rows_that_name_another_source_are_their_files(folder, index):
    rows = folder / "docs" / "rows.jsonl"
    rows.write_text('{"text": "one", "metadata": {"source": "docs/a.txt"}}\n{"text": "two"}\n')
    assert index("docs")[1] == {"docs/a.txt#0", "docs/rows.jsonl#1", "docs/rows.jsonl#2", "docs/sub/b.txt#0"}
    assert index("docs/a.txt")[1] >= {"docs/rows.jsonl#1"}
    rows.write_text('\n{"text": "two"}\n')
    assert index("docs")[1] == {"docs/a.txt#0", "docs/rows.jsonl#2", "docs/sub/b.txt#0"}


def test_rows_that_cannot_be_read_are_not_known_to_be_lost(folder, index):
    index("docs")
    (folder / "docs" / "rows.jsonl").write_text('{"id": "r1", "text": "one"}\n{"id": "r2", "te\n')
    figures, ids = index("docs")
    assert (ids, figures["n_skipped"]) == (ALL, 1)


def test_nothing_to_index_makes_no_index(folder, command):
    (folder / "empty.txt").write_text("")
    (folder / "x.index").mkdir()
    assert command("index", "empty.txt", "--index", "x.index")[0] == 1
    assert not list((folder / "x.index").iterdir())


def test_nothing_to_index_leaves_an_index_as_it_is(folder, index, command):
    index("docs")
    (folder / "empty.txt").write_text("")
    code, _, err = command("index", "empty.txt", "--index", "x.index")
    assert code == 1
    assert "nothing to index in empty.txt: skipped 1: empty.txt (empty)" in err
    assert index("docs")[1] == ALL


def test_a_file_whose_name_is_no_unicode_is_left_out(folder, index):
    (folder / "docs" / "\udcff.txt").write_text("A text.")
    figures, ids = index("docs")
    assert ids == ALL
    assert figures["skipped"] == [["docs/\udcff.txt", "its text or its name is no UTF-8"]]
