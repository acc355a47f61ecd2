"""Every format, and every way in which a row can be wrong."""

import gzip
import json

import pytest

from ctxcompress_integrations.evaluation.datasets import Stretch, load_dataset
from ctxcompress_integrations.evaluation.jsonl import DatasetError, read_rows
from ctxcompress_integrations.evaluation.sets import SETS, is_held_out, load_set, load_training

SPAN = {"id": "a", "question": "Who?", "context": "It was Ada. Not Bob.", "answers": [{"text": "Ada", "start": 7}]}


def write(path, *rows):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["plain.jsonl", "packed.jsonl.gz"])
def test_span_rows(tmp_path, name):
    dataset = load_dataset(write(tmp_path / name, SPAN, "", {**SPAN, "id": "b", "answers": [], "answerable": False}))
    first, second = dataset.examples
    assert (first.answers, first.marked, first.gold) == (("Ada",), (Stretch(0, 7, 10),), ())
    assert not second.is_answerable
    assert dataset.problems == ()


def test_gold_sentence_and_language(tmp_path):
    row = SPAN | {"gold_sentence": {"text": "It was Ada.", "start": 0}, "lang": "de"}
    example = load_dataset(write(tmp_path / "x.jsonl", row)).examples[0]
    assert (example.gold, example.language) == ((Stretch(0, 0, 11),), "de")


def test_documents_with_sentences_and_with_text(tmp_path):
    row = {
        "question": "Where was the author born?",
        "answers": ["Rome", "yes", "Atlantis"],
        "docs": [
            {"title": "A", "sentences": ["A book. ", " By Bo."], "gold_sentences": [1], "is_gold": True},
            {"title": "Bo", "text": "Bo was born in Rome.", "is_gold": True},
        ],
    }
    example = load_dataset(write(tmp_path / "x.jsonl", row)).examples[0]
    assert [p.text for p in example.passages] == ["A book. By Bo.", "Bo was born in Rome."]
    assert example.passages[0].metadata == {"title": "A"}
    assert example.gold == (Stretch(0, 8, 14), Stretch(1, 0, 20))
    assert example.answers == ("Rome",)  # "yes" is said by no text, Atlantis is not there


def test_stories_and_meetings_and_pairs(tmp_path):
    story = {
        "doc_id": "s",
        "sections": [{"n": 1, "text": "A fox ran."}, {"n": 2, "text": "It ate a hen."}],
        "questions": [{"question": "What did it eat?", "answers": ["A hen."], "sections": [2]}],
    }
    meeting = {
        "doc_id": "m",
        "turns": [["A", "Hi."], ["B", "We buy it."]],
        "questions": [{"question": "Buy?", "spans": [[1, 1]]}, {"question": "All?"}],
    }
    pair = {"question": "Why?", "sentence": "Because."}
    wrong = pair | {"label": 0}
    examples = load_dataset(write(tmp_path / "x.jsonl", story, meeting, pair, wrong)).examples
    assert examples[0].answers == ("a hen",)
    assert examples[0].marked == (Stretch(1, 7, 12),)
    assert [e.gold for e in examples[1:]] == [(Stretch(1, 0, 13),), (Stretch(0, 0, 8),), ()]
    assert [e.is_answerable for e in examples] == [True, True, True, False]


def changed(**changes):
    return {key: value for key, value in (SPAN | changes).items() if value is not ...}


