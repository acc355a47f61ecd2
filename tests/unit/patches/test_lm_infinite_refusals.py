"""What LM-Infinite refuses, by name and before anything is changed."""

import copy
import pickle

import pytest
import torch
import transformers
from transformers import DynamicCache, StaticCache

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.attention import eager_attention, trigger_rows
from ctxcompress_integrations.patches.lm_infinite import LMInfinite
from ctxcompress_integrations.testing.tiny import tiny_decoder

PATCH = LMInfinite(4, 16)
IDS = torch.arange(6, 46)[None]
SIZES = {"vocab_size": 500, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def assert_refused(model, message, patch=PATCH):
    inner = model if isinstance(model, transformers.PreTrainedModel) else None
    before = inner.config._attn_implementation if inner else None
    with pytest.raises(UnsupportedModelError, match=message), patch(model):
        pytest.fail("entered")
    if inner:
        assert inner.config._attn_implementation == before
        assert not any(part._forward_pre_hooks or "forward" in part.__dict__ for part in inner.modules())


def changed(family, **fields):
    config = tiny_decoder(family)[0].config
    for name, value in fields.items():
        setattr(config, name, value)
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiny_decoder("gpt2")[0], "GPT2LMHeadModel: its positions are absolute"),
        (lambda: tiny_decoder("gemma2")[0], "Gemma2ForCausalLM: it has layers with a sliding window of 24 keys"),
        (lambda: tiny_decoder("phi")[0], "nobody has checked the family 'phi'. Families that it knows: llama, mistral"),
        (
            lambda: changed("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            "dynamic",
        ),
        (
            lambda: transformers.MptForCausalLM(
                transformers.MptConfig(d_model=32, n_heads=4, n_layers=1, vocab_size=50, attn_config={"alibi": False})
            ),
            "MptForCausalLM: it has learned absolute positions",
        ),
        (
            lambda: transformers.MambaForCausalLM(
                transformers.MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1)
            ),
            "layers without softmax attention",
        ),
        (
            lambda: transformers.Qwen3NextForCausalLM(
                transformers.Qwen3NextConfig(**SIZES, num_key_value_heads=2, num_experts=2, num_experts_per_tok=1)
            ),
            r"layers without softmax attention \(linear_attention\)",
        ),
        (lambda: torch.nn.Linear(2, 2), "Linear is no transformers model"),
    ],
    ids=["learned", "sliding", "unchecked", "dynamic", "mpt", "mamba", "linear", "foreign"],
)
def test_models_that_cannot_be_patched_are_named(make, message):
    assert_refused(make(), message)


def test_sliding_window_counts_against_the_window_asked_for():
    model = tiny_decoder("mistral")[0]  # 24 keys
    assert_refused(model, "sliding window of 24 keys is shorter than n_local=25", LMInfinite(4, 25))
    with LMInfinite(4, 24)(model):
        model(IDS)


def test_compiled_models():
    model = tiny_decoder("llama")[0]
    assert_refused(torch.compile(model, backend="eager"), "the model is compiled")
    with PATCH(model):
        pass  # what was compiled is a wrapper: the model itself is free
    model.model.layers[0].compile(backend="eager")
    assert_refused(model, "the model is compiled")


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # BLOOM's own, compiled
@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_compiled_inside_follows_the_patch_in_and_out(family):
    model = tiny_decoder(family, n_layers=2)[0]
    with torch.no_grad():
        plain = model(IDS).logits
        with PATCH(model):
            inside, compiled = model(IDS).logits, torch.compile(model, backend="eager")
            for arguments in ({}, {"use_cache": False}, {"attention_mask": torch.ones_like(IDS)}):
                torch.testing.assert_close(compiled(IDS, **arguments).logits, inside)
        torch.testing.assert_close(compiled(IDS).logits, plain)
        with LMInfinite(2, 8)(model):
            torch.testing.assert_close(compiled(IDS).logits, model(IDS).logits)
    assert not torch.allclose(inside, plain)


def test_entering_twice_and_two_patches():
    peft = pytest.importorskip("peft")
    model = tiny_decoder("llama")[0]
    with torch.no_grad():
        plain = model(IDS).logits
        with PATCH(model):
            inside = model(IDS).logits
            for other in (PATCH, LMInfinite(2, 8)):
                with pytest.raises(UnsupportedModelError, match="is inside LM-Infinite already"), other(model):
                    pass
                with pytest.raises(UnsupportedModelError, match="already"), other(model.model):
                    pass
            assert torch.equal(model(IDS).logits, inside)  # the refusal took nothing away
            block = LMInfinite(2, 8)(tiny_decoder("qwen2")[0])
            with block:
                pass
            with pytest.raises((RuntimeError, AttributeError)), block:  # entered once, as any @contextmanager
                pass
        assert torch.equal(model(IDS).logits, plain)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    with PATCH(adapted), pytest.raises(UnsupportedModelError, match="already"), PATCH(model):
        pass


