"""IC-Former against its definition: one digest, one head, one key at a time; its cost; its published layout."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from ctxcompress_integrations import load_summarizer
from ctxcompress_integrations.errors import UnsupportedModelError, WeightsMismatchError
from ctxcompress_integrations.nn.digest import DigestEncoder
from ctxcompress_integrations.summarizers.icformer import DigestWriter, IcFormer
from ctxcompress_integrations.testing.tiny import tiny_decoder

SIZES = {"width": 32, "n_digests": 3, "n_layers": 2, "n_heads": 4, "n_inner": 48}

PARTS = ("query_norm", "context_norm", "inner_norm", "query", "key", "value", "out", "gate", "up", "down")


def made(architecture="llama", *, n_kv_heads=None, seed=0, **choices):
    model, tokenizer = tiny_decoder(architecture, n_layers=1)
    torch.manual_seed(seed)
    module = DigestWriter(DigestEncoder(**SIZES, n_kv_heads=n_kv_heads), {"ae": torch.randn(32), "ft": torch.randn(32)})
    with torch.no_grad():
        for parameter in module.encoder.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.ndim == 1))
    return IcFormer(model, tokenizer, module, **{"chunk_tokens": 12} | choices)


def twin(textbook, summarizer, text):
    """Q from the digests' states; K, V from the fixed [E; initial digests]; queries on the last m positions."""
    encoder, ids = summarizer.module.encoder, textbook.ids(summarizer, text)
    weights = {name: w.detach().double() for name, w in encoder.state_dict().items()}
    digests, heads, eps = weights["digests"], encoder.sizes["n_heads"], encoder.sizes["eps"]
    kv_heads, width = encoder.sizes["n_kv_heads"], encoder.head_width
    m = len(digests)
    n_chunks = -(-len(ids) // summarizer.chunk_tokens)
    length = -(-len(ids) // n_chunks)
    out = []
    for start in range(0, len(ids), length):
        words = textbook.word_vectors(summarizer.model, ids[start : start + length])
        n, fixed = len(words), torch.cat([words, digests])
        visible = torch.tensor([[j < n + i + 1 for j in range(n + m)] for i in range(m)])
        states = list(digests)
        for layer in range(encoder.sizes["n_layers"]):
            w = {name: weights[f"layers.{layer}.{name}.weight"] for name in PARTS}
            seen = [textbook.rms(x, w["context_norm"], eps) for x in fixed]
            q = [(w["query"] @ textbook.rms(x, w["query_norm"], eps)).split(width) for x in states]
            k, v = ([(w[name] @ x).split(width) for x in seen] for name in ("key", "value"))
            mixed = []
            for h in range(heads):
                g = h * kv_heads // heads
                mixed.append(
                    textbook.attend(
                        torch.stack([textbook.turned(q[i][h], n + i, 10000.0) for i in range(m)]),
                        torch.stack([textbook.turned(k[j][g], j, 10000.0) for j in range(n + m)]),
                        torch.stack([v[j][g] for j in range(n + m)]),
                        visible,
                    )
                )
            joined = torch.cat(mixed, dim=1)
            states = [x + w["out"] @ joined[i] for i, x in enumerate(states)]
            parts = w["gate"], w["up"], w["down"]
            states = [x + textbook.swiglu(textbook.rms(x, w["inner_norm"], eps), *parts) for x in states]
        out += [textbook.rms(x, weights["norm.weight"], eps) for x in states]
    return torch.stack(out)


@pytest.mark.parametrize("n_kv_heads", [None, 2])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_equals_its_twin(architecture, n_kv_heads, textbook, texts, close):
    summarizer = made(architecture, n_kv_heads=n_kv_heads, has_bos=n_kv_heads is None)
    wanted = [twin(textbook, summarizer, text) for text in texts]
    close(summarizer.summarize(texts), wanted)
    summarizer.model.to(torch.bfloat16)
    summarizer.module.to(torch.bfloat16)
    close(summarizer.summarize(texts), wanted, dtype=torch.bfloat16)


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_company_changes_nothing(batch_tokens, texts):
    summarizer = made(batch_tokens=batch_tokens)
    for one, text in zip(summarizer.summarize(texts), texts, strict=True):
        alone = torch.as_tensor(summarizer.summarize([text])[0].vectors)
        torch.testing.assert_close(torch.as_tensor(one.vectors), alone, atol=1e-5, rtol=0)


def test_what_follows_a_row_is_never_seen():
    encoder = made().module.encoder
    context = torch.randn(2, 9, 32)
    with torch.no_grad():
        padded = encoder(context, torch.tensor([9, 4]))
        spoiled = context.clone()
        spoiled[1, 4:] = 1e4
        assert torch.equal(padded, encoder(spoiled, torch.tensor([9, 4])))
        torch.testing.assert_close(padded[1:], encoder(context[1:, :4]), atol=1e-5, rtol=0)


def test_a_digest_sees_no_later_digest():
    encoder = made().module.encoder
    context = torch.randn(1, 6, 32)
    with torch.no_grad():
        before = encoder(context)
        encoder.digests[2] += 1.0
        after = encoder(context)
    torch.testing.assert_close(after[:, :2], before[:, :2], atol=1e-6, rtol=0)
    assert (after[:, 2] - before[:, 2]).abs().max() > 0.01


def flops(n, *, b=1):
    with torch.device("meta"):
        encoder = DigestEncoder(width=4096).requires_grad_(False)
        context = torch.empty(b, n, 4096)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(context)
    return counter.get_total_flops()


def test_cost_is_linear_in_the_passage():
    first, second, third = flops(256), flops(512), flops(1024)
    assert third - second == 2 * (second - first) > 0
    assert flops(512, b=2) < 2 * second  # what is the same for all rows is computed once


def test_the_published_size_and_cost():
    """607 M parameters, and 0.263 TFLOPs for 512 tokens: the paper's, 1/32 of ICAE's 8.50."""
    with torch.device("meta"):
        n_parameters = sum(p.numel() for p in DigestEncoder(width=4096).parameters())
    assert n_parameters == pytest.approx(607e6, rel=0.01)
    assert flops(512) == pytest.approx(0.263e12, rel=0.02)


def test_gradients_reach_every_parameter(texts):
    summarizer = made()
    ids = summarizer.tokenizer(texts[1])["input_ids"]
    sum(vectors.square().sum() for vectors in summarizer.encode([[ids[:12]], [ids[:5]]])).backward()
    assert all(p.grad is not None and p.grad.any() for p in summarizer.module.encoder.parameters())


def test_bad_sizes():
    for sizes, message in [
        ({"n_digests": 0}, "sizes must be >= 1, .*n_digests=0"),
        ({"n_heads": 3}, "width must be a multiple of 2 \\* n_heads"),
        ({"n_kv_heads": 3}, "n_heads of n_kv_heads"),
    ]:
        with pytest.raises(ValueError, match=message):
            DigestEncoder(**SIZES | sizes)
    model, tokenizer = tiny_decoder(n_layers=1)
    with pytest.raises(ValueError, match="chunk_tokens must be an int >= 1, got 0"):
        made(chunk_tokens=0)
    with pytest.raises(ValueError, match="digests 64 wide cannot be read by a reader whose input is 32 wide"):
        IcFormer(model, tokenizer, DigestWriter(DigestEncoder(**SIZES | {"width": 64}), {}))
    untrained = IcFormer.untrained(model, tokenizer, n_digests=2, n_heads=4, n_inner=8)
    assert not untrained.module.encoder.digests.any()  # as the paper starts


NAMES = {
    "cross_attn.q_proj": (32, 32),
    "cross_attn.k_proj": (32, 32),
    "cross_attn.v_proj": (32, 32),
    "cross_attn.o_proj": (32, 32),
    "cross_input_layernorm": (32,),
    "context_layernorm": (32,),
    "post_attention_layernorm": (32,),
    "mlp.gate_proj": (48, 32),
    "mlp.up_proj": (48, 32),
    "mlp.down_proj": (32, 48),
}


def write_published(folder, *, style="safetensors", drop=(), add=None, tokens=("AE", "FT"), **config):
    """What the authors' trainer leaves: ``save_pretrained`` of the blocks, and ``param.pt``."""
    folder.mkdir()
    torch.manual_seed(3)
    tensors = {f"encoder.layers.{i}.{name}.weight": torch.randn(size) for i in range(2) for name, size in NAMES.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in drop}
    tensors |= {"encoder.norm.weight": torch.randn(32)} | (add or {})
    if style == "safetensors":
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(tensors, folder / "pytorch_model.bin")
    settings = {
        "model_type": "icformer",
        "architectures": ["ICFormerModel"],
        "hidden_size": 32,
        "causal_attention": True,
    }
    settings |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 48}
    settings |= {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None, "num_query_tokens": 3}
    (folder / "config.json").write_text(json.dumps(settings | {"cross_attention_frequency": 1} | config))
    vectors = {"digest_embeddings": torch.nn.Parameter(torch.randn(1, 3, 32))}
    vectors |= {name: torch.nn.Parameter(torch.randn(1, 1, 32)) for name in tokens}
    torch.save(vectors, folder / "param.pt")
    return tensors, vectors


def save_base(folder):
    model, tokenizer = tiny_decoder("llama", n_layers=1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


@pytest.mark.parametrize(("style", "tokens"), [("safetensors", ("AE", "FT")), ("bin", ("AE",))])
def test_the_published_layout_loads(tmp_path, style, tokens, textbook, texts, close):
    save_base(tmp_path / "base")
    tensors, vectors = write_published(tmp_path / "icformer", style=style, tokens=tokens)
    loaded = load_summarizer(
        "icformer",
        model=str(tmp_path / "base"),
        weights=tmp_path / "icformer",
        device="cpu",
        dtype="float32",
        ending="ae",
    )
    assert (loaded.chunk_tokens, loaded.n_digests) == (512, 3)
    assert loaded.has_bos == ("FT" not in tokens)
    ours = loaded.module.encoder.state_dict()
    assert len(ours) == len(tensors) + 1
    assert torch.equal(ours["digests"], vectors["digest_embeddings"][0])
    assert torch.equal(ours["layers.1.out.weight"], tensors["encoder.layers.1.cross_attn.o_proj.weight"])
    assert torch.equal(ours["layers.0.inner_norm.weight"], tensors["encoder.layers.0.post_attention_layernorm.weight"])
    assert loaded.module.encoder.sizes["eps"] == 1e-5
    assert loaded.module.endings.keys() == {name.lower() for name in tokens}
    wanted = [torch.cat([twin(textbook, loaded, text), vectors["AE"][0].detach()]) for text in texts[:2]]
    close(loaded.summarize(texts[:2]), wanted)


MISSING = "encoder.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ({"drop": [MISSING]}, WeightsMismatchError, "lacks the tensor 'encoder.layers.1.mlp.up_proj.weight'"),
        (
            {"add": {"encoder.layers.1.self_attn.q_proj.weight": torch.zeros(2)}},
            WeightsMismatchError,
            "self_attn.q_proj",
        ),
        ({"add": {MISSING: torch.zeros(47, 32)}}, WeightsMismatchError, r"has shape \(47, 32\), \(48, 32\) is needed"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, UnsupportedModelError, "rope_scaling=.*linear"),
        ({"hidden_act": "gelu"}, UnsupportedModelError, "hidden_act='gelu'"),
        ({"tokens": ("AE", "XX")}, WeightsMismatchError, "does not belong there: 'XX'"),
    ],
)
def test_another_layout_is_named(tmp_path, damage, error, message):
    save_base(tmp_path / "base")
    write_published(tmp_path / "icformer", **damage)
    with pytest.raises(error, match=message):
        load_summarizer("icformer", model=str(tmp_path / "base"), weights=tmp_path / "icformer", device="cpu")


def test_a_saved_file_comes_back(tmp_path, texts):
    save_base(tmp_path / "base")
    summarizer = made(n_kv_heads=2, has_bos=True)
    summarizer.save(tmp_path / "w.safetensors")
    names = {"model": str(tmp_path / "base"), "weights": tmp_path / "w.safetensors", "device": "cpu"}
    back = load_summarizer("icformer", **names, dtype="float32")
    assert back.fingerprint == summarizer.fingerprint
    for one, other in zip(back.summarize(texts), summarizer.summarize(texts), strict=True):
        assert (one.vectors == other.vectors).all()
