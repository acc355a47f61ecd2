"""Tokens really removed inside transformers encoders, against a twin that runs every row alone and only masks."""

import copy
import pickle
import threading

import pytest
import torch
import transformers

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.nn.token_sampler import entropy_term, norm_term
from ctxcompress_integrations.patches.infor_coef import InforCoef, token_samplers
from ctxcompress_integrations.testing.tiny import tiny_decoder, tiny_encoder

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.3,
}
RELATIVE = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
FAMILIES = {
    "bert": ("BertModel", {}),
    "roberta": ("RobertaModel", {"pad_token_id": 1}),
    "electra": ("ElectraModel", {"embedding_size": 32}),
    "deberta": ("DebertaV2Model", RELATIVE | {"norm_rel_ebd": "layer_norm", "share_att_key": True}),
    "deberta-own-keys": ("DebertaV2Model", RELATIVE),
}
LENGTHS, END = (11, 6, 9, 2), 5


def encoder(family="bert", attention="eager"):
    name, fields = FAMILIES[family]
    config = getattr(transformers, name.replace("Model", "Config"))(**SIZES | fields, attn_implementation=attention)
    torch.manual_seed(0)
    return getattr(transformers, name)(config).eval()


def samplers(model, layers=(0, 1, 2)):
    made = token_samplers(model, layers, n_inner=8, start=0.0)
    for sampler in made.values():  # decisions that differ between tokens
        with torch.no_grad():
            sampler.down.weight.mul_(4)
            sampler.up.weight.copy_(torch.tensor([[1.0, -1.0] * 4]))
    return made


def rows(side="right"):
    """Ids and mask ``[b, n]``; the query's end stands at 3 where a row is long enough."""
    generator = torch.Generator().manual_seed(1)
    ids, mask = torch.full((len(LENGTHS), max(LENGTHS)), 1), torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    for i, n in enumerate(LENGTHS):
        here = slice(0, n) if side == "right" else slice(max(LENGTHS) - n, None)
        text = torch.randint(6, 60, (n,), generator=generator)
        text[3:4] = text[-1:] = END
        ids[i, here], mask[i, here] = text, 1
    return ids, mask


@torch.no_grad()
def twin(model, made, ids, safe, positions=None):
    """One row ``[n]``: nothing removed, keys masked, states of dropped tokens held."""
    states = model.embeddings(input_ids=ids[None], **({} if positions is None else {"position_ids": positions[None]}))
    if hasattr(model, "embeddings_project"):
        states = model.embeddings_project(states)
    n = len(ids)
    kept = torch.ones(n, dtype=torch.bool)
    for i, layer in enumerate(model.encoder.layer):
        if i in made:
            kept = kept & ((made[i](states)[0] > 0) | safe)
        if model.config.model_type == "deberta-v2":
            mask = kept.expand(1, 1, n, n)
            where = model.encoder.get_rel_pos(states)
            new = layer(states, mask, relative_pos=where, rel_embeddings=model.encoder.get_rel_embedding())[0]
        else:
            new = layer(states, torch.zeros(1, 1, n, n).masked_fill(~kept, torch.finfo(torch.float32).min))
        states = torch.where(kept[:, None], new, states)
    return states[0], kept


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        ("bert", "eager"),
        ("bert", "sdpa"),
        ("roberta", "sdpa"),
        ("electra", "eager"),
        ("deberta", "eager"),
        ("deberta-own-keys", "eager"),
    ],
)
@pytest.mark.parametrize("query_end", [None, END])
@torch.no_grad()
def test_padded_rows_equal_the_twin_of_each_row(family, attention, query_end):
    model = encoder(family, attention)
    made = samplers(model)
    ids, mask = rows()
    plain = model(ids, attention_mask=mask).last_hidden_state
    n_dropped = 0
    with InforCoef(made, query_end=query_end)(model) as patched:
        fast = patched(input_ids=ids, attention_mask=mask).last_hidden_state
    for i, n in enumerate(LENGTHS):
        safe = torch.arange(n) == 0
        if query_end is not None:
            safe |= torch.arange(n) <= ids[i].tolist().index(END)
        slow, kept = twin(model, made, ids[i, :n], safe)
        torch.testing.assert_close(fast[i, :n], slow, atol=1e-5, rtol=1e-4)
        n_dropped += int((~kept).sum())
        with InforCoef(made, query_end=query_end)(model):
            alone = model(ids[i : i + 1, :n]).last_hidden_state
        torch.testing.assert_close(alone[0], slow, atol=1e-5, rtol=1e-4)
    assert n_dropped > 3
    assert torch.equal(model(ids, attention_mask=mask).last_hidden_state, plain)


