"""What examples become: the passage that answers, room for what is shown, and reasons for what is left out."""

from functools import partial

import pytest

from ctxcompress_integrations.evaluation.datasets import Example, Stretch
from ctxcompress_integrations.hf.splice import Splicer
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.summarizers.icae import Icae
from ctxcompress_integrations.testing.tiny import tiny_decoder, tiny_small_world
from ctxcompress_integrations.training.lessons import REPEAT, Lesson, Mix, Shown, Task
from ctxcompress_integrations.training.script import fitted, script_of
from ctxcompress_integrations.training.soft import Recipe, Stage, train_soft
from ctxcompress_integrations.training.start import most_vectors
from ctxcompress_integrations.training.studies import studies_of

PROMPT = "{context} Q: {question} A:"


@pytest.fixture(scope="module")
def reader():
    """``(model, tokenizer, splicer)``"""
    model, tokenizer = tiny_small_world()
    return model, tokenizer, Splicer(model.get_input_embeddings(), tokenizer)


def asked(text, answer="fox", question="who?"):
    return Example("0", question, (Passage("0", text),), (answer,))


def of(reader, examples, limit=None, **more):
    return studies_of(examples, reader[2], prompt=PROMPT, limit=limit, max_answer=16, **more)


def test_the_passage_that_holds_the_answer_is_learned_on(reader):
    texts = ("Jaws was made by Spielberg.", "Spielberg was born in CINCINNATI.", "Cincinnati lies in Ohio.")
    passages = tuple(Passage(str(i), text) for i, text in enumerate(texts))
    whole = tuple(Stretch(i, 0, len(text)) for i, text in enumerate(texts))
    example = partial(Example, "0", "where?", passages, ("Cincinnati",))
    for made, chosen in (
        (example(gold=whole[:2]), texts[1]),
        (example(gold=whole[:2], marked=(Stretch(2, 0, 10),)), texts[2]),
        (example(marked=(Stretch(0, 0, 4),)), texts[0]),
        (example(gold=whole[:1]), None),
        (example(), None),
    ):
        found, left_out = of(reader, [made])
        assert [study.text for study in found] == ([chosen] if chosen else [])
        assert left_out == ({} if chosen else {"do not say which passage answers": 1})
    (only,) = of(reader, [asked("Nothing of it.", "yes")])[0]
    assert only.questions == (("who?", "yes"),)


def test_what_is_accepted_fits_to_the_last_position(reader):
    _, _, splicer = reader
    answer, question = "fox " * 5, "Who and who and who and who is it? " * 2
    for n in range(30, 100):
        text = "The dog and " * (n // 3) + "red " * (n % 3) + "fox."
        tasks = (Task("answer", question, answer), Task("autoencode", REPEAT, text))
        script = script_of(Lesson((Shown(text, False),), tasks), splicer, PROMPT)
        n_all = len(script.beginning) + len(script.endings[0])
        found, left_out = of(reader, [asked(text, answer, question)], limit=160)
        assert bool(found) == (n_all <= 160)
        if found:
            assert fitted(script, tasks, 160).endings[0] == script.endings[0]
        else:
            assert left_out == {"take more than the 160 positions of the reader": 1}
    assert n_all > 160


def test_vectors_are_counted_where_passages_are_shown_as_vectors(reader):
    model, tokenizer, splicer = reader
    long, short = "The dog and the fox. " * 60, "The fox."
    assert splicer.count(long) > 256
    few = {"n_vectors": lambda text, n: 4}
    found, left_out = of(reader, [asked(long), asked(short)], limit=256, as_text=False, **few)
    assert ([study.text for study in found], left_out) == ([long, short], {})
    found, left_out = of(reader, [asked(long), asked(short)], limit=256, **few)
    assert [s.text for s in found] == [short]
    assert left_out == {"take more than the 256 positions of the reader": 1}
    wide = Icae.untrained(model, tokenizer, n_memory=250, tokens_per_slot=1, rank=2, layers=("query",), has_bos=False)
    found, left_out = of(reader, [asked(short)], limit=256, n_vectors=most_vectors(wide, 1), as_text=False)
    assert (found, left_out) == ([], {"take more than the 256 positions of the reader": 1})

    def too_long(text, n):
        raise ValueError("segments")

    left_out = of(reader, [asked(short)], n_vectors=too_long)[1]
    assert left_out == {"are about a passage that is too long to be summarized": 1}


def test_the_most_vectors_are_those_of_the_widest_ratio(reader):
    summarizer = Icae.untrained(*reader[:2], n_memory=4, tokens_per_slot=6, rank=2, layers=("query",), has_bos=False)
    counts = [summarizer.at_ratio(ratio).count_vectors(24) for ratio in (1, 2, 4, 6)]
    assert counts == [24, 12, 8, 4]
    assert most_vectors(summarizer, 6)("", 24) == 24
    assert most_vectors(summarizer, 6, is_pretrained=False)("", 24) == 4


def test_blank_passages_are_left_out_and_halves_of_characters_are_replaced(tmp_path):
    model, tokenizer = tiny_decoder()
    splicer = Splicer(model.get_input_embeddings(), tokenizer)
    rows = [asked(" \n"), *(asked(f"The \ud800 fox {i}.", question="w\udc00?") for i in range(3))]
    found, left_out = studies_of(rows, splicer, prompt=PROMPT, limit=256, max_answer=16)
    assert left_out == {"are about a passage without text": 1}
    assert [study.text for study in found] == [f"The \ufffd fox {i}." for i in range(3)]
    assert found[0].questions == (("w\ufffd?", "fox"),)
    summarizer = Icae.untrained(model, tokenizer, n_memory=2, rank=2)
    plan = Recipe((Stage(1, Mix(), 2),), batch=3, prompt=PROMPT, eval_every=1)
    assert train_soft(model, tokenizer, found, tmp_path / "x", plan, summarizers=[summarizer]).step == 1
