"""The slow twin of a whole model: each attention module computes its n x n distances and mask, literally."""

import math
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import pytest
import torch
from transformers.models.llama.modeling_llama import rotate_half


def literal_attention(query, key, value, shape, scaling, turn, slopes, looks, rows):
    """``[b, h, n, d]``; ``turn(x, positions)`` rotates, ``rows`` are the queries that look at the middle."""
    n, n_rep = query.shape[2], query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(n_rep, 1), value.repeat_interleave(n_rep, 1)
    i, j = torch.arange(n)[:, None], torch.arange(n)[None]
    is_local, is_sink = (i - j >= 0) & (i - j < shape.n_local), (j < shape.n_global) & (j <= i)
    distance = (i - j).clamp(0, shape.n_local)
    is_middle = ~is_local & ~is_sink & (j <= i)
    distance[is_middle] = shape.middle_distance
    # one rotated copy of the queries for each distance there is, against keys at position 0
    logits = query.new_full((*query.shape[:2], n, n), -math.inf)
    for each in distance.unique().tolist():
        there = turn(query, each) @ turn(key, 0).transpose(-1, -2) * scaling
        if slopes is not None:
            there = there - slopes[:, None, None] * each
        logits = torch.where(distance == each, there, logits)
    seen = (is_local | is_sink).expand(logits.shape).clone()
    for b, h, row in ((b, h, row) for b in range(len(logits)) for h in range(logits.shape[1]) for row in rows):
        columns = [c for c in range(n) if is_middle[row, c]]
        best = logits[b, h, row, columns].argsort(descending=True)[:looks] + shape.n_global if columns else []
        seen[b, h, row, best] = True
    return logits.masked_fill(~seen, -math.inf).softmax(-1) @ value


@pytest.fixture
def twin_of():
    """``with twin_of(model, shape, rows): ...``"""
    return _twin_of


@contextmanager
def _twin_of(model, shape, rows=()):
    """Inside, the model computes every attention literally; unpadded batches, no cache."""
    is_alibi = model.config.model_type in ("bloom", "mpt")
    slopes = None
    if is_alibi:
        h = model.config.num_attention_heads
        slopes = torch.tensor([2 ** (-8 * (k + 1) / h) for k in range(h)])  # the ALiBi paper's, h a power of 2

    def turn(x, position):
        cos, sin = model.base_model.rotary_emb(x.float(), torch.tensor([[position]]))
        return x * cos[:, None] + rotate_half(x) * sin[:, None]

    def forward_of(module, index):
        looks = shape.middle_of(index)

        def attend(q, k, v, scaling):
            place = (lambda x, _: x) if is_alibi else turn
            return literal_attention(q, k, v, shape, scaling, place, slopes, looks, rows if looks else ())

        def rotary(hidden_states, **_):
            split = (*hidden_states.shape[:-1], -1, module.head_dim)
            q, k, v = (p(hidden_states).view(split) for p in (module.q_proj, module.k_proj, module.v_proj))
            if hasattr(module, "q_norm"):
                q, k = module.q_norm(q), module.k_norm(k)
            out = attend(*(x.transpose(1, 2) for x in (q, k, v)), module.scaling)
            return module.o_proj(out.transpose(1, 2).flatten(2)), None

        def bloom(hidden_states, residual, **_):
            b, n, _ = hidden_states.shape
            q, k, v = module.query_key_value(hidden_states).view(b, n, module.num_heads, 3, -1).unbind(3)
            out = attend(*(x.transpose(1, 2) for x in (q, k, v)), module.head_dim**-0.5)
            return module.dense(out.transpose(1, 2).flatten(2)) + residual, None

        def mpt(hidden_states, **_):
            q, k, v = (x.unflatten(-1, (module.n_heads, -1)) for x in module.Wqkv(hidden_states).chunk(3, -1))
            out = attend(*(x.transpose(1, 2) for x in (q, k, v)), module.head_dim**-0.5)
            return module.out_proj(out.transpose(1, 2).flatten(2)), None

        return {"bloom": bloom, "mpt": mpt}.get(model.config.model_type, rotary)

    with ExitStack() as stack:
        for index, module in enumerate(_attentions(model)):
            stack.enter_context(patch.object(module, "forward", forward_of(module, index)))
        yield


def _attentions(model):
    body = model.base_model
    if model.config.model_type == "bloom":
        return [block.self_attention for block in body.h]
    if model.config.model_type == "mpt":
        return [block.attn for block in body.blocks]
    return [layer.self_attn for layer in body.layers]
