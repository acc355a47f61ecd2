"""mini against loops, its door for trained weights, and the embedder that shares its encoder."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ctxcompress_integrations import load_compressor
from ctxcompress_integrations.errors import ModelLoadError, WeightsMismatchError
from ctxcompress_integrations.hf import load
from ctxcompress_integrations.hf.encoder import TextEncoder
from ctxcompress_integrations.hf.load import cpu_has_bf16, load_embedder, load_encoder, mini_folder
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.scorers.mini import Mini
from ctxcompress_integrations.testing.tiny import tiny_encoder
from ctxcompress_integrations.text.relevance import unit_scores, word_rows
from ctxcompress_integrations.text.segment import segment

TEXTS = ["The tower is 330 metres tall. It was built in 1889.", "Bananas are yellow.", "Kurz.", "塔很高。它在巴黎。"]
QUERY = "How tall is the tower?"


@pytest.fixture(scope="module")
def mini():
    return Mini.load(device="cpu", dtype="float32")


def test_scores_equal_loops_over_unpadded_forwards(mini):
    """Every cosine by hand from the encoder's plain output, one text at a time."""
    model, tokenizer = mini.encoder.model, mini.encoder.tokenizer

    def states(text):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 1:-1]
        return [vector / vector.norm() for vector in hidden]

    query = states(QUERY)
    for text, relevance in zip(TEXTS, mini.score([ScoreRequest(TEXTS, QUERY)])[0], strict=True):
        passage = states(text)
        assert len(passage) == len(relevance.scores)
        for j, vector in enumerate(passage):
            cosines = [float(q @ vector) for q in query]
            assert relevance.scores[j] == pytest.approx(max(cosines), abs=1e-5)
            np.testing.assert_allclose(relevance.rows[:, j] * len(query), cosines, atol=1e-5)


