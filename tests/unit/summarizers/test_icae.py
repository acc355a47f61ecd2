"""ICAE against its definition, its adapter worn and taken off, and its published layouts."""

import peft
import pytest
import torch
from safetensors.torch import save_file

from ctxcompress_integrations import load_summarizer
from ctxcompress_integrations.errors import ModelLoadError, UnsupportedModelError, WeightsMismatchError
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.nn.low_rank import LowRank
from ctxcompress_integrations.summarizers.icae import Icae, MemoryWriter
from ctxcompress_integrations.testing.tiny import tiny_decoder

ARCHITECTURES = ["llama", "llama_gqa", "qwen2"]


def made(architecture="llama", *, model=None, seed=0, **choices):
    base, tokenizer = tiny_decoder(architecture, n_layers=2)
    summarizer = Icae.untrained(base if model is None else model, tokenizer, n_memory=3, rank=2, alpha=5.0)
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in summarizer.module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return Icae(summarizer.model, tokenizer, summarizer.module, **choices)


def twin(textbook, summarizer, text):
    """Equal segments of at most m * ratio tokens, each [segment; memory] under the adapter, apart from the others."""
    ids, memory = textbook.ids(summarizer, text), summarizer.module.memory.detach().double()
    adapter = summarizer.module.adapter
    updates = {
        name: (*(side[name.replace(".", "/")].detach() for side in (adapter.down, adapter.up)), 2.5)
        for name in adapter.shapes
    }
    n_segments = -(-len(ids) // (len(memory) * summarizer.tokens_per_slot))
    length = -(-len(ids) // n_segments)
    slots = []
    for start in range(0, len(ids), length):
        words = textbook.word_vectors(summarizer.model, ids[start : start + length])
        states = textbook.decoder_states(summarizer.model, torch.cat([words, memory]), updates=updates)
        slots.append(states[-len(memory) :])
    return torch.cat(slots)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_its_twin(architecture, textbook, texts, close):
    summarizer = made(architecture)
    assert {name.rpartition(".")[2] for name in summarizer.module.adapter.shapes} == {"q_proj", "v_proj"}
    wanted = [twin(textbook, summarizer, text) for text in texts]
    close(summarizer.summarize(texts), wanted)
    summarizer.model.to(torch.bfloat16)
    summarizer.module.to(torch.bfloat16)
    close(summarizer.summarize(texts), wanted, dtype=torch.bfloat16)


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_company_changes_nothing(batch_tokens, texts):
    summarizer = made("qwen2", batch_tokens=batch_tokens)
    for one, text in zip(summarizer.summarize(texts), texts, strict=True):
        alone = torch.as_tensor(summarizer.summarize([text])[0].vectors)
        torch.testing.assert_close(torch.as_tensor(one.vectors), alone, atol=1e-5, rtol=0)


def test_the_reader_is_left_as_it_was(texts):
    """Adapters of the reader's own are off while ICAE writes, and everything is as before when it has written."""
    bare = made().summarize(texts)
    model, _ = tiny_decoder("llama", n_layers=2)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False, lora_dropout=0.5)
    model = peft.get_peft_model(model, config)
    model.train()
    model.base_model.model.model.layers[0].eval()
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    training = {name: m.training for name, m in model.named_modules()}
    before = {name: p.clone() for name, p in model.state_dict().items()}
    summarizer = made(model=model)
    assert not any("lora" in name for name in summarizer.module.adapter.shapes)
    for one, other in zip(summarizer.summarize(texts), bare, strict=True):
        torch.testing.assert_close(torch.as_tensor(one.vectors), torch.as_tensor(other.vectors), atol=1e-5, rtol=0)
        assert (one.fingerprint, one.reader) == (other.fingerprint, other.reader)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trainable
    assert {name: m.training for name, m in model.named_modules()} == training
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    assert not any(getattr(m, "_disable_adapters", False) for m in model.modules())
    model.merge_adapter()
    with pytest.raises(UnsupportedModelError, match="merged into the model"):
        summarizer.summarize(texts)


def test_an_error_takes_the_adapter_off_too(texts, monkeypatch):
    summarizer = made()
    monkeypatch.setattr(summarizer.model.model.norm, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        summarizer.summarize(texts)
    assert not any(m._forward_hooks for m in summarizer.model.modules())


def test_gradients_reach_what_is_trained_and_nothing_else(texts):
    summarizer = made()
    summarizer.model.requires_grad_(False)
    ids = summarizer.tokenizer(texts[1])["input_ids"]
    sum(vectors.square().sum() for vectors in summarizer.encode([[ids[:12]], [ids[:5]]])).backward()
    reached = {name for name, p in summarizer.module.named_parameters() if p.grad is not None and p.grad.any()}
    assert "memory" in reached
    assert sum(name.startswith("adapter.") for name in reached) == 8  # 2 layers, 2 kinds, 2 matrices
    assert not any(p.grad is not None for p in summarizer.model.parameters())


def test_an_ending_closes_the_passage_not_its_segments(texts):
    plain, closed = made(), made(ending="ft")
    for one, other in zip(plain.summarize(texts), closed.summarize(texts), strict=True):
        assert (other.vectors[:-1] == one.vectors).all()
        assert torch.equal(torch.as_tensor(other.vectors[-1]), closed.module.endings["ft"].detach())
        assert len(other.vectors) == closed.count_vectors(one.n_tokens) == plain.count_vectors(one.n_tokens) + 1
    assert plain.fingerprint != closed.fingerprint


def test_bad_sizes():
    model, tokenizer = tiny_decoder(n_layers=1, n_positions=64)
    for sizes, message in [
        ({"n_memory": 0}, "n_memory must be an int >= 1, got 0"),
        ({"n_memory": 16}, "must fit the 64 positions"),
        ({"n_memory": 2, "tokens_per_slot": 0}, "tokens_per_slot must be an int >= 1"),
        ({"n_memory": 2, "rank": 0}, "rank >= 1"),
        ({"n_memory": 2, "layers": ["c_attn"]}, "at least one layer"),
    ]:
        with pytest.raises(ValueError, match=message):
            Icae.untrained(model, tokenizer, **{"rank": 2} | sizes)


PROJECTIONS = ("q_proj", "v_proj")


def published_tensors(model, *, rank=4, n_memory=3):
    """Keys and shapes of the released files: LoRA on q and v of every layer, m memory tokens, <AE>, <LM>, <FT>."""
    torch.manual_seed(7)
    tensors = {"memory_token_embed.weight": torch.randn(n_memory + 3, 32) * 0.3}
    for i in range(2):
        for kind in PROJECTIONS:
            key = f"icae.base_model.model.model.layers.{i}.self_attn.{kind}"
            n_out, n_in = model.get_submodule(f"model.layers.{i}.self_attn.{kind}").weight.shape
            tensors[f"{key}.lora_A.default.weight"] = torch.randn(rank, n_in) * 0.3
            tensors[f"{key}.lora_B.default.weight"] = torch.randn(n_out, rank) * 0.3
    return tensors


def save_base(folder, architecture="llama_gqa"):
    model, tokenizer = tiny_decoder(architecture, n_layers=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def by_hand(model, tokenizer, tensors, **choices):
    """The summarizer that these tensors describe, alpha 32, built without the loading code."""
    table = tensors["memory_token_embed.weight"]
    matrices = {
        f"model.layers.{i}.self_attn.{kind}": tuple(
            tensors[f"icae.base_model.model.model.layers.{i}.self_attn.{kind}.lora_{side}.default.weight"]
            for side in "AB"
        )
        for i in range(2)
        for kind in PROJECTIONS
    }
    endings = dict(zip(("ae", "lm", "ft"), table[-3:], strict=True))
    return Icae(
        model, tokenizer, MemoryWriter(table[:-3], endings, LowRank.from_matrices(matrices, alpha=32)), **choices
    )


def test_published_v2_loads(tmp_path, texts):
    model, tokenizer = save_base(tmp_path / "base")
    tensors = published_tensors(model)
    save_file(tensors, tmp_path / "icae.safetensors")
    names = {"model": str(tmp_path / "base"), "weights": str(tmp_path / "icae.safetensors")}
    loaded = load_summarizer("icae", **names, device="cpu", dtype="float32", ending="ft")
    assert (loaded.n_memory, loaded.ratio, loaded.has_bos) == (3, 4, True)
    assert (loaded.module.adapter.rank, loaded.module.adapter.alpha) == (4, 32.0)
    direct = by_hand(model, tokenizer, tensors, ending="ft")
    assert loaded.fingerprint == direct.fingerprint
    for one, other in zip(loaded.summarize(texts), direct.summarize(texts), strict=True):
        assert (one.vectors == other.vectors).all()
    bf16 = load_summarizer("icae", **names, device="cpu", dtype="bfloat16", ending="ft")
    assert bf16.module.memory.dtype == torch.bfloat16
    assert bf16.fingerprint == loaded.fingerprint


@pytest.mark.parametrize("zero", [0.0, torch.zeros(())])
def test_published_v1_loads(tmp_path, zero, texts):
    """V1 names every frozen weight and holds a zero in its place."""
    model, tokenizer = save_base(tmp_path / "base", "llama")
    tensors = published_tensors(model)
    frozen = {f"icae.base_model.model.{name}": zero for name in model.state_dict()}
    frozen |= {f"icae.base_model.model.model.layers.{i}.self_attn.rotary_emb.inv_freq": zero for i in range(2)}
    torch.save(tensors | frozen, tmp_path / "icae.pt")
    loaded = load_summarizer("icae", model=str(tmp_path / "base"), weights=tmp_path / "icae.pt", device="cpu")
    assert loaded.fingerprint == by_hand(model, tokenizer, tensors).fingerprint


LAST_UP = "icae.base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight"


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        ("memory_token_embed.weight", {}, "no 'memory_token_embed.weight' of more than 3 rows"),
        (LAST_UP, {}, f"lacks the tensor '{LAST_UP}'"),
        (None, {"memory_head.dense_in.weight": torch.zeros(2, 2)}, "does not belong there: 'memory_head.dense_in"),
        (None, {"icae.base_model.model.lm_head.weight": torch.ones(2, 2)}, "does not belong there: .*lm_head"),
        (None, {LAST_UP.replace("layers.1", "layers.2"): torch.zeros(16, 4)}, "does not belong there: .*layers.2"),
        (LAST_UP, {LAST_UP: torch.zeros(15, 4)}, "has shape .*15, 4"),
    ],
)
def test_another_layout_is_named(tmp_path, drop, add, message):
    model, _ = save_base(tmp_path / "base")
    tensors = {name: tensor for name, tensor in published_tensors(model).items() if name != drop} | add
    save_file(tensors, tmp_path / "icae.safetensors")
    with pytest.raises(WeightsMismatchError, match=message):
        load_summarizer(
            "icae", model=str(tmp_path / "base"), weights=tmp_path / "icae.safetensors", device="cpu", dtype="float32"
        )


def test_a_pickle_is_not_run(tmp_path):
    save_base(tmp_path / "base")
    torch.save({"memory_token_embed.weight": LowRank}, tmp_path / "icae.pt")
    with pytest.raises(WeightsMismatchError, match="no readable tensors"):
        load_summarizer("icae", model=str(tmp_path / "base"), weights=tmp_path / "icae.pt", device="cpu")


def test_a_saved_file_comes_back(tmp_path, texts):
    save_base(tmp_path / "base", "llama")
    summarizer = made(tokens_per_slot=5, has_bos=False, ending="lm")
    summarizer.save(tmp_path / "w.safetensors")
    names = {"model": str(tmp_path / "base"), "weights": tmp_path / "w.safetensors", "device": "cpu"}
    back = load_summarizer("icae", **names, dtype="float32")
    assert back.fingerprint == summarizer.fingerprint
    assert back.module.adapter.alpha == 5.0
    for one, other in zip(back.summarize(texts), summarizer.summarize(texts), strict=True):
        assert (one.vectors == other.vectors).all()
    assert load_summarizer("icae", **names, ending="ae").ending == "ae"
    with pytest.raises(ValueError, match="ending must be None or one that was trained .*got 'xx'"):
        load_summarizer("icae", **names, ending="xx")
    with pytest.raises(WeightsMismatchError, match="summarizer 'icae', not 'pooled'"):
        load_summarizer("pooled", **names)


def test_names_that_are_nowhere(tmp_path):
    with pytest.raises(ValueError, match="'icae' needs weights"):
        load_summarizer("icae", model="no/such-model")
    with pytest.raises(ModelLoadError, match="no/such-model"):
        load_summarizer("icae", model="no/such-model", weights="x.safetensors")
    with pytest.raises(ValueError, match="takes no prefix, got prefix='empty'"):
        load_summarizer("icae", prefix="empty")


def test_the_reader_is_told_by_its_weights():
    summarizer = made()
    assert summarizer.summarize(["The tower."])[0].reader == weights_digest(summarizer.model)
