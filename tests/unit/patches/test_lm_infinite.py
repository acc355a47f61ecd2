"""LM-Infinite on whole models: the literal twin, chunks, caches, padding, and what it composes with."""

import copy
import threading
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers import DynamicCache

from ctxcompress_integrations.hf.attention import trigger_rows
from ctxcompress_integrations.hf.lambda_attention import lambda_window
from ctxcompress_integrations.hf.lambda_pass import Padding, Pass, Patch, _takes_flex
from ctxcompress_integrations.hf.streaming import read, token_losses
from ctxcompress_integrations.nn.lambda_mask import LambdaShape, Starts
from ctxcompress_integrations.nn.lambda_parts import Frame
from ctxcompress_integrations.patches.lm_infinite import LMInfinite, MiddleTopK
from ctxcompress_integrations.readers.hf import HFReader
from ctxcompress_integrations.testing.tiny import tiny_decoder
from largest import Largest

N, N_GLOBAL, N_LOCAL = 60, 4, 16
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
}
FAMILIES = ["llama", "llama_gqa", "qwen2", "qwen3", "mistral", "bloom", "mpt", *SCALINGS]
CUTS = [0, 1, 6, 29, 30, 31, 58, N]


def decoder(family, **changes):
    torch.manual_seed(0)
    if family == "mpt":
        sizes = {"d_model": 32, "n_heads": 4, "n_layers": 3, "vocab_size": 500, "max_seq_len": 64}
        config = transformers.MptConfig(**sizes, initializer_range=0.3, **changes)
        return transformers.MptForCausalLM(config).eval()
    if family in SCALINGS or changes:
        config = tiny_decoder("llama_gqa")[0].config
        config.rope_parameters = {"rope_theta": 10000.0, **SCALINGS.get(family, {"rope_type": "default"})}
        for name, value in changes.items():
            setattr(config, name, value)
        return transformers.LlamaForCausalLM(config).eval()
    return tiny_decoder(family)[0]


def tokens(b=1, n=N, seed=1):
    return torch.randint(6, 400, (b, n), generator=torch.Generator().manual_seed(seed))


def logits(model, ids, **arguments):
    with torch.no_grad():
        return model(input_ids=ids, **arguments).logits


def in_chunks(model, ids, cuts, mask=None):
    cache = DynamicCache()
    parts = [
        logits(model, ids[:, a:b], past_key_values=cache, attention_mask=None if mask is None else mask[:, :b])
        for a, b in pairwise(cuts)
    ]
    return torch.cat(parts, dim=1), cache


def assert_same(got, want):
    """No logit off by more than 1e-5 of the largest."""
    assert float((got - want).abs().max() / want.abs().max()) <= 1e-5


def spread(got, want):
    """Root mean square of the difference, of that of ``want``."""
    return float((got.float() - want).square().mean().sqrt() / want.square().mean().sqrt())


@pytest.mark.parametrize("middle", [None, MiddleTopK(k=3, from_layer=1, distance=7)], ids=["", "middle"])
@pytest.mark.parametrize("family", FAMILIES)
def test_prefill_chunks_and_decoding_equal_the_literal_twin(family, middle, twin_of):
    model, ids = decoder(family), tokens(2)
    shape = LambdaShape(N_GLOBAL, N_LOCAL, middle)
    with LMInfinite(N_GLOBAL, N_LOCAL, middle=middle)(model):
        whole = logits(model, ids, use_cache=False)
        chunks, _ = in_chunks(model, ids, CUTS)
        steps, _ = in_chunks(model, ids, [0, *range(20, N + 1)])
    with twin_of(model, shape, rows=[N - 1]):
        assert_same(whole, logits(model, ids, use_cache=False))
    with twin_of(model, shape, rows=[end - 1 for end in CUTS[1:]]):
        assert_same(chunks, logits(model, ids, use_cache=False))
    with twin_of(model, shape, rows=range(19, N)):
        assert_same(steps, logits(model, ids, use_cache=False))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama_gqa", "qwen2", "bloom"])
