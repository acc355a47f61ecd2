"""Endings that share a beginning have the states that each has alone."""

import pytest
import torch

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.packed import Packed, packed_states
from ctxcompress_integrations.testing.tiny import tiny_decoder, tiny_small_world

ROWS = [([5, 6, 7, 8], [[9, 10], [11, 12, 13], [14]]), ([20, 21], [[3]]), ([30], [[4, 5, 6, 7, 8], [9, 10]])]


def reader(name):
    return tiny_small_world()[0] if name == "bert" else tiny_decoder(name)[0]


@pytest.mark.parametrize("name", ["bert", "llama_gqa", "qwen2", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_ending_is_as_it_is_alone(name, dtype):
    model = reader(name).to(dtype)
    table = model.get_input_embeddings()
    batch = [
        Packed(table(torch.tensor([*begun, *(t for e in endings for t in e)])), len(begun), tuple(map(len, endings)))
        for begun, endings in ROWS
    ]
    states = packed_states(model, batch).detach()
    for row, (begun, endings) in zip(states, ROWS, strict=True):
        at = len(begun)
        for ending in endings:
            alone = (
                model.base_model(input_ids=torch.tensor([[*begun, *ending]]))
                .last_hidden_state[0, len(begun) :]
                .detach()
            )
            found = row[at : at + len(ending)]
            at += len(ending)
            assert float((found - alone).norm() / alone.norm()) < (1e-5 if dtype == torch.float32 else 0.05)


def test_gradients_reach_the_beginning_from_every_ending_and_no_ending_from_another():
    model = reader("bert")
    rows = torch.randn(9, 32).requires_grad_()
    states = packed_states(model, [Packed(rows, 4, (2, 3))])
    states[0, 8, 0].backward()
    reached = rows.grad.abs().sum(1) > 0
    assert reached.tolist() == [True] * 4 + [False] * 2 + [True] * 3


def test_a_sliding_window_slides_in_every_ending():
    model = reader("mistral")
    table = model.get_input_embeddings()
    begun, endings = list(range(5, 35)), [list(range(40, 52)), list(range(60, 70))]
    ids = torch.tensor([*begun, *endings[0], *endings[1]])
    states = packed_states(model, [Packed(table(ids), 30, (12, 10)), Packed(table(ids[:8]), 5, (3,))])[0].detach()
    at = 30
    for ending in endings:
        alone = model.base_model(input_ids=torch.tensor([[*begun, *ending]])).last_hidden_state[0].detach()
        torch.testing.assert_close(states[:30], alone[:30], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states[at : at + len(ending)], alone[30:], atol=1e-5, rtol=1e-4)
        at += len(ending)


def test_what_one_mask_for_all_layers_cannot_say_is_refused():
    rows = torch.randn(40, 32)
    mixed, other = reader("gemma2"), reader("llama")
    assert packed_states(mixed, [Packed(rows, 20, (4, 3, 2, 4, 4, 3))]).shape == (1, 40, 32), "24 positions at most"
    with pytest.raises(UnsupportedModelError, match=r"sliding window of 24 positions \(sliding_window\), and 40 are"):
        packed_states(mixed, [Packed(rows, 20, (20,))])
    other.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UnsupportedModelError, match="layers of the kind 'linear_attention'"):
        packed_states(other, [Packed(rows[:22], 20, (2,))])


def test_models_without_position_ids_are_refused():
    model = tiny_decoder("bloom")[0]
    with pytest.raises(UnsupportedModelError, match="several endings"):
        packed_states(model, [Packed(torch.zeros(3, 32), 1, (2,))])
