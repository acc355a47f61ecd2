"""The probe against its definition written out: eager attention, every map of every layer, loops over heads."""

from functools import partial

import numpy as np
import pytest
import torch

from ctxcompress_integrations.hf.attention import trigger_rows
from ctxcompress_integrations.hf.probe import ProbeHead
from ctxcompress_integrations.scorers import probe as module
from ctxcompress_integrations.scorers import quito
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.scorers.probe import ASK, END, LEAD, AllHeads, Probe
from ctxcompress_integrations.scorers.quito import Quito
from ctxcompress_integrations.testing.tiny import tiny_decoder

SENTENCES = ["The tower was built in 1889.", "It is 330 metres tall, said Zoë.", "Nobody knows why."]
PASSAGE = " ".join(SENTENCES)
QUERY = "How tall is the tower?"
ARCHITECTURES = ["llama_gqa", "qwen2", "gpt2", "gemma2", "bloom"]


def random_head(n_layers=3, n_heads=4, template=None):
    generator = np.random.default_rng(0)
    weight, mean, scale = (generator.normal(size=n_layers * n_heads).astype(np.float32) for _ in range(3))
    scale = 1 + np.abs(scale)
    return ProbeHead(weight, np.float32([0.3]), 1 + mean / 4, scale, "tiny", n_layers, n_heads, template)


def made(architecture="llama", **sizes):
    return Probe(*tiny_decoder(architecture, **sizes), random_head(n_layers=sizes.get("n_layers", 3)))


def definition(model, tokenizer, head, sentences, query):
    """Features ``[s, f]``, probabilities ``[s]``, token offsets and log-odds ``[n]``, straight from the paper."""
    passage = " ".join(sentences)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{LEAD}{passage}{ASK}{query}{END}"}], add_generation_prompt=True, tokenize=False
    )
    begin = text.index(passage)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(torch.tensor([encoded["input_ids"]]), output_attentions=True).attentions
    model.set_attn_implementation(before)
    places = [(i, a - begin, b - begin) for i, (a, b) in enumerate(encoded["offset_mapping"])]
    context = [(i, max(a, 0), min(b, len(passage))) for i, a, b in places if a < len(passage) and b > 0]
    starts = [passage.index(sentence) for sentence in sentences]
    of_token = [max(s for s, start in enumerate(starts) if start < b) for _, _, b in context]
    features = np.zeros((len(sentences), len(maps) * maps[0].shape[1]))
    shares = np.zeros((len(context), features.shape[1]))
    for layer, attention in enumerate(maps):
        for number, one in enumerate(attention[0]):
            row = one[-1].float()[[i for i, _, _ in context]].double()
            f = layer * len(attention[0]) + number
            # a sliding window may end before the passage does: such a head is taken for even
            shares[:, f] = row / row.sum() * len(context) if row.sum() else 1
            for s in range(len(sentences)):
                features[s, f] = shares[[t for t, of in enumerate(of_token) if of == s], f].mean()
    log_odds = ((features - head.mean) / head.scale) @ head.weight + head.bias
    of_tokens = ((shares - head.mean) / head.scale) @ head.weight + head.bias
    return features, 1 / (1 + np.exp(-log_odds)), np.array([c[1:] for c in context]), of_tokens


