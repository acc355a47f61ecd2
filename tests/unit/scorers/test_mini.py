"""mini against loops, as published and trained, its memory of passages, and the embedder that shares its encoder."""

import numpy as np
import pytest
import torch

from ctxcompress_integrations import TextCompressor, load_compressor
from ctxcompress_integrations.errors import ModelLoadError, WeightsMismatchError
from ctxcompress_integrations.hf import load
from ctxcompress_integrations.hf import trained as trained_module
from ctxcompress_integrations.hf.device import cpu_has_bf16
from ctxcompress_integrations.hf.encoder import TextEncoder
from ctxcompress_integrations.hf.load import load_embedder, load_encoder
from ctxcompress_integrations.hf.mini_package import mini_folder
from ctxcompress_integrations.hf.mini_weights import untrained
from ctxcompress_integrations.hf.trained import TrainedEncoder
from ctxcompress_integrations.nn.packed_encoder import pack
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.scorers.lexical import Lexical
from ctxcompress_integrations.scorers.mini import Mini, strangeness
from ctxcompress_integrations.testing.tiny import tiny_encoder
from ctxcompress_integrations.text.relevance import unit_scores, word_rows
from ctxcompress_integrations.text.segment import segment

TEXTS = ["The tower is 330 metres tall. It was built in 1889.", "Bananas are yellow.", "Kurz.", "塔很高。它在巴黎。"]
QUERY = "How tall is the tower?"


@pytest.fixture(scope="module")
def mini():
    return Mini.load(device="cpu", dtype="float32", weights="none")


@pytest.fixture(scope="module")
def trained_encoder():
    """Late interaction with random heads on a tiny BERT."""
    base, tokenizer = tiny_encoder()
    torch.manual_seed(0)
    model = untrained(base, layers=(0, 1), n_dims=16)
    torch.nn.init.normal_(model.importance.weight)
    torch.nn.init.normal_(model.shares.weight)
    return TrainedEncoder(model.eval().requires_grad_(False), tokenizer, card={"thresholds": {"0.01": 0.25}})


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
    scorer = Mini.load(device="cpu", dtype=dtype, weights="none")
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


@pytest.mark.parametrize("weights", ["none", None])
def test_windows_that_begin_inside_a_word_lose_no_token(weights):
    scorer = Mini.load(device="cpu", dtype="float32", weights=weights)
    for length in range(1, 40, 6):
        text = " ".join(f"qx{i}zvk{'wy' * (i % 5)}" for i in range(90)) + " " + "y" * length + " It ended in 1945"
        relevance = scorer.score([ScoreRequest([text], QUERY)])[0][0]
        assert relevance.offsets[-1].tolist() == [len(text) - 4, len(text)]


def test_tokenizers_are_left_as_they_are():
    """Their truncation is state that all threads share."""
    for scorer in (Mini.load(device="cpu", weights="none"), Mini.load(device="cpu")):
        scorer.encoder.tokenizer("x")
        scorer.score([ScoreRequest(["word " * 400], "word " * 200, ["title " * 50])])
        assert scorer.encoder.tokenizer.backend_tokenizer.truncation is None
    embedder = load_embedder("mini", device="cpu", dtype="float32")
    long = embedder.tokenizer("word " * 400, truncation=True, max_length=256)["input_ids"]
    assert embedder.reader.sequences(["word " * 400, "word"], 256) == [long, [101, 2773, 102]]


def test_a_query_is_never_cut_in_silence(mini):
    with pytest.raises(ValueError, match="the query takes 255 tokens, mini reads 254"):
        mini.score([ScoreRequest(["A lion."], "lion " * 255)])
    trained = Mini.load(device="cpu", dtype="float32")
    text = ["A zebra. A lion."]
    first, second = (trained.score([ScoreRequest(text, "pad " * 300 + animal)])[0][0] for animal in ("zebra", "lion"))
    assert not np.array_equal(first.evidence, second.evidence)
    with pytest.raises(ValueError, match="the query takes 511 tokens, mini reads 510: shorten it"):
        trained.score([ScoreRequest(text, "lion " * 511)])


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