def test_copies_made_before_are_free_and_copies_inside_are_refused():
    model = tiny_decoder("llama")[0]
    twin = copy.deepcopy(model)
    with torch.no_grad():
        plain = model(IDS).logits
        with PATCH(model):
            assert torch.equal(twin(IDS).logits, plain)
            with pytest.raises(UnsupportedModelError, match="is not copied or pickled"):
                copy.deepcopy(model)
            with pytest.raises(UnsupportedModelError, match="is not copied or pickled"):
                pickle.dumps(model)
        assert torch.equal(copy.deepcopy(model)(IDS).logits, plain)
    assert set(model.state_dict()) == set(twin.state_dict())


def test_models_that_share_a_config_are_told():
    config = tiny_decoder("llama")[0].config
    one, other = transformers.LlamaForCausalLM(config).eval(), transformers.LlamaForCausalLM(config).eval()
    with PATCH(one), pytest.raises(UnsupportedModelError, match="shares its config with a model inside"):
        other(IDS)
    other(IDS)


def test_another_attention_implementation_inside():
    bloom, model = tiny_decoder("bloom")[0], tiny_decoder("llama")[0]
    with PATCH(bloom), eager_attention(bloom), pytest.raises(UnsupportedModelError, match="became 'eager' inside"):
        bloom(IDS)
    with torch.no_grad(), PATCH(model):
        inside = model(IDS).logits
        with eager_attention(model), pytest.raises(UnsupportedModelError, match="became 'eager' inside LM-Infinite"):
            model(IDS)
        assert torch.equal(model(IDS).logits, inside)
        model.set_attn_implementation("eager")
        with pytest.raises(UnsupportedModelError, match="change it before the block"):
            model(IDS)
    assert model.config._attn_implementation == "sdpa"


def test_caches_that_do_not_fit():
    model = tiny_decoder("llama")[0]
    with torch.no_grad():
        outside = model(IDS, use_cache=True).past_key_values
        with PATCH(model):
            with pytest.raises(ValueError, match="filled outside the patch"):
                model(IDS, past_key_values=outside)
            with pytest.raises(ValueError, match="got StaticCache"):
                model(IDS, past_key_values=StaticCache(config=model.config, max_cache_len=50))
            inside = model(IDS, past_key_values=DynamicCache()).past_key_values
            with pytest.raises(ValueError, match=r"crop\(-1\)"):
                inside.crop(-1)
            inside.crop(0)
        with LMInfinite(4, 20)(model), pytest.raises(ValueError, match="under another LMInfinite"):
            model(IDS, past_key_values=inside)
        with pytest.raises(ValueError, match="only reads on inside it"):
            model(IDS, past_key_values=inside)
        with PATCH(model):
            model(IDS, past_key_values=inside)  # the same shape reads on


@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "bloom"])
@pytest.mark.filterwarnings("ignore:.*cache_implementation.*")
def test_static_caches_of_generate(family, n):
    model = tiny_decoder(family)[0]
    with PATCH(model), pytest.raises(ValueError, match="plain DynamicCache.*static|StaticCache"):
        model.generate(IDS[:, :n], max_new_tokens=3, do_sample=False, cache_implementation="static")


def test_masks_that_it_cannot_read():
    model = tiny_decoder("llama")[0]
    holes = torch.ones_like(IDS)
    holes[0, 5] = 0
    with PATCH(model):
        with pytest.raises(ValueError, match="padding between real tokens"):
            model(IDS, attention_mask=holes)
        with pytest.raises(ValueError, match=r"two dimensions, \[b, n\]; got Tensor \(1, 1, 40, 40\)"):
            model(IDS, attention_mask=torch.zeros(1, 1, 40, 40))
        with pytest.raises(ValueError, match="packed sequences"):
            model(IDS, position_ids=torch.arange(20).repeat(2)[None], use_cache=False)
        with pytest.raises(ValueError, match="the attention mask has 39 columns"):
            model(IDS, attention_mask=holes[:, :39], use_cache=True)


def test_dropout_in_attention_is_not_left_out_silently():
    model = changed("llama", attention_dropout=0.1).train()
    with PATCH(model), pytest.raises(ValueError, match=r"no attention dropout, got 0\.1"):
        model(IDS)


def test_rows_of_alibi_models_are_not_shown():
    model = tiny_decoder("bloom")[0]
    with PATCH(model), pytest.raises(UnsupportedModelError, match="shows no attention weights"):
        trigger_rows(model, IDS.tolist(), [-1])