def test_half_precision_is_as_close_to_fp32_as_the_plain_model_is(family, dtype, twin_of):
    model, ids = decoder(family), tokens(2)
    with twin_of(model, LambdaShape(N_GLOBAL, N_LOCAL)):
        want = logits(model, ids, use_cache=False)
    plain = logits(model, ids)
    model.to(dtype)
    usual = spread(logits(model, ids), plain)
    with LMInfinite(N_GLOBAL, N_LOCAL)(model):
        assert spread(logits(model, ids), want) <= 1.25 * usual
        assert spread(in_chunks(model, ids, CUTS)[0], want) <= 1.25 * usual


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_within_the_window_nothing_changes(family, dtype):
    """Rotary models in one forward without padding call the same SDPA: equal to the bit, bf16 too."""
    family = "llama_gqa" if family == "mistral" else family  # the tiny one's own window is shorter than the text
    model, ids = decoder(family), tokens(2)
    exact = logits(model, ids)
    model.to(dtype)
    want = logits(model, ids)
    with LMInfinite(N_GLOBAL, 64)(model):
        got, chunks = logits(model, ids), in_chunks(model, ids, CUTS)[0]
    if family not in ("bloom", "mpt"):
        assert torch.equal(got, want)
    if dtype == torch.float32:
        assert_same(got, want)
        assert_same(chunks, want)
    else:
        assert max(spread(got, exact), spread(chunks, exact)) <= 1.25 * spread(want, exact)


def test_gpu_compiles_the_band_for_what_is_long_and_not_plain():
    """Within the window it is SDPA there, too."""
    there = SimpleNamespace(is_cuda=True, shape=(2, 4, 300, 16))
    takes = {
        (n_local, start): _takes_flex(there, Frame(LambdaShape(N_GLOBAL, n_local), start, Starts(), 1.0))
        for n_local in (299, 300)
        for start in (0, 1)
    }
    assert takes == {(299, 0): True, (299, 1): True, (300, 0): False, (300, 1): True}
    alibi = Frame(LambdaShape(N_GLOBAL, 299), 0, Starts(), 1.0, torch.ones(4))
    assert not _takes_flex(there, alibi)
    assert not _takes_flex(torch.zeros(2, 4, 300, 16), Frame(LambdaShape(N_GLOBAL, 299), 0, Starts(), 1.0))


@pytest.mark.parametrize("field", [{"alibi_bias_max": 16}, {"clip_qkv": 0.5}, {"softmax_scale": 0.1}], ids=str)
def test_mpt_settings_mean_inside_what_they_mean_outside(field):
    model, ids = decoder("mpt", attn_config=field), tokens(2)
    with LMInfinite(N_GLOBAL, 64)(model):
        inside = logits(model, ids)
    assert_same(inside, logits(model, ids))


@pytest.mark.parametrize("middle", [None, MiddleTopK(k=3, from_layer=1)], ids=["", "middle"])
@pytest.mark.parametrize("family", ["llama_gqa", "qwen3", "yarn", "bloom", "mpt"])
def test_left_padded_batches_equal_singles(family, middle):
    model, lengths = decoder(family), [N, 43, 9]
    singles = [tokens(n=n, seed=n) for n in lengths]
    ids = torch.cat([torch.nn.functional.pad(one, (N - one.shape[1], 0)) for one in singles])
    mask = torch.tensor([[0] * (N - n) + [1] * n for n in lengths])
    with LMInfinite(N_GLOBAL, N_LOCAL, middle=middle)(model):
        whole = logits(model, ids, attention_mask=mask)
        chunks, _ = in_chunks(model, ids, [0, 10, 30, *range(45, N + 1)], mask)
        for row, (one, n) in enumerate(zip(singles, lengths, strict=True)):
            assert_same(whole[row, N - n :], logits(model, one)[0])
            cuts = [0, *(c - N + n for c in [10, 30, *range(45, N + 1)] if c > N - n)]
            assert_same(chunks[row, N - n :], in_chunks(model, one, cuts)[0][0])
        assert whole.isfinite().all()