def by_sentence(relevance, sentences=SENTENCES):
    """The one value that all tokens of each sentence carry."""
    assert relevance.rows.shape == (1, len(relevance.scores))
    starts = np.cumsum([0, *(len(s) + 1 for s in sentences[:-1])])
    of_token = np.searchsorted(starts, relevance.offsets[:, 1] - 1, side="right") - 1
    values = [set(relevance.rows[0, of_token == s].tolist()) for s in range(len(sentences))]
    assert all(len(found) == 1 for found in values)
    return [found.pop() for found in values]


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_equal_the_definition(architecture, pads, monkeypatch):
    monkeypatch.setattr(quito, "trigger_rows", partial(trigger_rows, pads=pads))
    model, tokenizer = tiny_decoder(architecture)
    head = random_head()
    others = ["Short. Text.", PASSAGE * 3]
    relevance = Probe(model, tokenizer, head).score([ScoreRequest([*others, PASSAGE], QUERY)])[0][2]
    _, probability, offsets, log_odds = definition(model, tokenizer, head, SENTENCES, QUERY)
    np.testing.assert_array_equal(relevance.offsets, offsets)
    np.testing.assert_allclose(by_sentence(relevance), probability, atol=1e-4)
    np.testing.assert_allclose(relevance.scores, log_odds, rtol=1e-3, atol=1e-3)
    assert relevance.weight == 1
    assert np.ptp(probability) > 0.01


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("architecture", ["llama_gqa", "qwen2", "gpt2"])
def test_bf16_is_close_to_the_definition_in_bf16(architecture, pads, monkeypatch):
    monkeypatch.setattr(quito, "trigger_rows", partial(trigger_rows, pads=pads))
    model, tokenizer = tiny_decoder(architecture)
    model.to(torch.bfloat16)
    head = random_head()
    found = AllHeads(model, tokenizer).score([ScoreRequest([PASSAGE, "Short. Text."], QUERY)])[0][0]
    features = module.sentence_features(module.sentence_pieces(PASSAGE, found))
    wanted, probability, _, _ = definition(model, tokenizer, head, SENTENCES, QUERY)
    assert found.rows.dtype == np.float32
    assert np.median(np.abs(features - wanted)) < 0.02
    np.testing.assert_allclose(features, wanted, atol=0.25)
    relevance = Probe(model, tokenizer, head).score([ScoreRequest([PASSAGE], QUERY)])[0][0]
    np.testing.assert_allclose(by_sentence(relevance), probability, atol=0.1)


def test_features_have_mean_one_whatever_the_length():
    reader = AllHeads(*tiny_decoder("qwen2"))
    for relevance in reader.score([ScoreRequest([PASSAGE, PASSAGE * 5, "x"], QUERY)])[0]:
        assert relevance.rows.shape == (12, len(relevance.offsets))
        np.testing.assert_allclose(relevance.rows.mean(axis=1), 1, atol=1e-5)


def test_token_scores_average_to_their_sentence():
    relevance = made().score([ScoreRequest([PASSAGE], QUERY)])[0][0]
    starts = np.cumsum([0, *(len(s) + 1 for s in SENTENCES[:-1])])
    of_token = np.searchsorted(starts, relevance.offsets[:, 1] - 1, side="right") - 1
    means = np.array([relevance.scores[of_token == s].mean() for s in range(len(SENTENCES))])
    np.testing.assert_allclose(1 / (1 + np.exp(-means)), by_sentence(relevance), rtol=1e-4)


def test_a_head_that_sees_nothing_prefers_nothing():
    rows = np.float32([[0, 0, 0], [1e-30, 0, 3e-30], [0.1, 0.2, 0.3]])
    np.testing.assert_allclose(module._shares(rows), [[1, 1, 1], [0.75, 0, 2.25], [0.5, 1, 1.5]], rtol=1e-5)
    assert module._shares(rows[:, :0]).shape == (3, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_does_not_change_scores(dtype):
    scorer = made("qwen2")
    scorer.model.to(dtype)
    texts = [PASSAGE, "Short.", PASSAGE * 5, "塔高330米。它建于1889年。"]
    together = scorer.score([ScoreRequest(texts, QUERY), ScoreRequest(texts[:1], "When?")])
    for text, relevance in zip(texts, together[0], strict=True):
        alone = scorer.score([ScoreRequest([text], QUERY)])[0][0]
        np.testing.assert_allclose(relevance.rows, alone.rows, atol=1e-5)
        np.testing.assert_allclose(relevance.scores, alone.scores, atol=1e-4)


def test_one_forward_keeps_rows_only(monkeypatch):
    model, tokenizer = tiny_decoder("llama")
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    kept = []

    def spy(*arguments):
        kept.append(trigger_rows(*arguments))
        return kept[-1]

    monkeypatch.setattr(quito, "trigger_rows", spy)
    Probe(model, tokenizer, random_head()).score([ScoreRequest([PASSAGE], QUERY)])
    assert len(calls) == 1
    n = kept[0][0].shape[-1]
    assert [rows.untyped_storage().nbytes() for rows in kept[0].values()] == [4 * n * 4] * 3  # float32 [1, h, n]


def test_raw_scores_are_quitos_of_the_last_layer():
    model, tokenizer = tiny_decoder("qwen2")
    template = "Read: {passage}\nAsk: {query}\n"
    mine = AllHeads(model, tokenizer, template=template).score([ScoreRequest([PASSAGE], QUERY)])[0][0]
    quitos = Quito(model, tokenizer, template=template).score([ScoreRequest([PASSAGE], QUERY)])[0][0]
    np.testing.assert_allclose(mine.scores, quitos.scores, atol=1e-6)
    assert mine.weight == quitos.weight
