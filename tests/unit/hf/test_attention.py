"""The captured row against its slow twin: eager attention, the whole map, one row cut out."""

import pytest
import torch

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.attention import _CAPTURE, trigger_rows
from ctxcompress_integrations.testing.tiny import tiny_decoder
from largest import Largest

ARCHITECTURES = ["llama", "llama_gqa", "qwen2", "qwen3", "mistral", "gpt2", "phi", "gemma2", "bloom"]
SEQUENCES = [list(range(6, 6 + n)) for n in (40, 7, 23)]


def textbook(model, sequences, layer, *, padding="none"):
    """Rows [h, n_i] per sequence, straight from the definition: eager, every map of every layer."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    rows = []
    with torch.no_grad():
        if padding == "none":
            for ids in sequences:
                maps = model(input_ids=torch.tensor([ids]), output_attentions=True).attentions
                rows.append(maps[layer][0, :, -1].float())
        else:  # right padding with an attention mask, as a batch is usually run
            longest = max(map(len, sequences))
            ids = torch.tensor([s + [0] * (longest - len(s)) for s in sequences])
            mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
            maps = model(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
            rows = [maps[layer][i, :, len(s) - 1, : len(s)].float() for i, s in enumerate(sequences)]
    model.set_attn_implementation(before)
    return rows


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("padding", ["none", "right"])
@pytest.mark.parametrize("layer", [-1, 0])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_row_equals_eager(architecture, layer, padding, pads):
    model, _ = tiny_decoder(architecture)
    rows = trigger_rows(model, SEQUENCES, [layer], pads=pads)[layer]
    assert rows.dtype == torch.float32
    assert rows.shape == (3, 4, 40)
    for got, want, ids in zip(rows, textbook(model, SEQUENCES, layer, padding=padding), SEQUENCES, strict=True):
        torch.testing.assert_close(got[:, : len(ids)], want, atol=1e-4, rtol=1e-4)
        assert not got[:, len(ids) :].any()
        torch.testing.assert_close(got.sum(-1), torch.ones(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["llama_gqa", "qwen2", "mistral", "gpt2"])
def test_row_in_bf16_is_close_to_fp32(architecture):
    model, _ = tiny_decoder(architecture)
    exact = trigger_rows(model, SEQUENCES, [-1])[-1]
    rough = trigger_rows(model.to(torch.bfloat16), SEQUENCES, [-1])[-1]
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.06, rtol=0)
    alone = [trigger_rows(model, [s], [-1])[-1][0] for s in SEQUENCES]
    for row, want, ids in zip(rough, alone, SEQUENCES, strict=True):
        torch.testing.assert_close(row[:, : len(ids)], want, atol=1e-6, rtol=0)  # company changes nothing, bf16 or not


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_model_is_left_as_it_was(architecture):
    model, _ = tiny_decoder(architecture)
    ids = torch.tensor([SEQUENCES[0]])
    implementation = model.config._attn_implementation
    with torch.no_grad():
        before = model(ids).logits
        trigger_rows(model, SEQUENCES, [-1])
        after = model(ids).logits
    assert model.config._attn_implementation == implementation
    assert torch.equal(before, after)
    assert _CAPTURE.get() is None


def test_forward_ends_at_the_wanted_layer():
    model, _ = tiny_decoder("llama", n_layers=4)
    ran = []
    for i, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(lambda *_, i=i: ran.append(i))
    model.lm_head.register_forward_hook(lambda *_: ran.append("head"))
    trigger_rows(model, SEQUENCES[:1], [2])
    assert ran == [0, 1]


def test_several_layers_in_one_forward():
    model, _ = tiny_decoder("qwen2")
    rows = trigger_rows(model, SEQUENCES, [0, -1])
    for layer in (0, -1):
        torch.testing.assert_close(rows[layer], trigger_rows(model, SEQUENCES, [layer])[layer])


def test_error_inside_the_model_restores_it():
    model, _ = tiny_decoder("llama")
    with pytest.raises(IndexError):
        trigger_rows(model, [[10**6]], [-1])
    assert model.config._attn_implementation == "sdpa"
    assert _CAPTURE.get() is None


def test_layer_that_does_not_exist_is_named():
    model, _ = tiny_decoder("llama")
    with pytest.raises(UnsupportedModelError, match="no layer 3"):
        trigger_rows(model, SEQUENCES, [3])


def test_memory_grows_with_n_not_n_squared():
    """No tensor of n x n elements is made on the way, padded batch included."""
    model, _ = tiny_decoder("llama_gqa", n_positions=8192)
    n = 4096
    with Largest() as seen:
        trigger_rows(model, [[5] * n, [6] * (n // 2)], [-1], pads=True)
    assert seen.n <= 2 * n * 64
