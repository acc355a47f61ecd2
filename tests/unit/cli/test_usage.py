"""Wrong usage ends with 2, what fails with 1; both name the value and the cure, before any work."""

import json

import pytest

from ctxcompress_integrations import CompressedIndex

COMPRESS = ("compress", "--query", "q", "--method", "lexical")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*COMPRESS, "--keep-ratio", "2"), "keep_ratio must be a number in (0, 1], got 2.0"),
        ((*COMPRESS, "--keep-ratio", ".5", "--token-budget", "9"), "give exactly one of"),
        ((*COMPRESS, "--threshold", "nan"), "got nan"),
        (("compress", "--query", "q", "--method", "nonsense"), "no scorer 'nonsense'"),
        (("ask", "q", "--index", "x.index", "--where", "foo"), "--where takes key=value, got 'foo'"),
        (("ask", "q", "--index", "x.index", "--where", "a=1", "--where", "a=2"), "once, got 'a=1' and 'a=2'"),
        (("ask", "q", "--index", "x.index", "--reader-budget", "9"), "got 9 without --reader"),
        (("ask", "q", "--index", "x.index", "--max-new-tokens", "9"), "got 9 without --reader"),
        (("ask", "q", "--index", "x.index", "--html", "d"), "d is a folder: name a file in it"),
        (("ask", "q", "--index", "x.index", "--html", "no/a.html"), "there is no folder no: make it"),
        (("bench", "quito", "--json", "d"), "d is a folder"),
        (("eval", "--json", "no/a.json"), "there is no folder no"),
        (("summarize", "--index", "x.index", "--method", "nonsense"), "no summarizer 'nonsense'"),
    ],
)
def test_wrong_usage_ends_with_2(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    CompressedIndex.create("x.index", embedder=None, dimension=2).close()
    code, out, err = command(*arguments, stdin="a text")
    assert (code, out) == (2, "")
    assert message in err


def test_a_missing_index_is_made_at_the_shell(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("ask", "q", "--index", "x (1)") == (
        1,
        "",
        "error: there is no index at x (1): make one with 'ctxcompress index'\n",
    )


def test_conditions_of_several_keys_hold_together(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"{a}{b}", "text": "A tower.", "metadata": {"a": a, "b": b}} for a in (1, 2) for b in (1, 2)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert command("index", "rows.jsonl", "--index", "x.index")[0] == 0
    asking = ("ask", "tower?", "--index", "x.index", "--method", "lexical", "--json")
    code, out, _ = command(*asking, "--where", "a=1", "--where", "b=2")
    assert code == 0
    assert [passage["id"] for passage in json.loads(out)["passages"]] == ["12"]
