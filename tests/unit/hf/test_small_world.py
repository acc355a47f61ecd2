"""An encoder as a decoder: it looks back only, reads through the package's reader, and is kept as its layers alone."""

import math

import pytest
import torch
from safetensors.torch import load_file

from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.hf import small_world
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.readers.hf import HFReader
from ctxcompress_integrations.summarizers.autocompressor import AutoCompressor
from ctxcompress_integrations.summarizers.icae import Icae
from ctxcompress_integrations.summarizers.icformer import IcFormer
from ctxcompress_integrations.summarizers.pooled import Pooled
from ctxcompress_integrations.testing.tiny import tiny_decoder, tiny_encoder, tiny_small_world, tiny_tokenizer

TEXTS = [
    "The tower.",
    "Paris is the capital of France; the tower was built in 1889.",
    "Which animal jumps over the dog?",
]


def bert():
    """A base whose tokenizer has a [CLS] and a [SEP], as MiniLM's has."""
    base, tokenizer = tiny_encoder()
    tokenizer.cls_token, tokenizer.sep_token = "<s>", "</s>"
    return base, tokenizer


@pytest.fixture(scope="module")
def decoder():
    return tiny_small_world()


def test_it_looks_back_only_and_compares_states_with_its_own_words(decoder):
    model, _ = decoder
    ids = torch.tensor([[7, 8, 9, 10, 11]])
    short, long = model(input_ids=ids[:, :3]).logits, model(input_ids=ids).logits
    torch.testing.assert_close(short, long[:, :3], atol=1e-5, rtol=0)
    states = model.bert(input_ids=ids).last_hidden_state
    words = model.get_input_embeddings().weight
    torch.testing.assert_close(long, states @ words.T * math.sqrt(words.shape[1]), atol=1e-4, rtol=0)


def test_it_starts_as_its_base(decoder):
    base, _ = bert()
    ids = torch.tensor([[7]])  # of one token past and future are the same
    torch.testing.assert_close(
        decoder[0].bert(input_ids=ids).last_hidden_state * math.sqrt(base.config.hidden_size),
        base(input_ids=ids).last_hidden_state,
        atol=1e-5,
        rtol=0,
    )


def test_batches_generate_what_singles_do(decoder):
    reader = HFReader(*decoder)
    prompts = [[text] for text in TEXTS]
    assert reader.generate_many(prompts, max_new_tokens=6) == [reader.generate(p, max_new_tokens=6) for p in prompts]
    assert reader.max_tokens == 512
    with pytest.raises(ValueError, match="the model reads"):
        reader.generate(["tower " * 600])


@pytest.mark.parametrize(
    "made",
    [
        lambda m, t: AutoCompressor.untrained(m, t, n_summary=4, segment_tokens=16),
        lambda m, t: Icae.untrained(
            m, t, n_memory=4, tokens_per_slot=4, rank=2, layers=("query", "key", "value", "dense")
        ),
        lambda m, t: IcFormer.untrained(m, t, n_digests=4, chunk_tokens=16, n_heads=4, n_inner=32, n_layers=1),
        lambda m, t: Pooled.untrained(m, t, reader=m, pool=4, is_causal=False),
    ],
    ids=["autocompressor", "icae", "icformer", "pooled"],
)
def test_every_summarizer_writes_for_it(decoder, made):
    torch.manual_seed(0)
    summarizer = made(*decoder)
    together = summarizer.summarize(TEXTS)
    for text, vectors in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(
            torch.tensor(vectors.vectors), torch.tensor(summarizer.summarize([text])[0].vectors), atol=1e-4, rtol=0
        )
    assert HFReader(*decoder).generate(["The ", together[1], " tower"], max_new_tokens=2) is not None
    tight = summarizer.at_ratio(8)
    assert tight.module is summarizer.module
    assert tight.ratio == 8
    with torch.no_grad():
        for one, vectors in zip(summarizer.written(TEXTS), together, strict=True):
            torch.testing.assert_close(one, torch.tensor(vectors.vectors), atol=1e-4, rtol=0)
    sum(one.sum() for one in summarizer.written(TEXTS)).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in summarizer.module.parameters())


def test_icaes_adapter_finds_every_linear_layer_of_a_bert(decoder):
    summarizer = Icae.untrained(*decoder, n_memory=2, rank=1, layers=("query", "key", "value", "dense"))
    assert len(summarizer.module.adapter.shapes) == 2 * 6


def test_its_file_holds_layers_alone_and_only_fits_its_base(tmp_path):
    base, tokenizer = bert()
    model, path = small_world.as_decoder(base, tokenizer), tmp_path / "reader.safetensors"
    with torch.no_grad():
        for parameter in model.bert.encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    small_world.save(model, path, base="mini", base_sha256=weights_digest(base), card={"steps": 3})
    assert all(name.startswith("encoder.layer.") for name in load_file(path))
    loaded, card = small_world.load(path, *bert(), base_sha256=weights_digest(base))
    assert card == {"steps": 3}
    assert weights_digest(loaded) == weights_digest(model)
    with pytest.raises(WeightsMismatchError, match="other weights of 'mini'"):
        small_world.load(path, *bert(), base_sha256="0" * 64)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsMismatchError, match="damaged"):
        small_world.load(path, *bert(), base_sha256=weights_digest(base))
    path.write_bytes(b"x")
    with pytest.raises(WeightsMismatchError, match="no readable"):
        small_world.load(path, *bert(), base_sha256=weights_digest(base))


def test_only_a_bert_becomes_one():
    with pytest.raises(ValueError, match="must be a BERT"):
        small_world.as_decoder(tiny_decoder("llama")[0], tiny_tokenizer())
