"""Pooled states against their definition, causal and not, and the file that the projector lives in."""

import pytest
import torch

from ctxcompress_integrations import load_summarizer
from ctxcompress_integrations.errors import UnsupportedModelError, WeightsMismatchError
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.summarizers.pooled import Pooled
from ctxcompress_integrations.testing.tiny import tiny_decoder, tiny_tokenizer


def made(architecture="llama", *, n_middle=None, seed=0, **choices):
    encoder, tokenizer = tiny_decoder(architecture, n_layers=2)
    reader, _ = tiny_decoder("llama_gqa", seed=7, n_layers=1)
    torch.manual_seed(seed)
    untrained = Pooled.untrained(encoder, tokenizer, reader=reader, n_middle=n_middle)
    return Pooled(encoder, tokenizer, untrained.module, **{"reader": untrained.reader, "pool": 3} | choices)


def twin(textbook, summarizer, text):
    """Pieces of equal length; states after the last norm; the mean of each run of neighbours; the maps."""
    ids, pool = textbook.ids(summarizer, text), summarizer.pool
    longest = summarizer.max_tokens // pool * pool
    n_pieces = -(-len(ids) // longest)
    length = -(-len(ids) // (n_pieces * pool)) * pool
    rows = []
    for start in range(0, len(ids), length):
        words = textbook.word_vectors(summarizer.model, ids[start : start + length])
        n = len(words)
        visible = torch.tensor([[k <= q or not summarizer.is_causal for k in range(n)] for q in range(n)])
        states = textbook.decoder_states(summarizer.model, words, visible=visible)
        for first in range(0, n, pool):
            group = states[first : first + pool]
            vector = sum(group) / len(group)
            for linear in summarizer.module.maps:
                vector = linear.weight.detach().double() @ vector + linear.bias.detach().double()
            rows.append(vector)
    return torch.stack(rows)


@pytest.mark.parametrize(("is_causal", "max_tokens", "n_middle"), [(True, None, None), (False, 14, 5)])
@pytest.mark.parametrize("architecture", ["llama", "llama_gqa", "qwen2"])
def test_equals_its_twin(architecture, is_causal, max_tokens, n_middle, textbook, texts, close):
    summarizer = made(architecture, is_causal=is_causal, max_tokens=max_tokens, n_middle=n_middle)
    wanted = [twin(textbook, summarizer, text) for text in texts]
    close(summarizer.summarize(texts), wanted)
    summarizer.model.set_attn_implementation("eager")
    close(summarizer.summarize(texts), wanted)
    summarizer.model.set_attn_implementation("sdpa")
    summarizer.model.to(torch.bfloat16)
    summarizer.module.to(torch.bfloat16)
    close(summarizer.summarize(texts), wanted, dtype=torch.bfloat16)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_company_changes_nothing(batch_tokens, is_causal, texts):
    summarizer = made("qwen2", batch_tokens=batch_tokens, is_causal=is_causal, has_bos=True)
    for one, text in zip(summarizer.summarize(texts), texts, strict=True):
        alone = torch.as_tensor(summarizer.summarize([text])[0].vectors)
        torch.testing.assert_close(torch.as_tensor(one.vectors), alone, atol=1e-5, rtol=0)
        assert len(alone) == summarizer.count_vectors(one.n_tokens) == -(-(one.n_tokens + 1) // 3)


def test_an_attention_kernel_that_cannot_see_ahead_is_refused(texts):
    summarizer = made(is_causal=False)
    summarizer.model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match="'flash_attention_2' cannot let a causal model see ahead"):
        summarizer.summarize(texts)


def test_tokens_are_counted_by_the_reader(texts):
    other = tiny_tokenizer("metaspace")
    summarizer = made(reader_tokenizer=other)
    for one, text in zip(summarizer.summarize(texts), texts, strict=True):
        assert one.n_tokens == len(other(text, add_special_tokens=False)["input_ids"])
        assert one.reader == summarizer.reader != weights_digest(summarizer.model)


def test_bad_sizes():
    for choices, message in [
        ({"pool": 0}, "pool must be an int >= 1, got 0"),
        ({"pool": 9, "max_tokens": 8}, r"pool must be in \[1, 8\], the longest piece, got 9"),
    ]:
        with pytest.raises(ValueError, match=message):
            made(**choices)
    with pytest.raises(ValueError, match="reader must be the digest of the reader's weights, got a LlamaForCausalLM"):
        made(reader=tiny_decoder()[0])
    with pytest.raises(ValueError, match="widths must be >= 1, got 32, 32 and 0"):
        made(n_middle=0)


@pytest.mark.parametrize("n_middle", [None, 5])
def test_a_saved_file_comes_back(tmp_path, n_middle, texts):
    summarizer = made("llama", n_middle=n_middle, pool=5, is_causal=False, max_tokens=50)
    summarizer.model.save_pretrained(tmp_path / "encoder")
    summarizer.tokenizer.save_pretrained(tmp_path / "encoder")
    summarizer.save(tmp_path / "w.safetensors")
    names = {"model": str(tmp_path / "encoder"), "weights": tmp_path / "w.safetensors", "device": "cpu"}
    back = load_summarizer("pooled", **names, dtype="float32")
    assert back.fingerprint == summarizer.fingerprint
    for one, other in zip(back.summarize(texts), summarizer.summarize(texts), strict=True):
        assert (one.vectors == other.vectors).all()


def test_another_readers_tokenizer_is_asked_for_and_checked(tmp_path):
    reader_tokenizer = tiny_tokenizer("metaspace")
    summarizer = made(reader_tokenizer=reader_tokenizer)
    for folder, tokenizer in (("encoder", summarizer.tokenizer), ("reader", reader_tokenizer)):
        summarizer.model.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
    summarizer.save(tmp_path / "w.safetensors")
    names = {"model": str(tmp_path / "encoder"), "weights": tmp_path / "w.safetensors", "device": "cpu"}
    with pytest.raises(ValueError, match="'pooled' needs reader"):
        load_summarizer("pooled", **names)
    with pytest.raises(WeightsMismatchError, match="trained for another reader_tokenizer"):
        load_summarizer("pooled", **names, reader=str(tmp_path / "encoder"))
    back = load_summarizer("pooled", **names, reader=str(tmp_path / "reader"))
    assert back.fingerprint == summarizer.fingerprint


def test_nothing_untrained_comes_by_name():
    with pytest.raises(ValueError, match="'pooled' needs model"):
        load_summarizer("pooled")
    with pytest.raises(ValueError, match="'pooled' needs weights"):
        load_summarizer("pooled", model="x")
