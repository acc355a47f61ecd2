"""AutoCompressor against its definition: one passage, one segment, one position at a time."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ctxcompress_integrations import load_summarizer
from ctxcompress_integrations.errors import ModelLoadError, UnsupportedModelError, WeightsMismatchError
from ctxcompress_integrations.summarizers.autocompressor import AutoCompressor, SummaryTokens
from ctxcompress_integrations.testing.tiny import tiny_decoder, tiny_tokenizer

ARCHITECTURES = ["llama", "llama_gqa", "qwen2"]


def made(architecture="llama", *, seed=0, **choices):
    model, tokenizer = tiny_decoder(architecture, seed=seed, n_layers=2)
    torch.manual_seed(seed + 1)
    return AutoCompressor(model, tokenizer, SummaryTokens(torch.randn(3, 32) * 0.3), segment_tokens=7, **choices)


def twin(textbook, summarizer, text):
    """[sigma_1 .. sigma_{i-1}; x_i; summary tokens], segment after segment."""
    ids, tokens = textbook.ids(summarizer, text), summarizer.module.tokens.detach().double()
    sigmas = []
    for start in range(0, len(ids), summarizer.segment_tokens):
        words = textbook.word_vectors(summarizer.model, ids[start : start + summarizer.segment_tokens])
        before = sigmas if summarizer.prefix == "document" else []
        states = textbook.decoder_states(summarizer.model, torch.cat([*before, words, tokens]))
        sigmas.append(states[-len(tokens) :])
    return torch.cat(sigmas)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_twin_is_the_model(architecture, textbook):
    model, _ = tiny_decoder(architecture, n_layers=2)
    ids = list(range(6, 20))
    states = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    torch.testing.assert_close(
        textbook.decoder_states(model, textbook.word_vectors(model, ids)).float(), states, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("prefix", ["document", "empty"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_its_twin(architecture, prefix, textbook, texts, close):
    summarizer = made(architecture, prefix=prefix)
    wanted = [twin(textbook, summarizer, text) for text in texts]
    close(summarizer.summarize(texts), wanted)
    summarizer.model.to(torch.bfloat16)
    close(summarizer.summarize(texts), wanted, dtype=torch.bfloat16)


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
@pytest.mark.parametrize("prefix", ["document", "empty"])
def test_company_changes_nothing(prefix, batch_tokens, texts):
    summarizer = made("qwen2", prefix=prefix, batch_tokens=batch_tokens)
    for one, text in zip(summarizer.summarize(texts), texts, strict=True):
        alone = torch.as_tensor(summarizer.summarize([text])[0].vectors)
        torch.testing.assert_close(torch.as_tensor(one.vectors), alone, atol=1e-5, rtol=0)


def test_an_empty_prefix_makes_vectors_of_the_segment_alone(texts):
    document, empty = made(), made(prefix="empty")
    text = texts[1]
    ids = document.tokenizer(text)["input_ids"]
    assert len(ids) > 14
    accumulated, alone = (torch.as_tensor(s.summarize([text])[0].vectors) for s in (document, empty))
    torch.testing.assert_close(accumulated[:3], alone[:3], atol=1e-5, rtol=0)
    assert (accumulated[3:6] - alone[3:6]).abs().max() > 0.01
    (second,) = empty.encode([[ids[7:14]]])
    torch.testing.assert_close(second.detach(), alone[3:6], atol=1e-5, rtol=0)
    assert document.fingerprint != empty.fingerprint


def test_a_document_too_long_is_refused_before_anything_runs(monkeypatch):
    model, tokenizer = tiny_decoder(n_layers=1)
    summarizer = AutoCompressor(
        model, tokenizer, SummaryTokens(torch.zeros(3, 32)), segment_tokens=7, max_positions=7 + 3 * 3
    )
    assert summarizer.max_segments == 3
    assert summarizer.count_vectors(21) == 9
    monkeypatch.setattr(summarizer, "encode", lambda pieces: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=r"the passage '1' is too long: 22 tokens are 4 segments.*prefix='empty'"):
        summarizer.summarize(["short", "x" * 22])
    with pytest.raises(ValueError, match="22 tokens"):
        summarizer.count_vectors(22)
    empty = AutoCompressor(
        model, tokenizer, SummaryTokens(torch.zeros(3, 32)), segment_tokens=7, max_positions=10, prefix="empty"
    )
    assert empty.count_vectors(700) == 300


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"prefix": "chunk"}, "prefix must be 'document' or 'empty', got 'chunk'"),
        ({"max_positions": 9}, r"segment_tokens must be in \[1, 6\]"),
        ({"batch_tokens": 0}, "batch_tokens must be an int >= 1, got 0"),
        ({"ending": "ft"}, "ending must be None or one that was trained"),
    ],
)
def test_bad_choices(choices, message):
    with pytest.raises(ValueError, match=message):
        made(**choices)
    with pytest.raises(ValueError, match="n_summary must be an int >= 1, got 0"):
        AutoCompressor.untrained(*tiny_decoder(n_layers=1), n_summary=0)


def llama_keys(n_layers):
    layer = ["input_layernorm", "post_attention_layernorm", *(f"self_attn.{p}_proj" for p in "qkvo")]
    layer += [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    keys = {f"model.layers.{i}.{part}.weight" for i in range(n_layers) for part in layer}
    return keys | {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "embed_summary.weight"}


def write_published(folder, *, style="safetensors", drop=(), add=None, **config):
    """What the authors' ``LlamaAutoCompressorModel.save_pretrained`` leaves: a Llama and one more tensor."""
    model, tokenizer = tiny_decoder("llama", n_layers=2)
    torch.manual_seed(5)
    tensors = {**model.state_dict(), "embed_summary.weight": torch.randn(4, 32)}
    assert tensors.keys() == llama_keys(2)
    tensors = {name: tensor.clone() for name, tensor in tensors.items() if name not in drop} | (add or {})
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"architectures": ["LlamaAutoCompressorModel"], "summary_length": 4, "accumulate_summary": True}
    (folder / "config.json").write_text(json.dumps(settings | {"dtype": "float32"} | config))
    if style == "safetensors":
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        names = sorted(tensors)
        shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
        for file, held in shards.items():
            torch.save({name: tensors[name] for name in held}, folder / file)
        places = {name: file for file, held in shards.items() for name in held}
        index = {"metadata": {}, "weight_map": places}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return model, tokenizer, tensors.get("embed_summary.weight")


