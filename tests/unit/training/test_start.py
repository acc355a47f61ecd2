"""Where trainings of summarizers start: with nothing that no step moves, on tokenizers of every kind."""

import pytest
import torch

from ctxcompress_integrations.hf import summary_weights
from ctxcompress_integrations.hf.splice import Splicer
from ctxcompress_integrations.summarizers.icae import Icae
from ctxcompress_integrations.testing.tiny import tiny_decoder
from ctxcompress_integrations.training.lessons import Mix, Study
from ctxcompress_integrations.training.soft import Recipe, Stage, train_soft
from ctxcompress_integrations.training.start import untrained

PROMPT = "{context} Q: {question} A:"


@pytest.mark.parametrize("name", ["autocompressor", "icae", "icformer", "pooled"])
def test_all_that_is_saved_has_learned(name, tmp_path):
    model, tokenizer = tiny_decoder()
    made = untrained(name, model, tokenizer, n_vectors=2, ratio=2, rank=2)
    before = {key: tensor.clone() for key, tensor in made.module.state_dict().items()}
    count = Splicer(model.get_input_embeddings(), tokenizer).count
    texts = [f"The dog {i} and the fox {i} over the river bank." for i in range(4)]
    studies = [Study(text, count(text), (("who?", "fox"),)) for text in texts]
    plan = Recipe((Stage(2, Mix(), 2),), batch=2, lr=1e-2, prompt=PROMPT, eval_every=2)
    train_soft(model, tokenizer, studies, tmp_path / "x", plan, summarizers=[made])
    still = [key for key, tensor in made.module.state_dict().items() if torch.equal(tensor, before[key])]
    assert still == []
    assert list(made.endings) == []
    with pytest.raises(ValueError, match="one that was trained \\(none\\)"):
        made.changed(ending="ft")


def test_a_tokenizer_without_a_first_token_starts_an_icae(tmp_path):
    model, tokenizer = tiny_decoder("qwen2")
    assert untrained("icae", model, tokenizer, n_vectors=2, ratio=2, rank=2).has_bos
    tokenizer.bos_token = None
    made = untrained("icae", model, tokenizer, n_vectors=2, ratio=2, rank=2)
    assert not made.has_bos
    made.save(tmp_path / "x")
    held = summary_weights.read(tmp_path / "x", method="icae")
    again = Icae.restored(held, model, tokenizer, {})
    assert again.fingerprint == made.fingerprint
