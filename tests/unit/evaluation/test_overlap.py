"""No question is both trained on and measured."""

import json

import pytest

from ctxcompress_integrations.evaluation.datasets import Dataset, Example, Stretch
from ctxcompress_integrations.evaluation.jsonl import DatasetError
from ctxcompress_integrations.evaluation.overlap import apart, bare
from ctxcompress_integrations.evaluation.sets import SETS, STANDARD, TRAINING, load_set, load_training
from ctxcompress_integrations.records import Passage


def example(question, passage="Here it is.", **marks):
    return Example(question, question, (Passage("0", passage),), **marks)


def questions(dataset):
    return [example.question for example in dataset.examples]


def test_texts_are_compared_by_letters_and_digits():
    assert bare("Who  wrote “Émile” (1762)?") == bare("who wrote E\u0301MILE 1762")
    assert bare("ﬁne №1") == bare("Fine No 1")
    assert bare("Who?") != bare("Whom?")


def test_shared_questions_and_supporting_passages_go():
    dataset = Dataset(
        "mine",
        (
            example("Who is it?"),
            example("Where?", "A shared passage.", gold=(Stretch(0, 0, 1),)),
            example("When?", "a shared passage", marked=(Stretch(0, 0, 1),)),
            example("Why?", "A shared passage."),  # nothing of it is marked
        ),
    )
    others = [example("who is IT"), example("Other?", "A SHARED passage", gold=(Stretch(0, 2, 8),))]
    assert questions(apart(dataset, others)) == ["Where?", "When?", "Why?"]
    assert questions(apart(dataset, others, passages=True)) == ["Why?"]
    with pytest.raises(DatasetError, match="every example of mine stands in a set"):
        apart(dataset, dataset.examples)


def row(question, number):
    context = f"Passage {number} says yes."
    return {
        "id": str(number),
        "lang": "en",
        "question": question,
        "context": context,
        "answers": [{"text": "yes", "start": context.index("yes")}],
    }


@pytest.fixture
def folder(tmp_path):
    """Every standard file, 40 questions each; QED shares its first half with the training file."""
    files = dict.fromkeys([SETS[name].file for name in STANDARD] + [source.file for source in TRAINING])
    for i, file in enumerate(files):
        rows = [row(f"What does {file} say of {n}?", 40 * i + n) for n in range(40)]
        if file == "nq_oracle_train":
            rows[:20] = [row(f"what does QED_dev say of {n}", 40 * i + n) for n in range(20)]
            rows[39]["question"] = "What does musique_train100 say of 3 ?"
            rows[38] = row("Something else?", 40 * list(files).index("nq20_dev") + 5)  # its passage 5
        (tmp_path / f"{file}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def test_qed_holds_no_question_that_training_saw(folder):
    assert questions(load_set("qed", folder)) == [f"What does qed_dev say of {n}?" for n in range(20, 40)]
    assert len(load_set("qed", folder, limit=20).examples) == 20
    assert len(load_set("nq20", folder).examples) == 40
    assert len(load_set(str(folder / "qed_dev.jsonl"), None).examples) == 40
    (folder / "nq_oracle_train.jsonl").unlink()
    with pytest.raises(DatasetError, match="'qed' leaves out the questions that training saw: there is no nq_oracle"):
        load_set("qed", folder)


def test_training_sees_nothing_that_is_measured(folder):
    trained = load_training(None, folder)
    measured = {bare(question) for name in STANDARD for question in questions(load_set(name, folder))}
    assert not measured & {bare(question) for dataset in trained for question in questions(dataset)}
    from_nq = next(dataset for dataset in trained if dataset.name == "nq_oracle_train")
    assert len(from_nq.examples) == 38
    assert "Something else?" not in questions(from_nq)
    assert len(load_training([folder / "nq_oracle_train.jsonl"], None)[0].examples) == 40
    (folder / "qmsum_dev.jsonl").unlink()
    with pytest.raises(DatasetError, match="there is no qmsum_dev"):
        load_training(None, folder)