@pytest.mark.parametrize("family", ["llama", "qwen2", "bloom"])
@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3}, {"prefill_chunk_size": 7}], ids=str)
def test_generate_equals_choosing_by_hand(family, arguments):
    model, lengths = decoder(family), [40, 26]
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    singles = [tokens(n=n, seed=n) for n in lengths]
    ids = torch.cat([torch.nn.functional.pad(one, (40 - one.shape[1], 0)) for one in singles])
    mask = (ids != 0).long()
    settings = {"max_new_tokens": 20, "do_sample": False} | arguments
    with LMInfinite(N_GLOBAL, N_LOCAL)(model):
        got = model.generate(ids, attention_mask=mask, **settings)[:, 40:]
        for row, one in enumerate(singles):
            if "num_beams" in arguments:
                assert got[row].tolist() == model.generate(one, **settings)[0, one.shape[1] :].tolist()
                continue
            for _ in range(20):
                scores = logits(model, one, use_cache=False)[0, -1]
                one = torch.cat([one, scores.argmax().view(1, 1)], dim=1)
            assert got[row].tolist() == one[0, -20:].tolist()


def test_cache_stops_growing_and_counts_what_it_saw():
    model, ids = decoder("llama_gqa"), tokens(2, 150)
    with LMInfinite(N_GLOBAL, N_LOCAL)(model):
        sizes = {}
        for chunk in (1, 50, 150):
            cache, _ = read(model, ids, chunk=chunk)
            assert cache.get_seq_length() == 150
            sizes[chunk] = [layer.sink_keys.shape[2] + layer.keys.shape[2] for layer in cache.layers]
            assert [layer.sink_values.shape[2] + layer.values.shape[2] for layer in cache.layers] == sizes[chunk]
            assert all(layer.all_keys is None for layer in cache.layers)
        assert sizes == dict.fromkeys(sizes, [N_GLOBAL + N_LOCAL] * 3)
        held = cache.layers[0].keys.untyped_storage().nbytes()
        assert held == cache.layers[0].keys.numel() * 4  # no view that keeps the whole prefill alive
        short, _ = read(model, ids[:, :5])
        assert short.layers[0].keys.shape[2] <= N_LOCAL


def test_cache_rows_can_be_reordered_repeated_and_chosen():
    model, ids = decoder("llama_gqa"), tokens(2, 30)
    mask = torch.tensor([[1] * 30, [0] * 10 + [1] * 20])
    following = tokens(2, 1, seed=5)
    longer = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], dim=1)
    with LMInfinite(N_GLOBAL, N_LOCAL)(model):
        want = logits(model, torch.cat([ids, following], 1), attention_mask=longer)[:, -1:]
        for change, order in (
            (lambda cache: cache.reorder_cache(torch.tensor([1, 0])), [1, 0]),
            (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1]),
            (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
        ):
            cache, _ = read(model, ids, attention_mask=mask)
            change(cache)
            assert_same(logits(model, following[order], past_key_values=cache), want[order])
        cache.reset()
        assert cache.get_seq_length() == 0
        assert_same(logits(model, ids[:1], past_key_values=cache), logits(model, ids[:1]))


def test_cache_made_in_inference_mode_reads_on_outside_and_copies_are_independent():
    model, ids = decoder("llama_gqa"), tokens(1, 30)
    with LMInfinite(N_GLOBAL, N_LOCAL)(model):
        with torch.inference_mode():
            cache, _ = read(model, ids[:, :20])
        kept = copy.deepcopy(cache)
        for one in (cache, kept):
            assert_same(logits(model, ids[:, 20:], past_key_values=one), logits(model, ids)[:, 20:])