@pytest.mark.parametrize("titles", [("", "", "", ""), ("Eiffel Tower", "", "A tower", "")])
def test_trained_scores_equal_loops(trained_encoder, titles):
    """Weighted best matches in the sentence, those in the whole passage and its title, the cosine of the mean states;
    per token the trigger's cosine.
    """
    model, tokenizer = trained_encoder.model, trained_encoder.tokenizer
    first = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"].index(0)

    def states(text, heading=()):
        ids = tokenizer(text)["input_ids"]
        ids = ids[:first] + list(heading) + ids[first:]
        return model.encoder(torch.tensor(ids), pack([len(ids)]))

    def unit(vector):
        return vector / vector.norm()

    question = states(QUERY)
    share, pooled = torch.nn.functional.softplus(model.shares(question.mean(0))).tolist()
    weights = torch.softmax(torch.stack([model.importance.weight[0] @ h for h in question]), dim=0)
    query = [unit(model.query.weight @ h) for h in question]
    found = Mini(trained_encoder).score([ScoreRequest(TEXTS, QUERY, titles)])[0]
    for title, text, relevance in zip(titles, TEXTS, found, strict=True):
        heading = tokenizer(title, add_special_tokens=False)["input_ids"]
        hidden = states(text, heading)
        vectors = [unit(model.passage.weight @ h) for h in hidden]
        of_title, rest = vectors[first : first + len(heading)], vectors[:first] + vectors[first + len(heading) :]
        is_special = tokenizer(text, return_special_tokens_mask=True)["special_tokens_mask"]
        passage = [vector for vector, special in zip(rest, is_special, strict=True) if not special]
        alike = float(unit(question.mean(0)) @ unit(hidden.mean(0)))
        words, first_words = segment(text)
        scores = unit_scores(word_rows(relevance, relevance.rows, words), first_words)
        whole = sum(
            float(w) * max(float(q @ p) for p in [*passage, *of_title]) for w, q in zip(weights, query, strict=True)
        )
        ends = [words[n - 1, 1] for n in first_words[1:]] + [len(text)]
        start = 0
        for score, end in zip(scores, ends, strict=True):
            of_sentence = [w for w in words if start <= w[0] < end]
            inside = [  # a token of white space belongs to no word
                p
                for p, o in zip(passage, relevance.offsets, strict=True)
                if any(o[0] < w[1] and o[1] > w[0] for w in of_sentence)
            ]
            best = sum(float(w) * max(float(q @ p) for p in inside) for w, q in zip(weights, query, strict=True))
            expected = (best + share * whole + pooled * alike) / (1 + share + pooled)
            assert score == pytest.approx(expected, abs=1e-4)
            start = end
        for score, p in zip(relevance.scores, passage, strict=True):
            assert score == pytest.approx(float(query[0] @ p), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_passages_kept_in_memory_change_no_bit(trained_encoder, dtype):
    trained_encoder.model.encoder.to(dtype)
    fresh, warm = Mini(trained_encoder, cache_bytes=0), Mini(trained_encoder)
    warm.precompute([*TEXTS, "Another passage."])
    request = ScoreRequest(TEXTS, QUERY)
    for a, b in zip(fresh.score([request])[0], warm.score([request])[0], strict=True):
        np.testing.assert_array_equal(a.rows, b.rows)
        np.testing.assert_array_equal(a.scores, b.scores)
    trained_encoder.model.encoder.to(torch.float32)


def test_a_title_is_read_and_never_kept(trained_encoder):
    named = Passage("a", "It is 330 metres tall.", metadata={"title": "The Eiffel Tower"})
    compressor = TextCompressor(Mini(trained_encoder))
    kept = [
        compressor.compress([passage], "How tall is the Eiffel Tower?", threshold=-1.0)
        for passage in (named, Passage("a", named.text), named)
    ]
    assert {result.text for result in kept} == {named.text}
    assert kept[0].passages[0].rerank_score != kept[1].passages[0].rerank_score  # one text, two requests
    assert [result.from_cache for result in kept] == [False, False, True]


def test_kept_passages_are_not_encoded_again(trained_encoder, monkeypatch):
    scorer, encoded = Mini(trained_encoder), []
    original = trained_encoder.passage_vectors
    monkeypatch.setattr(
        trained_encoder,
        "passage_vectors",
        lambda texts, titles: encoded.append(sorted(texts)) or original(texts, titles),
    )
    scorer.score([ScoreRequest(TEXTS[:2], QUERY)])
    scorer.score([ScoreRequest(TEXTS[:3], "Another question?")])
    assert encoded == [sorted(TEXTS[:2]), [TEXTS[2]]]


def test_memory_is_bounded(trained_encoder):
    scorer = Mini(trained_encoder, cache_bytes=20_000)
    for i in range(50):
        scorer.score([ScoreRequest([f"Passage number {i} is here."], QUERY)])
    cache = scorer._passages
    assert 0 < len(cache._kept) < 50
    assert cache._room >= 0
    assert ("", "Passage number 49 is here.") in cache._kept


def test_threshold_auto_is_the_calibrated_one(trained_encoder):
    compressor = TextCompressor(Mini(trained_encoder))
    auto = compressor.compress(TEXTS, QUERY, threshold="auto")
    assert auto.text == compressor.compress(TEXTS, QUERY, threshold=0.25).text
    assert TextCompressor(Mini(trained_encoder), threshold="auto").compress(TEXTS, QUERY).text == auto.text
    with pytest.raises(ValueError, match="'lexical' has no calibrated threshold"):
        load_compressor("lexical").compress(TEXTS, QUERY, threshold="auto")
    with pytest.raises(ValueError, match="threshold must be a number or 'auto', got 'often'"):
        compressor.compress(TEXTS, QUERY, threshold="often")


def test_padded_blocks_of_a_gpu_equal_the_unpadded_ones(trained_encoder, monkeypatch):
    titles = ["A title", "", "", "塔"]
    plain = trained_encoder.passage_vectors(TEXTS, titles)
    monkeypatch.setattr(trained_module, "pack", lambda lengths, step: pack(lengths, step=16))
    for a, b in zip(plain, trained_encoder.passage_vectors(TEXTS, titles), strict=True):
        for part in ("vectors", "title", "pooled"):
            torch.testing.assert_close(getattr(a, part), getattr(b, part), atol=1e-5, rtol=0)


def test_texts_are_laid_by_length_and_queries_are_cut(trained_encoder, monkeypatch):
    blocks = []
    monkeypatch.setattr(
        trained_module, "pack", lambda *given, **how: blocks.extend(found := pack(*given, **how)) or found
    )
    texts = [TEXTS[0], "Kurz.", TEXTS[1], "Kurz!", TEXTS[0]]
    passages = trained_encoder.passage_vectors(texts, ["a title", *[""] * 4])
    assert blocks
    assert all(block.first is not None for block in blocks)
    for text, passage in zip(texts[1:], passages[1:], strict=True):
        alone = trained_encoder.passage_vectors([text], [""])[0]
        torch.testing.assert_close(passage.vectors, alone.vectors, atol=1e-5, rtol=0)
    monkeypatch.setattr(trained_encoder, "max_query_tokens", 8)
    (long,) = trained_encoder.query_vectors(["word " * 50])
    assert len(long.vectors) == 8


def test_tokenizers_without_special_tokens_may_find_nothing_in_a_text(trained_encoder):
    assert not trained_encoder.reader.first
    relevance = Mini(trained_encoder).score([ScoreRequest(["", TEXTS[0], ""], QUERY), ScoreRequest([TEXTS[0]], "")])
    assert [len(found.scores) for found in relevance[0]][::2] == [0, 0]
    assert all(np.isfinite(found.rows).all() for request in relevance for found in request)
    nothing, _ = trained_encoder.passage_vectors(["", TEXTS[0]], ["", ""])
    assert not nothing.pooled.any()


def test_vectors_of_a_gpu_come_in_one_transfer():
    tensors = [torch.arange(6.0).view(3, 2), torch.zeros(0, 2), torch.ones(1, 2)]
    moved = trained_module._together(tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, moved, strict=True))
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in moved)


