"""The probe's training: on an LM that is trained here until it answers, and on rows that say nothing."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ctxcompress_integrations import TextCompressor
from ctxcompress_integrations.evaluation.datasets import Example, Stretch
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.scorers.probe import AllHeads, Probe
from ctxcompress_integrations.scorers.quito import Quito
from ctxcompress_integrations.training.probe import _read, _split, train_probe

NAMES = [
    "Ann",
    "Bob",
    "Cleo",
    "Dan",
    "Eve",
    "Finn",
    "Gus",
    "Hal",
    "Ida",
    "Jon",
    "Kai",
    "Leo",
    "Mia",
    "Ned",
    "Ola",
    "Pia",
]
THINGS = [
    "coal",
    "salt",
    "wine",
    "silk",
    "corn",
    "iron",
    "wool",
    "fish",
    "gold",
    "rice",
    "jade",
    "milk",
    "rope",
    "soap",
    "tea",
    "wax",
]
TEMPLATE = "{passage} ? {query}"
N_FACTS = 6


def facts(generator, n):
    """``n`` names, each with a thing; things may repeat."""
    return [(name, generator.choice(THINGS)) for name in generator.sample(NAMES, n)]


def told(found):
    return " ".join(f"{name} {thing}." for name, thing in found)


def row(generator):
    found = facts(generator, N_FACTS)
    context, (name, thing) = told(found), generator.choice(found)
    start = context.index(f"{name} {thing}") + len(name) + 1
    return asked(name, context, start, start + len(thing))


def asked(question, context, start, end):
    return Example("x", question, (Passage("0", context),), (context[start:end],), (Stretch(0, start, end),))


def word_tokenizer():
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", ".", "?", *NAMES, *THINGS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def batch(generator, tokenizer, n_facts):
    """Ids ``[64, n]`` of facts and questions with their answers, and where the answers stand."""
    texts = []
    for _ in range(64):
        found = facts(generator, n_facts)
        asked = [generator.choice(found) for _ in range(4)]
        texts.append(told(found) + "".join(f" ? {name} {thing}" for name, thing in asked))
    ids = torch.tensor(tokenizer(texts)["input_ids"])
    is_answer = torch.zeros_like(ids, dtype=torch.bool)
    is_answer[:, 3 * n_facts + 2 :: 3] = True
    return ids, is_answer


@pytest.fixture(scope="module")
def reading_lm():
    """A Llama of three layers that tells who has what: some ten seconds on one core.

    More facts are told once it knows what it was told before. The second layer's output is trained to answer too, so
    that the heads that look an answer up stand below the last layer, where QUITO does not look.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator, tokenizer = random.Random(0), word_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.05,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    n_facts, known = 2, 0.0
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 30)
        ids, is_answer = batch(generator, tokenizer, n_facts)
        states = model.model(ids, use_cache=False, output_hidden_states=True).hidden_states
        wanted = ids[:, 1:][is_answer[:, 1:]]
        logits = [model.lm_head(s[:, :-1][is_answer[:, 1:]]) for s in (model.model.norm(states[2]), states[3])]
        loss = sum(torch.nn.functional.cross_entropy(found, wanted) for found in logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        known = 0.9 * known + 0.1 * (logits[1].argmax(-1) == wanted).float().mean().item()
        if known > 0.95 and n_facts == N_FACTS:
            break
        if known > 0.95:
            n_facts, known = n_facts + 2, 0.5
    torch.set_num_threads(n_threads)
    assert known > 0.95, f"the LM did not learn to answer ({known:.2f} of {n_facts} facts)"
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def trained(reading_lm):
    generator = random.Random(1)
    return train_probe(*reading_lm, [row(generator) for _ in range(300)], base="reader", template=TEMPLATE)


def test_probe_beats_the_last_layers_attention_on_held_out_questions(trained):
    _, figures = trained
    assert (figures.n_questions, figures.n_left_out, figures.n_held_out) == (300, 0, 45)
    assert figures.top1 > 0.85
    assert figures.auc > 0.95
    assert figures.top1 > figures.top1_raw + 0.3


def test_probe_beats_quito_through_the_compressor(reading_lm, trained, tmp_path):
    trained[0].save(tmp_path / "probe.safetensors")
    head = type(trained[0]).load(tmp_path / "probe.safetensors", base="reader")
    generator = random.Random(2)
    rows = [row(generator) for _ in range(60)]
    kept = {}
    for scorer in (Probe(*reading_lm, head), Quito(*reading_lm, template=TEMPLATE)):
        results = TextCompressor(scorer, keep_ratio=1 / N_FACTS).compress_many([(r.passages, r.question) for r in rows])
        kept[scorer.name] = np.mean(
            [r.question in result.text.split() for r, result in zip(rows, results, strict=True)]
        )
    assert kept["probe"] > 0.85
    assert kept["probe"] > kept["quito"] + 0.3


def test_scoring_gives_what_training_measured(reading_lm, trained):
    """One path for both: the probabilities of sentences are the head's on the features that training sees."""
    head, example = trained[0], row(random.Random(3))
    question = _read(AllHeads(*reading_lm, template=TEMPLATE), [example])[0]
    relevance = Probe(*reading_lm, head).score([ScoreRequest([example.passages[0].text], example.question)])[0][0]
    context = example.passages[0].text
    starts = [context.index(sentence) for sentence in context.split(". ")]
    at = np.searchsorted(relevance.offsets[:, 0], starts)
    np.testing.assert_allclose(relevance.rows[0, at], 1 / (1 + np.exp(-head(question.features))), rtol=1e-5)
    assert question.is_answer.sum() == 1


def test_same_seed_same_head_and_no_passage_on_two_sides(reading_lm):
    generator = random.Random(4)
    rows = [row(generator) for _ in range(12)]
    rows += [replace(r, question=r.passages[0].text.split()[0]) for r in rows]  # a second question each
    first, again = (train_probe(*reading_lm, rows, base="reader", template=TEMPLATE, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first[0].weight, again[0].weight)
    assert first[1] == again[1]

    class Asked:
        def __init__(self, passage):
            self.passage = passage

    parts = [{q.passage for q in part} for part in _split([Asked(r.passages[0].text) for r in rows], seed=3)]
    assert [len(part) for part in parts] == [8, 2, 2]
    assert len(set.union(*parts)) == 12
