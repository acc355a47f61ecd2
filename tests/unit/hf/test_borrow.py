"""A shared model is used by one thread at a time and given back as it was."""

import threading

import pytest
import torch

from ctxcompress_integrations.hf.borrow import as_base, base_of, evaluating, lock_of
from ctxcompress_integrations.hf.states import last_states
from ctxcompress_integrations.testing.tiny import tiny_decoder


class Wrapper:
    def __init__(self, model):
        self.model = model

    def get_base_model(self):
        return self.model

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()


def test_every_wrapper_of_a_model_has_its_lock():
    (one, _), (other, _) = tiny_decoder(n_layers=1), tiny_decoder(n_layers=1)
    assert lock_of(one) is lock_of(Wrapper(one)) is lock_of(one.base_model)
    assert lock_of(one) is not lock_of(other)
    assert base_of(Wrapper(one)) is one
    assert base_of(one) is one


def test_another_thread_waits_and_the_same_one_does_not():
    model, _ = tiny_decoder(n_layers=1)
    entered = threading.Event()

    def enter():
        with as_base(model):
            entered.set()

    with as_base(model), as_base(model):
        other = threading.Thread(target=enter)
        other.start()
        assert not entered.wait(0.1)
    other.join(10)
    assert entered.is_set()


def test_flags_come_back_one_by_one_even_after_an_error():
    model, _ = tiny_decoder(n_layers=2)
    model.train()
    model.model.layers[0].eval()
    before = {name: part.training for name, part in model.named_modules()}

    def fail():
        with evaluating(model, torch.nn.Dropout()):
            assert not any(part.training for part in model.modules())
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert {name: part.training for name, part in model.named_modules()} == before


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gpt2", "phi", "gemma2", "bloom"])
def test_padding_on_the_right_changes_nothing(architecture):
    model, _ = tiny_decoder(architecture, n_layers=2)
    rows = [torch.randn(n, 32) for n in (30, 1, 9)]
    with torch.no_grad():
        together = last_states(model, rows)
        for i, row in enumerate(rows):
            alone = model.base_model(inputs_embeds=row[None], attention_mask=torch.ones(1, len(row))).last_hidden_state
            torch.testing.assert_close(together[i, : len(row)], alone[0], atol=1e-5, rtol=1e-5)
