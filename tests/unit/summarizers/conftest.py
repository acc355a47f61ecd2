"""A decoder LM written out position by position, to pin the summarizers to; and passages of all lengths."""

import math

import pytest
import torch


def rms(vector, weight, eps):
    return vector / math.sqrt(float((vector * vector).mean()) + eps) * weight


def turned(vector, position, theta):
    """Rotary embedding of one head's vector: component i is paired with component i + d/2."""
    half = len(vector) // 2
    out = torch.empty_like(vector)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(vector))
        out[i] = vector[i] * math.cos(angle) - vector[i + half] * math.sin(angle)
        out[i + half] = vector[i + half] * math.cos(angle) + vector[i] * math.sin(angle)
    return out


def attend(queries, keys, values, visible):
    """One head: ``[q, d]``, ``[k, d]``, ``[k, d]`` under the bool mask ``[q, k]``, one query at a time."""
    rows = []
    for query, sees in zip(queries, visible, strict=True):
        logits = (keys @ query / math.sqrt(len(query))).masked_fill(~sees, float("-inf"))
        rows.append(torch.softmax(logits, 0) @ values)
    return torch.stack(rows)


def swiglu(vector, gate, up, down):
    return down @ (torch.nn.functional.silu(gate @ vector) * (up @ vector))


def decoder_states(model, vectors, *, visible=None, updates=None):
    """Last hidden states ``[n, d]`` of a Llama or Qwen2 on ``[n, d]``: explicit ``[n, n]`` mask, positions 0 .. n-1.

    Args:
        updates: LoRA as ``(down, up, scale)`` by layer name.
    """
    weights, config, n = {k: v.double() for k, v in model.state_dict().items()}, model.config, len(vectors)
    if visible is None:
        visible = torch.tensor([[k <= q for k in range(n)] for q in range(n)])
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    width, eps = config.hidden_size // heads, config.rms_norm_eps
    theta = config.rope_parameters["rope_theta"]

    def linear(name, x):
        out = weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0.0)
        if updates and name in updates:
            down, up, scale = updates[name]
            out = out + scale * (up.double() @ (down.double() @ x))
        return out

    states = list(vectors.double())
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        normed = [rms(x, weights[f"{at}.input_layernorm.weight"], eps) for x in states]
        q, k, v = ([linear(f"{at}.self_attn.{p}_proj", x).split(width) for x in normed] for p in "qkv")
        mixed = []
        for h in range(heads):
            g = h * kv_heads // heads
            mixed.append(
                attend(
                    torch.stack([turned(q[i][h], i, theta) for i in range(n)]),
                    torch.stack([turned(k[i][g], i, theta) for i in range(n)]),
                    torch.stack([v[i][g] for i in range(n)]),
                    visible,
                )
            )
        joined = torch.cat(mixed, dim=1)
        states = [x + linear(f"{at}.self_attn.o_proj", joined[i]) for i, x in enumerate(states)]
        parts = [weights[f"{at}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down")]
        norm = weights[f"{at}.post_attention_layernorm.weight"]
        states = [x + swiglu(rms(x, norm, eps), *parts) for x in states]
    return torch.stack([rms(x, weights["model.norm.weight"], eps) for x in states])


def word_vectors(model, ids):
    return model.get_input_embeddings().weight.detach()[torch.tensor(ids)].double()


class Textbook:
    rms, turned, attend, swiglu = map(staticmethod, (rms, turned, attend, swiglu))
    decoder_states, word_vectors = staticmethod(decoder_states), staticmethod(word_vectors)

    @staticmethod
    def ids(summarizer, text):
        ids = summarizer.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [summarizer.tokenizer.bos_token_id, *ids] if summarizer.has_bos else ids


@pytest.fixture(scope="session")
def textbook():
    return Textbook


@pytest.fixture(scope="session")
def texts():
    return [
        "The tower.",
        "Paris is the capital of France; the tower was built in 1889 and is 330 metres tall.",
        "x",
        "The quick brown fox jumps over the lazy dog near the river bank. 敏捷的棕色狐狸跳过了懒狗。",
        "Which animal jumps over the dog?",
    ]


@pytest.fixture(scope="session")
def close():
    """Fails unless each matrix is the twin's within an absolute bound, or in bf16 within a relative one."""

    def check(found, wanted, *, dtype=torch.float32):
        assert len(found) == len(wanted)
        for one, want in zip(found, wanted, strict=True):
            got = torch.as_tensor(one.vectors if hasattr(one, "vectors") else one)
            assert got.shape == want.shape
            if dtype == torch.float32:
                torch.testing.assert_close(got, want.float(), atol=1e-4, rtol=0)
            else:
                assert float((got - want).norm() / want.norm()) < 0.06

    return check