def test_sentence_is_the_sum_over_query_tokens_of_the_best_match(mini):
    text = TEXTS[0]
    relevance = mini.score([ScoreRequest([text], QUERY)])[0][0]
    words, first_words = segment(text)
    scores = unit_scores(word_rows(relevance, relevance.rows, words), first_words)
    end_of_first = text.index("It was")
    for sentence, inside in enumerate(
        (relevance.offsets[:, 0] < end_of_first, relevance.offsets[:, 0] >= end_of_first)
    ):
        slow = sum(max(row[inside]) for row in relevance.rows)
        assert scores[sentence] == pytest.approx(slow, abs=1e-5)
    assert scores[0] > scores[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_company_does_not_change_a_score(dtype):
    scorer = Mini.load(device="cpu", dtype=dtype)
    together = scorer.score([ScoreRequest(TEXTS, QUERY), ScoreRequest([TEXTS[1] * 9], "Which fruit?")])
    for text, relevance in zip(TEXTS, together[0], strict=True):
        alone = scorer.score([ScoreRequest([text], QUERY)])[0][0]
        np.testing.assert_allclose(relevance.scores, alone.scores, atol=1e-5)


def test_padded_forward_of_a_gpu_equals_the_unpadded_one():
    model, tokenizer = tiny_encoder()
    plain, padded = (TextEncoder(model, tokenizer, name="tiny") for _ in range(2))
    padded._is_padding = True
    for a, b in zip(plain.token_vectors(TEXTS), padded.token_vectors(TEXTS), strict=True):
        np.testing.assert_array_equal(a.offsets, b.offsets)
        torch.testing.assert_close(a.vectors, b.vectors, atol=1e-5, rtol=0)
    np.testing.assert_allclose(plain.embed_documents(TEXTS), padded.embed_documents(TEXTS), atol=1e-5)


def test_text_longer_than_the_window_is_read_to_the_end(mini):
    text = "Nothing to see here, only words. " * 120 + "The tower is 330 metres tall."
    relevance = mini.score([ScoreRequest([text], QUERY)])[0][0]
    assert relevance.offsets[-1, 1] == len(text)
    assert len(relevance.scores) == mini.count_tokens(text)
    assert relevance.scores[-8:].max() > 0.9 * relevance.scores.max()


def test_passage_without_tokens_and_query_in_another_script(mini):
    for text in ("\u200b", " ", "\x00"):
        assert len(mini.score([ScoreRequest([text], QUERY)])[0]) == 1
    relevance = mini.score([ScoreRequest(TEXTS, "ما ارتفاع البرج؟")])[0][0]
    assert np.isfinite(relevance.scores).all()


def test_embedder_equals_sentence_transformers():
    sentence_transformers = pytest.importorskip("sentence_transformers")
    reference = sentence_transformers.SentenceTransformer(str(mini_folder()), device="cpu")
    texts = [*TEXTS, "long " * 400, ""]
    ours = load_embedder("mini", device="cpu", dtype="float32").embed_documents(texts)
    np.testing.assert_allclose(ours, reference.encode(texts, normalize_embeddings=True), atol=2e-6)


@pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU has no bf16")
def test_bf16_retrieves_what_fp32_retrieves(sample_passages):
    """The condition for bf16 being the default: the nearest passages of each passage's first sentence agree."""
    texts = [p["text"] for p in sample_passages[:150]]
    questions = [text.split(". ")[0] for text in texts]
    exact, rough = (load_embedder("mini", device="cpu", dtype=d) for d in ("float32", "bfloat16"))
    best = [np.argsort(-(e.embed_documents(questions) @ e.embed_documents(texts).T), axis=1) for e in (exact, rough)]
    assert (best[0][:, 0] == best[1][:, 0]).mean() >= 0.98
    overlap = np.mean([len({*a[:8]} & {*b[:8]}) / 8 for a, b in zip(*best, strict=True)])
    assert overlap >= 0.97


def write_head(path, **metadata):
    torch.manual_seed(0)
    tensors = {"query": torch.randn(16, 384), "passage": torch.randn(16, 384)}
    save_file(tensors, path, metadata={"format": "ctxcompress-projection", "version": "1", "base": "mini"} | metadata)
    return tensors


def test_trained_head_is_applied(tmp_path, mini):
    tensors = write_head(tmp_path / "head.safetensors")
    trained = Mini.load(device="cpu", dtype="float32", weights=tmp_path / "head.safetensors")
    got = trained.score([ScoreRequest(TEXTS[:1], QUERY)])[0][0]
    query, passage = (tokens.vectors for tokens in mini.encoder.token_vectors([QUERY, TEXTS[0]]))
    a, b = query @ tensors["query"].T, passage @ tensors["passage"].T
    want = (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
    np.testing.assert_allclose(got.scores, want.max(dim=0).values, atol=1e-5)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({"base": "other"}, "trained on 'other'"), ({"version": "2"}, "version '2'"), ({"format": "x"}, "format 'x'")],
)
def test_foreign_head_is_refused_by_name(tmp_path, metadata, message):
    write_head(tmp_path / "head.safetensors", **metadata)
    with pytest.raises(WeightsMismatchError, match=message):
        Mini.load(weights=tmp_path / "head.safetensors")


def test_broken_and_missing_head(tmp_path):
    (tmp_path / "head.safetensors").write_bytes(b"not safetensors at all")
    for name in ("head.safetensors", "nowhere.safetensors"):
        with pytest.raises(WeightsMismatchError, match=name):
            Mini.load(weights=tmp_path / name)


def test_changed_offline_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    monkeypatch.setattr(load, "mini_folder", lambda: tmp_path)
    with pytest.raises(ModelLoadError, match="force-reinstall"):
        load_encoder("mini")


def test_name_that_cannot_be_loaded_names_the_cure(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelLoadError, match="folder"):
        load_compressor("quito", model="nobody/nothing-at-all", keep_ratio=0.5)
    monkeypatch.setattr(load, "mini_folder", lambda: None)
    with pytest.raises(ModelLoadError, match=r"\[offline\]"):
        load_compressor("mini")


def test_device_and_dtype_are_checked():
    with pytest.raises(ModelLoadError, match="cuda:7"):
        load_compressor("mini", device="cuda:7")
    with pytest.raises(ValueError, match="int8"):
        load_compressor("mini", dtype="int8")
    with pytest.raises(ValueError, match="layer"):
        load_compressor("mini", layer=3)
    with pytest.raises(ValueError, match="no scorer 'quitto'"):
        load_compressor("quitto")