def test_no_tensor_grows_faster_than_the_text():
    model, largest = decoder("llama_gqa"), []
    with LMInfinite(N_GLOBAL, N_LOCAL)(model):
        for n in (1024, 4096):
            ids = tokens(2, n)
            mask = torch.ones_like(ids)
            mask[1, : n // 2] = 0
            with Largest() as seen:
                model.model(ids, attention_mask=mask)
            largest.append(seen.n)
        with Largest() as seen:
            read(model, tokens(1, 2048), chunk=256)
    assert largest[1] == 4 * largest[0]
    assert seen.n <= 500 * 256


@pytest.mark.parametrize("family", ["llama_gqa", "bloom", "mpt"])
@pytest.mark.parametrize("fails", [False, True])
def test_model_is_left_as_it_was(family, fails):
    model, ids = decoder(family), tokens(2)
    want = logits(model, ids[:, :40])
    before = {name: dict(part.__dict__) for name, part in model.named_modules()}
    hooks = {name: dict(part._forward_pre_hooks) for name, part in model.named_modules()}
    implementation = model.config._attn_implementation
    try:
        with LMInfinite(N_GLOBAL, N_LOCAL)(model) as given:
            assert given is model
            assert not torch.equal(logits(model, ids[:, :40]), want)
            if fails:
                model(input_ids=torch.tensor([[10**6]]))
    except IndexError:
        assert fails
    assert model.config._attn_implementation == implementation
    for name, part in model.named_modules():
        assert part.__dict__.keys() == before[name].keys()
        assert dict(part._forward_pre_hooks) == hooks[name]
        assert not part._forward_pre_hooks_with_kwargs
    assert torch.equal(logits(model, ids[:, :40]), want)


def test_one_patch_serves_several_models_and_again():
    one, two, ids = decoder("llama"), decoder("qwen2"), tokens()
    patch = LMInfinite(N_GLOBAL, N_LOCAL)
    with patch(one), patch(two):
        first = logits(one, ids)
    with patch(one):
        assert torch.equal(logits(one, ids), first)
    assert repr(patch) == "LMInfinite(n_global=4, n_local=16, middle=None)"


def test_composes_with_lora():
    peft = pytest.importorskip("peft")
    model, ids = decoder("llama_gqa"), tokens()
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, config).eval()
    with torch.no_grad(), LMInfinite(N_GLOBAL, N_LOCAL)(adapted):
        with_adapter = adapted(input_ids=ids).logits
        with adapted.disable_adapter():
            without = adapted(input_ids=ids).logits
        generated = adapted.generate(input_ids=ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert generated[0, N] == with_adapter[0, -1].argmax()
    base = decoder("llama_gqa")
    with LMInfinite(N_GLOBAL, N_LOCAL)(base):
        assert_same(without, logits(base, ids))
    merged = adapted.merge_and_unload()
    with LMInfinite(N_GLOBAL, N_LOCAL)(merged):
        assert_same(with_adapter, logits(merged, ids))
    assert not torch.allclose(with_adapter, without, atol=1e-3)


@pytest.mark.parametrize("max_batch", [1, 2, 8])
def test_reader_inside_reads_prompts_past_the_positions_of_its_model(max_batch):
    model, tokenizer = tiny_decoder("llama_gqa", n_positions=64)
    prompts = [["The river is near the tower. " * n, "Where?"] for n in (1, 40, 9)]
    with LMInfinite(N_GLOBAL, 64)(model):
        with pytest.raises(ValueError, match="the model reads 64"):
            HFReader(model, tokenizer).generate_many(prompts)
        reader = HFReader(model, tokenizer, max_tokens=10_000, max_batch=max_batch)
        found = reader.generate_many(prompts, max_new_tokens=20)
        assert found == [reader.generate(prompt, max_new_tokens=20) for prompt in prompts]
        assert "".join(reader.stream(prompts[1], max_new_tokens=20)) == found[1]
        for prompt, answer in zip(prompts, found, strict=True):
            ids = tokenizer.apply_chat_template(
                [{"role": "user", "content": "".join(prompt)}], add_generation_prompt=True, return_tensors="pt"
            )["input_ids"]
            new = model.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=2)
            assert tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True) == answer


def test_gradients_through_a_cache_fail_aloud():
    model, ids, cache = decoder("llama_gqa"), tokens(), DynamicCache()
    with LMInfinite(N_GLOBAL, N_LOCAL)(model):
        losses = [model(ids[:, a:b], past_key_values=cache).logits.sum() for a, b in pairwise(CUTS)]
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            sum(losses).backward()


def test_gradients_reach_lora_inside():
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(decoder("llama_gqa"), peft.LoraConfig(target_modules=["q_proj", "k_proj"], r=2))
    with LMInfinite(N_GLOBAL, N_LOCAL)(adapted):
        adapted(input_ids=tokens(), labels=tokens()).loss.backward()
    gradients = [p.grad for name, p in adapted.named_parameters() if "lora_B" in name]
    assert all(g is not None and g.isfinite().all() and g.any() for g in gradients)