BAD = {
    "no JSON": ("{not json", "JSONDecodeError"),
    "cut short": (json.dumps(SPAN)[:30], "JSONDecodeError"),
    "no object": ("[1, 2]", "a row must be an object, got list"),
    "too deep": ("[" * 200_000, "RecursionError"),
    "no question": (changed(question=...), "KeyError: 'question'"),
    "blank question": (changed(question=" \t"), "the question is blank"),
    "question no text": (changed(question=["Who?"]), "question must be text, got ['Who?']"),
    "no context": (changed(context=...), "KeyError: 'context'"),
    "blank context": (changed(context=" "), "the context is blank"),
    "no answers": (changed(answers=...), "KeyError: 'answers'"),
    "answers no list": (changed(answers={"text": "Ada", "start": 7}), "answers must be a list"),
    "answer no object": (changed(answers=["Ada"]), "TypeError"),
    "answer elsewhere": (changed(answers=[{"text": "Ada", "start": 6}]), "does not stand at character 6"),
    "before the start": (changed(answers=[{"text": "Ada", "start": -13}]), "does not stand at character -13"),
    "past the end": (changed(answers=[{"text": "Ada", "start": 10**9}]), "does not stand"),
    "start no number": (changed(answers=[{"text": "Ada", "start": "7"}]), "must be a number, got '7'"),
    "start a truth": (changed(answers=[{"text": "t", "start": True}]), "must be a number, got True"),
    "start missing": (changed(answers=[{"text": "Ada"}]), "KeyError: 'start'"),
    "blank answer": (changed(answers=[{"text": " ", "start": 2}]), "does not stand"),
    "one of two wrong": (changed(answers=[*SPAN["answers"], {"text": "Bob", "start": 7}]), "'Bob' does not stand"),
}


DOCS = {"question": "Who?", "answers": ["Ada"], "docs": [{"sentences": ["It was Ada."], "gold_sentences": [0]}]}
STORY = {
    "doc_id": "s",
    "sections": [{"n": 1, "text": "It was Ada."}],
    "questions": [{"question": "Who?", "answers": ["Ada"], "sections": [1]}],
}
MEETING = {"doc_id": "m", "turns": [["A", "Hi."]], "questions": [{"question": "Who?", "spans": [[0, 0]]}]}
PAIR = {"question": "Why?", "sentence": "Because."}


def in_doc(**changes):
    return DOCS | {"docs": [DOCS["docs"][0] | changes]}


BAD |= {
    "answerable a text": (changed(answerable="false"), "answerable must be true or false, got 'false'"),
    "is_answerable a number": (changed(is_answerable=2), "answerable must be true or false, got 2"),
    "gold sentence elsewhere": (
        changed(gold_sentence={"text": "It was Ada.", "start": 5000}),
        "the gold_sentence 'It was Ada.' does not stand at character 5000",
    ),
    "gold sentence at a text": (changed(gold_sentence={"text": "It", "start": "0"}), "must be a number, got '0'"),
    "gold sentence empty": (changed(gold_sentence={}), "KeyError: 'start'"),
    "label a text": (PAIR | {"label": "0"}, "label must be true or false, got '0'"),
    "documents' answers a text": (DOCS | {"answers": "a cat"}, "answers must be a list, got 'a cat'"),
    "documents' answers numbers": (DOCS | {"answers": [7]}, "each of answers must be text, got 7"),
    "no documents": (DOCS | {"docs": []}, "there is no passage"),
    "documents no list": (DOCS | {"docs": {"text": "x"}}, "docs must be a list"),
    "sentences a text": (in_doc(sentences="It was Ada."), "sentences must be a list, got 'It was Ada.'"),
    "gold sentences texts": (in_doc(gold_sentences=["0"]), "each of gold_sentences must be a number, got '0'"),
    "gold sentences too many": (in_doc(gold_sentences=[1]), "each of gold_sentences must be in [0, 1), got 1"),
    "gold a text": (DOCS | {"docs": [{"text": "Ada.", "is_gold": "false"}]}, "is_gold must be true or false"),
    "story's answers a text": (
        STORY | {"questions": [STORY["questions"][0] | {"answers": "a cat"}]},
        "answers must be a list, got 'a cat'",
    ),
    "no sections": (STORY | {"sections": []}, "there is no passage"),
    "a turn without a speaker": (MEETING | {"turns": [[None, "Hi."]]}, "each of a turn must be text, got None"),
    "turns that are not there": (
        MEETING | {"questions": [{"question": "Who?", "spans": [[-1, 0]]}]},
        "a turn of spans must be in [0, 1), got -1",
    ),
}


def test_what_the_wrong_rows_are_made_from_is_right(tmp_path):
    rows = [DOCS, STORY, MEETING, PAIR, SPAN | {"answerable": None, "gold_sentence": None}]
    assert len(load_dataset(write(tmp_path / "x.jsonl", *rows)).examples) == len(rows)


