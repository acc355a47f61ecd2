"""Passages beyond the model's window, read in one go under LM-Infinite: ``quito`` and ``probe``."""

import threading

import numpy as np
import pytest

from ctxcompress_integrations import TextCompressor, load_compressor
from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.lambda_attention import lambda_window
from ctxcompress_integrations.hf.probe import ProbeHead
from ctxcompress_integrations.nn.lambda_mask import LambdaShape
from ctxcompress_integrations.readers.hf import HFReader
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.scorers.probe import Probe
from ctxcompress_integrations.scorers.quito import Quito
from ctxcompress_integrations.testing.tiny import tiny_decoder

QUERY = "Where is the river?"
SHORT = "The river is near the tower. It is wide."
LONG = " ".join(f"Sentence number {i} speaks of the river." for i in range(60))
HEAD = ProbeHead(
    np.linspace(-1, 1, 12, dtype=np.float32),
    np.float32([0.1]),
    *np.ones((2, 12), dtype=np.float32),
    base="tiny",
    layers=3,
    heads=4,
)


def scorer(method, **settings):
    model, tokenizer = tiny_decoder("llama_gqa", n_positions=160)
    return Quito(model, tokenizer, **settings) if method == "quito" else Probe(model, tokenizer, HEAD, **settings)


def read(made, *texts):
    return made.score([ScoreRequest(list(texts), QUERY)])[0]


@pytest.mark.parametrize("method", ["quito", "probe"])
def test_within_the_window_both_ways_agree_and_beyond_it_all_is_read_at_once(method):
    windows, whole = scorer(method), scorer(method, long_input="lm_infinite")
    short = read(whole, SHORT)[0]
    np.testing.assert_array_equal(short.scores, read(windows, SHORT)[0].scores)
    together = read(whole, LONG, SHORT)
    np.testing.assert_allclose(together[1].scores, short.scores, atol=1e-4)  # company changes nothing
    np.testing.assert_array_equal(together[0].offsets, read(windows, LONG)[0].offsets)
    assert np.isfinite(together[0].scores).all()
    if method == "quito":
        assert (together[0].scores > 0).all()  # the middle is out of the model's view, not of the trigger's
    assert whole.model.config._attn_implementation == "sdpa"
    assert not any(part._forward_pre_hooks for part in whole.model.modules())


def test_scores_are_those_of_one_prompt():
    """Against one row over the whole prompt, read by hand."""
    made = scorer("quito", long_input="lm_infinite")
    plain = Quito(made.model, made.tokenizer, max_tokens=100_000)
    with lambda_window(made.model, LambdaShape(32, 160), rows_see_all=True):
        want = read(plain, LONG)[0]
    got = read(made, LONG)[0]
    np.testing.assert_allclose(got.scores, want.scores, rtol=1e-5)
    assert got.weight == want.weight


def test_compressor_takes_it_and_keeps_its_promises():
    made = TextCompressor(scorer("quito", long_input="lm_infinite"), token_budget=40)
    result = made.compress([LONG, SHORT], QUERY)
    assert 0 < result.n_tokens_out <= 40
    assert all(LONG[s.start : s.end] for s in result.passages[0].spans)


def test_scorers_and_readers_in_other_threads_never_meet_the_patch():
    model, tokenizer = tiny_decoder("llama_gqa", n_positions=160)
    one, other = (Quito(model, tokenizer, long_input="lm_infinite") for _ in range(2))
    windows, reader = Quito(model, tokenizer), HFReader(model, tokenizer)
    jobs = [
        lambda: read(one, LONG)[0].scores.tolist(),
        lambda: read(other, LONG)[0].scores.tolist(),
        lambda: read(windows, LONG)[0].scores.tolist(),
        lambda: reader.generate_many([[LONG[:200]]], max_new_tokens=20),
    ]
    want, found = [job() for job in jobs], [[] for _ in jobs]

    def again(job, results):
        for _ in range(6):
            results.append(job())

    threads = [threading.Thread(target=again, args=pair, daemon=True) for pair in zip(jobs, found, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [[each] * 6 for each in want]


def test_query_that_fills_the_window_is_an_error_still():
    with pytest.raises(ValueError, match="leaves no room"):
        scorer("quito", long_input="lm_infinite").score([ScoreRequest([SHORT], "why " * 300)])


def test_what_cannot_be_is_named(tmp_path):
    with pytest.raises(ValueError, match="long_input must be one of windows, lm_infinite, got 'stretch'"):
        scorer("quito", long_input="stretch")
    with pytest.raises(UnsupportedModelError, match="GPT2LMHeadModel: its positions are absolute"):
        Quito(*tiny_decoder("gpt2"), long_input="lm_infinite")
    with pytest.raises(UnsupportedModelError, match="BloomForCausalLM .* no attention rows .* long_input='windows'"):
        Quito(*tiny_decoder("bloom"), long_input="lm_infinite")
    with pytest.raises(ValueError, match="the scorer 'lexical' takes no long_input, got long_input='lm_infinite'"):
        load_compressor("lexical", long_input="lm_infinite")
    model, tokenizer = tiny_decoder("llama", n_positions=160)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_compressor("quito", model=str(tmp_path), device="cpu", long_input="lm_infinite", keep_ratio=0.3)
    assert loaded.scorer.long_input == "lm_infinite"
    assert 0 < loaded.compress([LONG], QUERY).keep_ratio < 0.5