def test_questions_that_the_vocabulary_does_not_know_lean_on_words():
    scorer = Mini.load(device="cpu", dtype="float32")
    reader = scorer.encoder.reader
    known, strange = "How tall is the Eiffel tower in Paris?", "Какова высота башни в Париже?"
    assert strangeness(reader, known) < 0.08 < 0.5 < strangeness(reader, strange)
    assert strangeness(reader, "1889 ?!") == 0.0
    assert strangeness(reader, "ไ塔𠀀") == 1.0
    texts = ["Башня стоит в Париже. Высота башни 330 метров.", "Бананы растут в тропиках."]
    alone = Mini(scorer.encoder)
    same, mixed = ([s.score([ScoreRequest(texts, q)])[0] for s in (alone, scorer)] for q in (known, strange))
    for a, b in zip(*same, strict=True):
        np.testing.assert_array_equal(a.rows, b.rows)
    share = min(2.0, 10 * (strangeness(reader, strange) - 0.08))
    by_words = Lexical().score([ScoreRequest(texts, strange)])[0]
    for text, plain, both, lexical in zip(texts, *mixed, by_words, strict=True):
        words, first_words = segment(text)
        ours, theirs, found = (
            unit_scores(word_rows(r, r.rows, words) * r.weight, first_words) for r in (plain, lexical, both)
        )
        np.testing.assert_allclose(found, (ours + share * theirs) / (1 + share), atol=1e-5)


def test_weights_that_do_not_belong_are_refused_by_name(tmp_path):
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


def test_the_fast_form_ships_is_thinner_and_keeps_what_the_whole_one_keeps():
    whole, fast = (load_compressor("mini", device="cpu", token_budget=40, fast=fast) for fast in (False, True))
    layers = [list(found.scorer.encoder.model.encoder.layers) for found in (whole, fast)]
    sizes = [sum(p.numel() for layer in of for p in layer.parameters()) for of in layers]
    assert sizes[1] < 0.45 * sizes[0]
    passages = [Passage("a", TEXTS[0]), Passage("b", "Bananas are yellow. " * 12), Passage("c", "Paris has bridges.")]
    assert "330 metres" in fast.compress(passages, QUERY).text
    assert fast.scorer.thresholds.keys() == whole.scorer.thresholds.keys()
    vectors = [found.scorer.encoder.passage_vectors([TEXTS[0]], [""])[0].vectors for found in (whole, fast)]
    assert float((vectors[0] * vectors[1]).sum(dim=-1).mean()) > 0.8
