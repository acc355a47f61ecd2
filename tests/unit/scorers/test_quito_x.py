import numpy as np
import pytest
import torch

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.scorers.quito_x import QuitoX
from ctxcompress_integrations.testing.tiny import tiny_decoder, tiny_t5

PASSAGES = ["The tower was built in 1889.", "The river is near the dog. It jumps.", "Paris is the capital."]
QUERY = "Which animal jumps?"


def textbook(model, tokenizer, passage, query, *, padded_to=None):
    """One eager pass of the whole model, all maps kept; the paper's row cut out. Padded as a batch would be."""
    encoded = tokenizer(f"{passage} {query}", return_offsets_mapping=True)
    ids = encoded["input_ids"]
    n_pad = 0 if padded_to is None else padded_to - len(ids)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor([ids + [0] * n_pad]),
            attention_mask=torch.tensor([[1] * len(ids) + [0] * n_pad]),
            decoder_input_ids=torch.tensor([[model.config.decoder_start_token_id]]),
            output_attentions=True,
        )
    row = out.cross_attentions[-1][0, :, 0, : len(ids)].mean(0).numpy()
    return row[[a < len(passage) and b > a for a, b in encoded["offset_mapping"]]]


@pytest.mark.parametrize("padded_to", [None, 64])
def test_scores_equal_the_textbook_form(padded_to):
    model, tokenizer = tiny_t5()
    relevances = QuitoX(model, tokenizer).score([ScoreRequest(PASSAGES, QUERY)])[0]
    for passage, relevance in zip(PASSAGES, relevances, strict=True):
        want = textbook(model, tokenizer, passage, QUERY, padded_to=padded_to)
        np.testing.assert_allclose(relevance.scores, want, atol=1e-4)
        assert relevance.offsets.max() <= len(passage)
        assert want.std() > 1e-3, "a flat row would pin nothing"


def test_bf16_scores_do_not_depend_on_company():
    model, tokenizer = tiny_t5()
    scorer = QuitoX(model.to(torch.bfloat16), tokenizer)
    together = scorer.score([ScoreRequest(PASSAGES, QUERY)])[0]
    for passage, relevance in zip(PASSAGES, together, strict=True):
        alone = scorer.score([ScoreRequest([passage], QUERY)])[0][0]
        np.testing.assert_allclose(relevance.scores, alone.scores, atol=1e-6)


def test_model_keeps_its_attention():
    model, tokenizer = tiny_t5()
    before = (model.config._attn_implementation, model.decoder.config._attn_implementation)
    QuitoX(model, tokenizer).score([ScoreRequest(PASSAGES, QUERY)])
    assert (model.config._attn_implementation, model.decoder.config._attn_implementation) == before


def test_long_passage_in_windows():
    model, tokenizer = tiny_t5()
    text = "The quick brown fox jumps over the lazy dog. " * 60
    relevance = QuitoX(model, tokenizer, max_tokens=128).score([ScoreRequest([text], QUERY)])[0][0]
    assert relevance.offsets[-1, 1] >= len(text.rstrip())
    assert (np.diff(relevance.offsets[:, 0]) >= 0).all()


def test_decoder_only_model_is_refused():
    with pytest.raises(UnsupportedModelError, match="quito"):
        QuitoX(*tiny_decoder("llama"))


def test_layer_out_of_range():
    with pytest.raises(UnsupportedModelError, match="no layer 5"):
        QuitoX(*tiny_t5(), layer=5)
