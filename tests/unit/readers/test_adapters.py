"""LoRA adapters: each request is read with its own, and the caller's model never notices."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from ctxcompress_integrations.errors import ModelLoadError, SummaryMismatchError, UnsupportedModelError
from ctxcompress_integrations.hf.adapters import adapter_digest
from ctxcompress_integrations.readers.hf import HFReader
from ctxcompress_integrations.testing.tiny import tiny_decoder

# what PEFT asks of a model that it wraps; transformers warns of it
N = 10
NEWS = "hub/news-v1.5"


def save_adapter(model, folder, *, seed, targets=("q_proj", "v_proj"), **config):
    torch.manual_seed(seed)
    made = get_peft_model(
        copy.deepcopy(model),
        LoraConfig(r=4, lora_alpha=16, target_modules=list(targets), init_lora_weights=False, **config),
    )
    made.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module", params=["llama_gqa", "qwen2"])
def decoder(request):
    return tiny_decoder(request.param)


@pytest.fixture(scope="module")
def folders(decoder, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {
        "law": save_adapter(decoder[0], root / "law", seed=1),
        NEWS: save_adapter(decoder[0], root / NEWS, seed=2, targets=("o_proj", "down_proj"), task_type="CAUSAL_LM"),
    }


def merged(model, folder):
    """The adapter's weights added to a copy of the model: another road to the same answer."""
    return PeftModel.from_pretrained(copy.deepcopy(model), folder).merge_and_unload().eval()


def prompts_for(model, twin):
    return {
        name: ["Read ", twin.summary(model, m=m, seed=m, adapter=name), "Which tower is it?"]
        for m, name in enumerate(["law", NEWS, None], start=3)
    }


def state(model):
    return (
        {name: id(module) for name, module in model.named_modules()},
        {name: module.training for name, module in model.named_modules()},
        {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in model.named_modules()},
        id(model.generation_config),
        sorted(vars(model)),
    )


def test_mixed_batches_equal_merged_models_one_by_one(decoder, folders, twin):
    model, tokenizer = decoder
    reader = HFReader(model, tokenizer, adapters=folders)
    assert reader.adapters == {"law", NEWS}
    prompts = prompts_for(model, twin)
    expected = {
        name: twin.answer(model if name is None else merged(model, folders[name]), tokenizer, parts, N)
        for name, parts in prompts.items()
    }
    assert len(set(expected.values())) == 3  # an adapter that changes nothing would prove nothing
    names = [None, "law", NEWS, "law", None]
    assert reader.generate_many([prompts[n] for n in names], max_new_tokens=N) == [expected[n] for n in names]
    for name, parts in prompts.items():
        assert reader.generate(parts, max_new_tokens=N) == expected[name]
        assert "".join(reader.stream(parts, max_new_tokens=N)) == expected[name]
    assert reader.generate(["text"], max_new_tokens=N) == twin.answer(model, tokenizer, ["text"], N)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_as_it_was(decoder, folders, twin, fails):
    model = copy.deepcopy(decoder[0]).train().requires_grad_(True)
    model.model.layers[0].eval()
    model.lm_head.weight.requires_grad = False
    before, weights = state(model), {k: v.clone() for k, v in model.state_dict().items()}
    reader = HFReader(model, decoder[1], adapters=folders)
    assert state(model) == before
    prompts = list(prompts_for(model, twin).values())
    if fails:
        reader.identity  # noqa: B018 - hashed before the model breaks
        with model.lm_head.register_forward_hook(lambda *_: 1 / 0), pytest.raises(ZeroDivisionError):
            reader.generate_many(prompts)
        with model.lm_head.register_forward_hook(lambda *_: 1 / 0), pytest.raises(ZeroDivisionError):
            list(reader.stream(prompts[0]))
    else:
        reader.generate_many(prompts, max_new_tokens=2)
        stream = reader.stream(prompts[0])
        next(stream)
        stream.close()
    assert state(model) == before
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_two_readers_share_a_model(decoder, folders, twin):
    model, tokenizer = decoder
    prompts = prompts_for(model, twin)
    law = HFReader(model, tokenizer, adapters={"law": folders["law"]})
    news = HFReader(model, tokenizer, adapters={NEWS: folders[NEWS]})
    assert law.identity == news.identity
    expected = twin.answer(merged(model, folders["law"]), tokenizer, prompts["law"], N)
    news.generate(prompts[NEWS], max_new_tokens=N)
    assert law.generate(prompts["law"], max_new_tokens=N) == expected
    with pytest.raises(SummaryMismatchError, match=r"adapter 'hub/news-v1.5', .* \(it has: law\)"):
        law.generate(prompts[NEWS])