@torch.no_grad()
def test_left_padding_keeps_the_first_real_token():
    model = encoder()
    made = samplers(model)
    ids, mask = rows("left")
    with InforCoef(made, threshold=1e9)(model):
        fast = model(ids, attention_mask=mask).last_hidden_state
    for i, n in enumerate(LENGTHS):
        start = max(LENGTHS) - n
        positions = torch.arange(start, max(LENGTHS))
        for sampler in made.values():
            sampler.up.bias.sub_(1e9)
        slow, kept = twin(model, made, ids[i, start:], torch.arange(n) == 0, positions)
        for sampler in made.values():
            sampler.up.bias.zero_()
        assert kept.tolist() == [True] + [False] * (n - 1)
        torch.testing.assert_close(fast[i, start:], slow, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_drops_the_same_way(dtype):
    """Rows together equal rows alone; maps of attention are those of what was kept."""
    model = encoder().to(dtype)
    made = samplers(model)
    ids, mask = rows()
    with InforCoef(made, threshold=1e4, query_end=END)(model):
        together = model(ids, attention_mask=mask, output_attentions=True)
        for i, n in enumerate(LENGTHS):
            alone = model(ids[i : i + 1, :n]).last_hidden_state[0]
            torch.testing.assert_close(together.last_hidden_state[i, :n], alone, atol=0.05, rtol=0.05)
    n_query = max(ids[i, : LENGTHS[i]].tolist().index(END) + 1 for i in range(len(LENGTHS)))
    assert [tuple(each.shape) for each in together.attentions] == [(4, 4, n_query, n_query)] * 3


@torch.no_grad()
def test_threads_do_not_see_each_other():
    model, (ids, mask) = encoder(), rows()
    found = {}
    with InforCoef(samplers(model), query_end=END)(model):
        want = [model(ids[i:], attention_mask=mask[i:]).last_hidden_state for i in range(3)]

        def read(i):
            with torch.no_grad():
                found[i] = [model(ids[i:], attention_mask=mask[i:]).last_hidden_state for _ in range(20)]

        threads = [threading.Thread(target=read, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(each, want[i]) for i in range(3) for each in found[i])


@torch.no_grad()
def test_layers_see_fewer_rows():
    model = encoder()
    ids, mask = rows()
    widths = []
    handles = [
        layer.intermediate.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
        for layer in model.encoder.layer
    ]
    with InforCoef(samplers(model, (1,)), threshold=1e9)(model):
        model(ids, attention_mask=mask)
    assert widths == [max(LENGTHS), 1, 1]
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_training_draws_and_learns_and_sure_decisions_equal_removal(attention):
    model = encoder(attention=attention)
    made = samplers(model)
    ids, mask = rows()
    patch = InforCoef(made, query_end=END)
    with patch(model):
        torch.manual_seed(0)
        model.train()
        states = model(ids, attention_mask=mask).last_hidden_state
        assert [len(t.states) for t in patch.traces] == [sum(LENGTHS)] * 3
        assert all((b.draw.hard <= a.draw.hard).all() for a, b in zip(patch.traces, patch.traces[1:], strict=False))
        (states[:, 0].square().sum() + norm_term(patch.traces) + entropy_term(patch.traces)).backward()
        assert all(p.grad.abs().sum() > 0 for sampler in made.values() for p in sampler.parameters())
        for sampler in made.values():
            with torch.no_grad():
                sampler.up.weight.mul_(1e4)
        drawn = model(ids, attention_mask=mask).last_hidden_state
        model.eval()
        with torch.no_grad():
            removed = model(ids, attention_mask=mask).last_hidden_state
    is_real = mask.bool()
    torch.testing.assert_close(drawn[is_real], removed[is_real], atol=1e-4, rtol=1e-3)


def test_deberta_is_not_trained_inside():
    model = encoder("deberta").train()
    with InforCoef(samplers(model))(model), pytest.raises(UnsupportedModelError, match="cannot be trained inside"):
        model(rows()[0])


def test_restoration_after_an_exception_and_copies():
    model = encoder()
    ids, _ = rows()
    state, hooks = {k: v.clone() for k, v in model.state_dict().items()}, dict(model._forward_pre_hooks)
    with InforCoef(samplers(model))(model):
        for broken in (copy.deepcopy, pickle.dumps):
            with pytest.raises(UnsupportedModelError, match="is not copied or pickled"):
                broken(model)
    with pytest.raises(IndexError), InforCoef(samplers(model))(model):
        model(torch.full((1, 3), 999))
    assert not any("forward" in part.__dict__ for part in model.modules())
    assert dict(model._forward_pre_hooks) == hooks
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert copy.deepcopy(model)(ids).last_hidden_state.shape == (4, 11, 32)


@pytest.mark.parametrize("family", ["bert", "deberta"])
@torch.no_grad()
def test_compiled_inside_follows_the_patch_in_and_out(family):
    model = encoder(family)
    ids, mask = rows()
    plain = model(ids, attention_mask=mask).last_hidden_state
    with InforCoef(samplers(model))(model):
        inside, compiled = model(ids, attention_mask=mask).last_hidden_state, torch.compile(model, backend="eager")
        torch.testing.assert_close(compiled(ids, attention_mask=mask).last_hidden_state, inside)
    torch.testing.assert_close(compiled(ids, attention_mask=mask).last_hidden_state, plain)
    assert not torch.allclose(inside, plain)


def test_entering_twice_and_several_models():
    one, other = encoder(), encoder("roberta")
    made = samplers(one)
    patch = InforCoef(made)
    with patch(one), patch(other):
        for again in (patch, InforCoef(made)):
            with pytest.raises(UnsupportedModelError, match="is inside Infor-Coef already"), again(one):
                pass
        one(rows()[0])
        other(rows()[0])
    with patch(one):
        pass


@torch.no_grad()
def test_a_wrapped_classifier_and_lora():
    peft = pytest.importorskip("peft")
    config = transformers.BertConfig(**SIZES)
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).eval()
    ids, mask = rows()
    plain = model(ids, attention_mask=mask).logits
    with InforCoef(samplers(model), query_end=END)(model):
        inside = model(input_ids=ids, attention_mask=mask).logits
    assert not torch.allclose(inside, plain)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"])).eval()
    with InforCoef(samplers(model), query_end=END)(adapted):
        torch.testing.assert_close(adapted(input_ids=ids, attention_mask=mask).logits, inside)
    assert torch.equal(adapted(input_ids=ids, attention_mask=mask).logits, plain)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiny_decoder("llama")[0], "LlamaForCausalLM: nobody has checked the family 'llama'. Families"),
        (encoder, None),
        (lambda: transformers.BertLMHeadModel(transformers.BertConfig(**SIZES, is_decoder=True)), "it is a decoder"),
        (lambda: torch.nn.Linear(2, 2), "Linear is no transformers model"),
        (lambda: torch.compile(encoder(), backend="eager"), "the model is compiled"),
        (
            lambda: transformers.DebertaV2Model(
                transformers.DebertaV2Config(**SIZES, **RELATIVE, conv_kernel_size=3, conv_act="gelu")
            ),
            "followed by a convolution",
        ),
        (lambda: transformers.BertModel(transformers.BertConfig(**SIZES, chunk_size_feed_forward=2)), "it chunks"),
    ],
    ids=["llama", "flash", "decoder", "foreign", "compiled", "convolution", "chunks"],
)
def test_models_that_cannot_be_patched_are_named(make, message):
    if message is None:
        model, message = encoder(), "its attention is 'flex_attention'"
        model.config._attn_implementation_internal = "flex_attention"
    else:
        model = make()
    made = token_samplers(encoder(), (0,))
    before = [part.__dict__.get("forward") for part in model.modules()]  # a compiled model has one of its own
    with pytest.raises(UnsupportedModelError, match=message), InforCoef(made)(model):
        pytest.fail("entered")
    assert [part.__dict__.get("forward") for part in model.modules()] == before


def test_samplers_and_inputs_that_do_not_fit():
    model = tiny_encoder()[0]
    with pytest.raises(ValueError, match="got none"):
        InforCoef({})
    made = token_samplers(model, (0,))
    with pytest.raises(ValueError, match="has 2 layers of width 32, got a sampler of width 32 for layer 7"):
        InforCoef({7: made[0]})(model).__enter__()
    model.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"in torch.bfloat16, got a sampler in torch.float32 .* sampler.to\(model.dty"):
        InforCoef(made)(model).__enter__()
    model.to(torch.float32)
    with InforCoef(made)(model):
        with pytest.raises(ValueError, match="needs input_ids"):
            model(inputs_embeds=torch.zeros(1, 3, 32))
        with pytest.raises(ValueError, match=r"padding masks \[b, n\], got \(1, 1, 3, 3\)"):
            model(torch.zeros(1, 3, dtype=torch.long), attention_mask=torch.zeros(1, 1, 3, 3))
    assert repr(InforCoef(made)) == "InforCoef(layers [0], query_end=None, threshold=0.0)"
