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


def test_models_without_position_ids_are_refused():
    model = tiny_decoder("bloom")[0]
    with pytest.raises(UnsupportedModelError, match="several endings"):
        packed_states(model, [Packed(torch.zeros(3, 32), 1, (2,))])