def test_another_adapter_under_the_same_name_is_refused(decoder, folders, twin):
    model, tokenizer = decoder
    reader = HFReader(model, tokenizer, adapters={"law": folders["law"]})
    summary = twin.summary(model, adapter="law")
    right = replace(summary, adapter_digest=adapter_digest(folders["law"]))
    assert reader.generate([right], max_new_tokens=N) == reader.generate([summary], max_new_tokens=N)
    wrong = replace(summary, adapter_digest=adapter_digest(folders[NEWS]))
    with pytest.raises(
        SummaryMismatchError, match=r"adapter 'law' of the weights .*, this reader has .* load that one"
    ):
        reader.generate([wrong], max_new_tokens=N)


def test_a_peft_model_brings_its_own_adapters(decoder, folders, twin):
    model, tokenizer = copy.deepcopy(decoder[0]), decoder[1]
    prompts = prompts_for(model, twin)
    expected = [
        twin.answer(model, tokenizer, prompts[None], N),
        twin.answer(merged(model, folders["law"]), tokenizer, prompts["law"], N),
    ]
    wrapped = PeftModel.from_pretrained(model, folders["law"], adapter_name="law")
    before, active = state(wrapped.get_base_model()), wrapped.active_adapter
    reader = HFReader(wrapped, tokenizer)
    assert reader.generate_many([prompts[None], prompts["law"]], max_new_tokens=N) == expected
    assert (state(wrapped.get_base_model()), wrapped.active_adapter) == (before, active)
    with pytest.raises(ValueError, match="load 'hub/news-v1.5' into the PeftModel"):
        HFReader(wrapped, tokenizer, adapters={NEWS: folders[NEWS]})


def test_wrong_adapters_are_named(decoder, folders, twin, tmp_path):
    model, tokenizer = decoder
    before = state(model)
    reader = HFReader(model, tokenizer, adapters=folders)
    mixed = [twin.summary(model, "a", adapter="law"), twin.summary(model, "b", adapter=NEWS)]
    with pytest.raises(SummaryMismatchError, match="adapters 'law' and 'hub/news-v1.5'"):
        reader.generate(mixed)
    with pytest.raises(SummaryMismatchError, match="adapters 'law' and None"):
        reader.generate([mixed[0], twin.summary(model)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match="no adapter_config.json"):
        HFReader(model, tokenizer, adapters={"x": tmp_path / "empty"})
    with pytest.raises(ModelLoadError, match="cannot load the adapter '.*nowhere'"):
        HFReader(model, tokenizer, adapters={"x": tmp_path / "nowhere"})
    extras = {"lm_head": {"modules_to_save": ["lm_head"]}, "bias": {"bias": "lora_only"}, "DoRA": {"use_dora": True}}
    if model.config.model_type == "llama":  # has no bias that could be saved
        del extras["bias"]
    for extra, config in extras.items():
        more = save_adapter(decoder[0], tmp_path / extra, seed=3, **config)
        with pytest.raises(UnsupportedModelError, match=f"'x' is more than LoRA layers, it has .*{extra}"):
            HFReader(model, tokenizer, adapters={"law": folders["law"], "x": more})
    table = save_adapter(model, tmp_path / "table", seed=3, targets=("embed_tokens",))
    with pytest.raises(UnsupportedModelError, match="changes the input embeddings"):
        HFReader(model, tokenizer, adapters={"x": table})
    assert state(model) == before
    wide, _ = tiny_decoder("gpt2")
    with pytest.raises(ModelLoadError, match="the adapter 'law' into GPT2LMHeadModel"):
        HFReader(wide, tokenizer, adapters=folders)
