"""Weighted sums of word vectors, against their definition."""

import math

import pytest
import torch

from ctxcompress_integrations.testing.tiny import tiny_small_world
from ctxcompress_integrations.training.superposed import SMOOTHING, Superposed, WordWeights


def made(**choices):
    model, tokenizer = tiny_small_world()
    table = model.get_input_embeddings().weight
    words = WordWeights(torch.linspace(0.1, 1.0, len(table)))
    return Superposed(model, tokenizer, words, **choices), tokenizer, table, words.weights


def test_a_vector_is_the_weighted_sum_of_its_words_over_the_length_of_the_weights():
    writer, tokenizer, table, weights = made(segment_tokens=4, align="tokens")
    text = "The red fox ran over the river bank."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    (found,) = writer.summarize([text])
    wanted = []
    for start in range(0, len(ids), 4):
        group = ids[start : start + 4]
        length = math.sqrt(sum(float(weights[i]) ** 2 for i in group))
        wanted.append(sum(table[i].double() * float(weights[i]) for i in group) / length)
    torch.testing.assert_close(torch.as_tensor(found.vectors).double(), torch.stack(wanted).detach(), atol=1e-5, rtol=0)
    assert writer.count_vectors(len(ids)) == len(wanted)
    assert not list(writer.module.parameters())


def test_what_is_said_often_weighs_little():
    _, tokenizer, table, _ = made(segment_tokens=4)
    texts = ["the fox", "the dog"]
    ids = [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    weights = WordWeights.counted(texts, tokenizer, len(table)).weights
    for word, weight in enumerate(weights.tolist()):
        assert weight == pytest.approx(SMOOTHING / (SMOOTHING + ids.count(word) / len(ids)))
    assert weights[ids].min() < 0.1 < 1 == weights.max()


def test_the_ratio_tightens():
    writer, *_ = made(segment_tokens=2)
    tight = writer.at_ratio(6)
    assert (writer.ratio, tight.ratio, tight.align) == (2.0, 6.0, "sentences")
    assert tight.fingerprint != writer.fingerprint