@pytest.mark.parametrize("style", ["safetensors", "bin"])
def test_the_published_layout_loads(tmp_path, style, texts):
    model, tokenizer, tokens = write_published(tmp_path, style=style)
    loaded = load_summarizer("autocompressor", model=str(tmp_path), device="cpu", dtype="float32", prefix="empty")
    assert (loaded.segment_tokens, loaded.n_summary, loaded.has_bos) == (1536, 4, False)
    assert loaded.ratio == 384
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    direct = AutoCompressor(model, tokenizer, SummaryTokens(tokens), prefix="empty")
    assert loaded.fingerprint == direct.fingerprint
    for one, other in zip(loaded.summarize(texts), direct.summarize(texts), strict=True):
        assert (one.vectors == other.vectors).all()


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ({"drop": ["embed_summary.weight"]}, WeightsMismatchError, "lacks the tensor 'embed_summary.weight'"),
        ({"drop": ["model.layers.1.mlp.up_proj.weight"]}, WeightsMismatchError, "lacks .*layers.1.mlp.up_proj"),
        ({"add": {"model.extra": torch.zeros(1)}}, WeightsMismatchError, "does not belong there: 'model.extra'"),
        ({"summary_length": 5}, WeightsMismatchError, r"has shape \(4, 32\), \(5, 32\) is needed"),
        ({"model_type": "opt"}, UnsupportedModelError, "AutoCompressor on 'opt'"),
        ({"accumulate_summary": False}, UnsupportedModelError, "RMT"),
    ],
)
def test_another_layout_is_named(tmp_path, damage, error, message):
    write_published(tmp_path, **damage)
    with pytest.raises(error, match=message):
        load_summarizer("autocompressor", model=str(tmp_path), device="cpu")


def test_a_saved_file_comes_back(tmp_path, texts):
    summarizer = made("llama_gqa")
    summarizer.model.save_pretrained(tmp_path / "base")
    summarizer.tokenizer.save_pretrained(tmp_path / "base")
    summarizer.save(tmp_path / "w.safetensors", card={"recipe": "none"})
    names = {"model": str(tmp_path / "base"), "weights": tmp_path / "w.safetensors"}
    back = load_summarizer("autocompressor", **names, device="cpu", dtype="float32")
    assert back.fingerprint == summarizer.fingerprint
    assert (back.summarize(texts)[1].vectors == summarizer.summarize(texts)[1].vectors).all()
    assert load_summarizer("autocompressor", **names, device="cpu", prefix="empty").prefix == "empty"
    other, _ = tiny_decoder("llama_gqa", seed=9, n_layers=2)
    other.save_pretrained(tmp_path / "base")
    with pytest.raises(WeightsMismatchError, match="trained for another reader"):
        load_summarizer("autocompressor", **names, device="cpu")
    tiny_tokenizer("metaspace").save_pretrained(tmp_path / "base")
    summarizer.model.save_pretrained(tmp_path / "base")
    with pytest.raises(WeightsMismatchError, match="trained for another tokenizer"):
        load_summarizer("autocompressor", **names, device="cpu")


def test_names_that_are_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr("ctxcompress_integrations.hf.load.SHIPPED", tmp_path)
    with pytest.raises(ModelLoadError, match="ships no weights"):
        load_summarizer("autocompressor", model="small-world")
    with pytest.raises(ValueError, match="takes no ending, got ending='ft'"):
        load_summarizer("autocompressor", ending="ft")
