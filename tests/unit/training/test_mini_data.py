"""Batches for mini: sentence numbers, clusters, order, noise."""

import random
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from ctxcompress_integrations.evaluation.datasets import Example, Stretch
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.testing.tiny import tiny_encoder, tiny_tokenizer
from ctxcompress_integrations.training import neighbours as nearby
from ctxcompress_integrations.training.mini_data import batches, build, noisy
from ctxcompress_integrations.training.neighbours import find_neighbours, neighbours_of

TEXT = "Ada was born in Rome. She wrote a book. It sold well."


def example(i, question="Where?", text=TEXT, answer="Rome", **more):
    start = text.index(answer)
    mark = Stretch(0, start, start + len(answer))
    return Example(str(i), question, (Passage("0", text),), (answer,), (mark,), **more)


def hops(i):
    passages = tuple(
        Passage(str(k), text)
        for k, text in enumerate((f"The book {i} is by Bo.", "Noise.", f"Bo {i} was born in Rome. Sun."))
    )
    return Example(
        str(i), "Where was the author born?", passages, ("Rome",), (), (Stretch(0, 0, 18), Stretch(2, 0, 20))
    )


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer("byte", chat_template=None)


def test_positives_are_the_sentences_that_are_marked(tokenizer):
    data = build([example(0), example(1, answer="book"), example(2, answer="well.")], tokenizer)
    assert len(data.passages) == 1  # one text, one passage
    assert [q.positives for q in data.questions] == [((0, 0),), ((0, 1),), ((0, 2),)]
    passage = data.passages[0]
    assert passage.n_sentences == 3
    assert len(passage.ids) == len(passage.sentence) == len(passage.starts)
    for start, sentence in zip(passage.starts, passage.sentence, strict=True):
        assert sentence == (start >= TEXT.index("She")) + (start >= TEXT.index("It"))


def test_hops_need_all_and_bring_their_documents(tokenizer):
    data = build([hops(0), example(0)], tokenizer)
    question = data.questions[data.multi[0]]
    assert question.needs_all
    assert len(question.passages) == 3
    assert question.positives == ((0, 0), (2, 0))
    assert list(data.of_passage) == [3]


def test_halves_of_characters_are_replaced_and_offsets_stay(tokenizer):
    odd = example(0, "Wh\ud800re?", TEXT.replace("She", "S\udc00e"))
    data = build(
        [replace(odd, passages=(Passage("0", odd.passages[0].text, metadata={"title": "\ud83d"}),))], tokenizer
    )
    assert data.questions[0].text == "Wh\ufffdre?"
    assert data.questions[0].positives == ((0, 0),)
    assert data.passages[0].text == TEXT.replace("She", "S\ufffde")
    assert data.passages[0].title_ids == tokenizer("\ufffd", add_special_tokens=False)["input_ids"]


def test_what_is_not_marked_is_left_out(tokenizer):
    bare = Example("x", "Why?", (Passage("0", TEXT),), ("Rome",))
    long = example("y", text="word " * 3000 + "End here.", answer="End")
    data = build([bare, long, example(1)], tokenizer)
    assert [q.text for q in data.questions] == ["Where?"]  # the answer that lies beyond what is read is no label


def test_batches_are_neighbours_and_the_same_for_a_seed(tokenizer):
    texts = [f"Tower {i} is in town {i % 5}. It is old." for i in range(40)]
    data = build(
        [example(i, text=text, answer="old") for i, text in enumerate(texts)] + [hops(i) for i in range(4)], tokenizer
    )
    rng = np.random.default_rng(0)
    towns = rng.normal(size=(5, 8))
    vectors = np.stack([towns[i % 5] + 0.01 * rng.normal(size=8) for i in range(len(data.passages))])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    neighbours = find_neighbours(data, vectors, np.stack([vectors[q.passages[0]] for q in data.questions]))

    def made(seed):
        return list(islice(batches(data, neighbours, seed=seed, n_clusters=2, cluster_tokens=60), 24))

    assert made(0) == made(0)
    assert made(0) != made(1)
    single = [b for b in made(0) if all(q not in data.multi for q in b.questions)]
    assert any(q in data.multi for b in made(0) for q in b.questions)
    for batch in single:
        assert len(set(batch.passages)) == len(batch.passages)
        assert {data.questions[q].passages[0] for q in batch.questions} <= set(batch.passages)
    one_pass = [p for b in single for p in b.passages][:40]
    assert sorted(one_pass) == sorted(data.of_passage)  # every passage once before any comes again


def test_a_passages_hard_negatives_are_what_its_questions_find_and_what_it_finds(tokenizer):
    data = build([example(i, text=f"Text {i} holds it.", answer="it") for i in range(6)], tokenizer)
    passages = np.eye(6, dtype=np.float32)
    passages[0, 1] = 0.9  # passage 0 lies beside 1
    questions = np.zeros((6, 6), dtype=np.float32)
    questions[0, 4] = 1.0  # its question finds 4
    neighbours = find_neighbours(data, passages, questions)
    assert neighbours.shape == (6, 5)
    assert {1, 4} <= set(neighbours[0, :3].tolist())  # one of the three is BM25's
    assert all(p not in row for p, row in enumerate(neighbours.tolist()))


def test_titles_are_read_with_spaces_and_cut(tokenizer):
    titles = ["New_York", "", None, "long " * 400]
    rows = [
        replace(example(i), passages=(Passage("0", f"{TEXT} {i}", metadata={"title": title}),))
        for i, title in enumerate(titles)
    ]
    passages = build(rows, tokenizer).passages
    assert tokenizer.decode(passages[0].title_ids) == "New York"
    assert [len(p.title_ids) for p in passages[1:]] == [0, 0, 32]


def test_noise_is_mild_and_never_blank():
    generator = random.Random(0)
    questions = ["Who?", "a", "?", "What is the name of the tallest tower in town?"]
    for _ in range(500):
        for question in questions:
            assert noisy(question, generator).strip()
    changed = sum(noisy(questions[-1], generator) != questions[-1] for _ in range(1000))
    assert 280 < changed < 440


def test_neighbours_are_kept_for_the_same_data_and_base_only(tmp_path, monkeypatch):
    (base, tokenizer), other = tiny_encoder(), tiny_encoder(seed=3)[0]
    first, second = (build([example(i, text=f"{TEXT} {i + n}") for i in range(4)], tokenizer) for n in (0, 10))
    kept, made = tmp_path / "x.neighbours", []
    monkeypatch.setattr(nearby, "find_neighbours", lambda *given: made.append(1) or find_neighbours(*given))
    for data, model, n_made in ((first, base, 1), (first, base, 1), (second, base, 2), (second, other, 3)):
        found = neighbours_of(data, model, tokenizer, kept)
        assert len(made) == n_made
        assert found.shape == (4, 3)
    kept.write_bytes(kept.read_bytes()[:-4])
    assert np.array_equal(neighbours_of(second, other, tokenizer, kept), found)
    assert [path.name for path in tmp_path.iterdir()] == ["x.neighbours"]
