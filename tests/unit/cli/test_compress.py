"""``compress``: what it takes for a passage, and that it names the line which is none."""

import json

import pytest

ARGUMENTS = ("compress", "--method", "lexical", "--keep-ratio", 1)


def request(passage):
    return f'{{"query": "q", "passages": [{passage}]}}'


@pytest.mark.parametrize(
    ("passage", "why"),
    [
        ('{"id": "a", "text": "t", "score": NaN}', "NaN is no finite number"),
        ('{"id": "a", "text": "t", "metadata": {"x": -Infinity}}', "-Infinity is no finite number"),
        ('{"id": "a", "text": "t", "metadata": {"x": 1e999}}', "1e999 is no finite number"),
        ("[" * 100_000, "nested too deep"),
        ('{"id": "a", "text": 5}', "must be str, got 'a' and 5"),
        ('{"id": "a", "text": "t", "metadata": [1]}', "must be a mapping, got [1]"),
        ('{"id": "a", "text": "t"}, {"id": "a", "text": "u"}', "the id 'a' occurs twice"),
        ('"t", {"id": "0", "text": "u"}', "the id '0' occurs twice"),
    ],
)
def test_a_line_that_is_no_request_is_named(command, passage, why):
    code, out, err = command(*ARGUMENTS, stdin=f"{request('')}\n\n{request(passage)}\n")
    assert (code, out) == (1, "")
    assert err.startswith("error: line 3 is no request (")
    assert why in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("blank", ["\n\n", "\n   \n", "\n\t\n \n", "\r\n \r\n"])
def test_blank_lines_part_passages_whatever_spaces_they_hold(command, blank):
    code, out, _ = command(*ARGUMENTS, "--query", "tower?", "--json", stdin=f"a tower{blank}  b\nc\n")
    assert code == 0
    assert [passage["text"] for passage in json.loads(out)["passages"]] == ["a tower", "  b\nc\n"]


def test_a_file_that_cannot_be_read_is_named_with_the_cure(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for name in ("d", "nowhere.jsonl"):
        code, _, err = command("compress", name)
        assert code == 1
        assert err.startswith(f"error: {name} cannot be read (")
        assert "name a file, or none for standard input" in err