@pytest.mark.parametrize(("row", "why"), BAD.values(), ids=BAD.keys())
def test_wrong_rows_are_counted_with_their_line(tmp_path, row, why):
    dataset = load_dataset(write(tmp_path / "x.jsonl", SPAN, "", row, SPAN))
    assert len(dataset.examples) == 2
    assert [problem.line for problem in dataset.problems] == [3]
    assert why in dataset.problems[0].why
    assert len(dataset.problems[0].why) <= 200
    with pytest.raises(DatasetError, match=r"has no usable row \(line 1: "):
        load_dataset(write(tmp_path / "y.jsonl", row))


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress])
def test_what_is_packed_shows_in_the_bytes(tmp_path, squeeze):
    path = tmp_path / "rows"
    row = SPAN | {"context": "It was Köln. 👩‍👩‍👧", "answers": [{"text": "Köln", "start": 7}]}
    path.write_bytes(squeeze(("\ufeff" + json.dumps(row, ensure_ascii=False) + "\r\n\n" + json.dumps(row)).encode()))
    dataset = load_dataset(path)
    assert [e.answers for e in dataset.examples] == [("Köln",)] * 2
    assert dataset.problems == ()


def test_a_line_that_is_no_utf8_is_skipped(tmp_path):
    row = json.dumps(SPAN | {"context": "It was Adé."}, ensure_ascii=False)
    (tmp_path / "x.jsonl").write_bytes(row.encode("latin-1") + b"\n" + json.dumps(SPAN).encode())
    dataset = load_dataset(tmp_path / "x.jsonl")
    assert (len(dataset.examples), [problem.line for problem in dataset.problems]) == (1, [1])


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:40] + b"xxxxxxxx" + data[48:]])
def test_damaged_gzip_is_an_error(tmp_path, damage):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(damage(gzip.compress("\n".join(json.dumps(SPAN | {"id": str(i)}) for i in range(999)).encode())))
    with pytest.raises(DatasetError, match="damaged gzip"):
        load_dataset(path)


@pytest.mark.parametrize("line", ["{not json", "[" * 200_000, "[1]"])
def test_a_row_that_is_no_object_is_named(tmp_path, line):
    path = write(tmp_path / "x.jsonl", SPAN, line)
    with pytest.raises(DatasetError, match=r"x\.jsonl:2 (is no JSON|must hold an object)"):
        list(read_rows(path))


def test_files_that_are_no_data(tmp_path):
    with pytest.raises(DatasetError, match="no usable row"):
        load_dataset(write(tmp_path / "empty.jsonl"))
    (tmp_path / "bad.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(DatasetError, match="no usable row"):
        load_dataset(tmp_path / "bad.jsonl.gz")
    with pytest.raises(DatasetError, match="neither a file nor one of"):
        load_set("nonsense", tmp_path)
    with pytest.raises(DatasetError, match="give --data or CTXCOMPRESS_DATA"):
        load_set("squad2", None)
    with pytest.raises(DatasetError, match="there is no squad2_dev_half"):
        load_set("squad2", tmp_path)
    with pytest.raises(DatasetError, match="give --data"):
        load_training(None, None)


def test_sets_by_name_limit_and_held_out_half(tmp_path):
    rows = [SPAN | {"id": str(i), "lang": "en" if i % 2 else "de"} for i in range(40)]
    write(tmp_path / "xquad_12lang.jsonl", *rows)
    english = load_set("xquad-en", tmp_path)
    assert len(english.examples) == 20
    assert [e.id for e in load_set("xquad-en", tmp_path, limit=4).examples] == ["1", "11", "21", "31"]
    docs = {"question": "Q?", "answers": ["Ada"], "docs": [{"text": "Ada.", "is_gold": True}, {"text": "No."}]}
    write(tmp_path / "hotpot_train100.jsonl", *(docs | {"id": str(i)} for i in range(100)))
    held = {e.id for e in load_set("hotpot", tmp_path).examples}
    assert 30 < len(held) < 70
    trained_on = load_training([tmp_path / "hotpot_train100.jsonl"], None)[0].examples
    assert held == {e.id for e in trained_on if is_held_out(e)}
    assert "hotpot" in SETS