@pytest.mark.parametrize("middle", [None, MiddleTopK(k=3, from_layer=0)], ids=["", "middle"])
@pytest.mark.parametrize("family", ["llama_gqa", "qwen3", "yarn"])
def test_trigger_rows_are_those_of_the_twin(family, middle, twin_of):
    """Rows times values are the twin's attention: what the last layer's output projection is given."""
    model, ids = decoder(family), tokens()
    given, values = [], []
    last = model.model.layers[-1].self_attn
    handles = [
        last.o_proj.register_forward_pre_hook(lambda _, args: given.append(args[0])),
        last.v_proj.register_forward_hook(lambda *args: values.append(args[2])),
    ]
    with twin_of(model, LambdaShape(N_GLOBAL, N_LOCAL, middle), rows=[N - 1]):
        logits(model, ids, use_cache=False)
    for handle in handles:
        handle.remove()
    with LMInfinite(N_GLOBAL, N_LOCAL, middle=middle)(model):
        row = trigger_rows(model, ids.tolist(), [-1])[-1][0]  # [h, n]
        padded = trigger_rows(model, [ids[0].tolist(), ids[0, :33].tolist()], [-1], pads=middle is None)[-1]
        alone = trigger_rows(model, [ids[0, :33].tolist()], [-1])[-1][0]
    heads = values[0].view(N, 2, -1).repeat_interleave(2, dim=1)
    torch.testing.assert_close(torch.einsum("hn,nhd->hd", row, heads).flatten(), given[0][0, -1], atol=1e-4, rtol=0)
    torch.testing.assert_close(padded[0], row, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded[1, :, :33], alone, atol=1e-5, rtol=0)
    assert ((row > 0).sum(1) == N_GLOBAL + N_LOCAL + (3 if middle else 0)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_row_takes_the_keys_that_attention_takes_where_they_tie(dtype):
    """Many columns hold one key with different values: who takes another of them mixes another value."""
    shape, made = LambdaShape(N_GLOBAL, N_LOCAL, MiddleTopK(k=3, from_layer=0)), torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, N, 8, generator=made).to(dtype) for heads in (4, 2, 2))
    k[:, :, N_GLOBAL:40] = k[:, :, :1]
    one = Pass(Patch(shape, 0, rows_see_all=False, phases=None, slopes=None), None, None)
    for end in (N, 57):
        whole = one.attend(q[:, :, :end], k[:, :, :end], v[:, :, :end], Padding(), scaling=1.0)[:, :, -1]
        row = one.row(q, k, Padding(), torch.full((2,), end - 1), scaling=1.0)
        assert ((row > 0).sum(-1) == N_GLOBAL + N_LOCAL + 3).all()
        mixed = torch.einsum("bhn,bhnd->bhd", row, v.float().repeat_interleave(2, dim=1))
        torch.testing.assert_close(mixed, whole.float(), atol=1e-5 if dtype == torch.float32 else 0.05, rtol=0)


def test_rows_that_see_all_are_the_plain_ones_within_the_window_and_whole_beyond():
    model, ids = decoder("llama_gqa"), tokens().tolist()
    plain = trigger_rows(model, ids, [-1])[-1]
    with lambda_window(model, LambdaShape(N_GLOBAL, 64), rows_see_all=True):
        torch.testing.assert_close(trigger_rows(model, ids, [-1])[-1], plain, atol=1e-5, rtol=0)
    with lambda_window(model, LambdaShape(N_GLOBAL, N_LOCAL), rows_see_all=True):
        row = trigger_rows(model, ids, [-1])[-1]
    assert (row > 0).all()
    torch.testing.assert_close(row.sum(-1), torch.ones(1, 4), atol=1e-5, rtol=0)


def test_other_threads_can_read_rows_inside():
    """The lock on a model is held while it is changed, not while it is in use."""
    model, found = decoder("llama"), []
    with LMInfinite(N_GLOBAL, N_LOCAL)(model):
        thread = threading.Thread(
            target=lambda: found.append(trigger_rows(model, tokens().tolist(), [-1])), daemon=True
        )
        thread.start()
        thread.join(20)
    assert len(found) == 1


@pytest.mark.parametrize("chunk", [1, 13, 100])
def test_token_losses_are_the_definition(chunk):
    model, ids = decoder("llama_gqa"), tokens(2)
    with LMInfinite(N_GLOBAL, N_LOCAL)(model):
        got = token_losses(model, ids, chunk=chunk)
        want = -logits(model, ids).log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    assert got.shape == (2, N - 1)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="chunk must be an int >= 1, got 0"):
        token_losses(model, ids, chunk=0)
    with pytest.raises(ValueError, match=r"got shape \(1, 0\)"):
        read(model, ids[:1, :0])
