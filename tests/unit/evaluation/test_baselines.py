"""Every baseline against its definition written out, and against the input that breaks other people's code."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForTokenClassification

from ctxcompress_integrations.compressor import TextCompressor
from ctxcompress_integrations.errors import ModelLoadError, UnsupportedModelError
from ctxcompress_integrations.evaluation.baselines import BASELINES, baseline_class
from ctxcompress_integrations.evaluation.baselines.base import batches, sentences_of, word_means
from ctxcompress_integrations.evaluation.baselines.longllmlingua import RESTRICTION, LongLLMLinguaRank
from ctxcompress_integrations.evaluation.baselines.passage_vectors import PassageVectors
from ctxcompress_integrations.evaluation.baselines.provence import Provence
from ctxcompress_integrations.evaluation.baselines.random import Random
from ctxcompress_integrations.evaluation.baselines.selective_context import SelectiveContext
from ctxcompress_integrations.evaluation.baselines.sentence_vectors import SentenceVectors
from ctxcompress_integrations.evaluation.baselines.token_classifier import TokenClassifier
from ctxcompress_integrations.hf.encoder import TextEncoder
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.testing.tiny import tiny_decoder, tiny_encoder, tiny_tokenizer
from ctxcompress_integrations.text.relevance import unit_scores, word_rows
from ctxcompress_integrations.text.segment import segment

QUERY = "How tall is the tower?"
TEXTS = [
    "The fox jumps over the dog. The river is near the bank.",
    "The tower was built in 1889. It is 330 metres tall, said Zoë. Paris is the capital of France.",
    "敏捷的棕色狐狸跳过了懒狗。 Yes.",
    "One word more than the tower has, near the lazy river.",
]
HOSTILE = [
    "",
    " \n\t ",
    "Word",
    "👩‍👩‍👧 🎉. 🇫🇷!",
    "word " * 5000,
    "A lone \ud800 one. And </s> another.",
    "\u200b",
    "\ud800",
]


class Pruner:
    """A Provence whose probabilities are known: that of a sentence is its number of words / 10."""

    def __init__(self):
        self.calls = []

    def process(self, question, context, threshold=0.1, show_progress=True):
        self.calls.append((threshold, show_progress))
        kept = [s for s in sentences_of(context) if len(s.split()) / 10 > threshold]
        return {"reranking_score": 1.0, "pruned_context": " ".join(kept)}


def tiny_classifier(seed=0):
    tokenizer = tiny_tokenizer("byte", chat_template=None)
    tokenizer.cls_token, tokenizer.sep_token = "<s>", "</s>"
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        num_labels=2,
    )
    return BertForTokenClassification(config).eval(), tokenizer


def make(name):
    """A baseline on tiny models."""
    made = {
        "selective_context": lambda: SelectiveContext(*tiny_decoder("gpt2", n_layers=1)),
        "longllmlingua": lambda: LongLLMLinguaRank(*tiny_decoder("qwen2", n_layers=1)),
        "passage_vectors": lambda: PassageVectors(TextEncoder(*tiny_encoder(n_layers=1), name="tiny")),
        "sentence_vectors": lambda: SentenceVectors(TextEncoder(*tiny_encoder(n_layers=1), name="tiny")),
        "token_classifier": lambda: TokenClassifier(*tiny_classifier()),
        "provence": lambda: Provence(Pruner()),
    }
    return made.get(name, baseline_class(name))()


def values_of(scorer, texts, query=QUERY):
    """What selection sees: the value of every sentence of every text."""
    found = []
    for text, relevance in zip(texts, scorer.score([ScoreRequest(texts, query)])[0], strict=True):
        words, first_words = segment(text)
        found.append(unit_scores(word_rows(relevance, relevance.rows, words) * relevance.weight, first_words))
    return found


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline(name):
    scorer = make(name)
    assert scorer.name == name
    together = scorer.score([ScoreRequest(TEXTS, QUERY), ScoreRequest(TEXTS[:1], "When?"), ScoreRequest([], QUERY)])
    assert [len(relevances) for relevances in together] == [4, 1, 0]
    again = make(name).score([ScoreRequest(TEXTS, QUERY)])[0]
    for text, one, other in zip(TEXTS, together[0], again, strict=True):
        words, first_words = segment(text)
        assert one.scores.dtype == one.evidence.dtype == np.float32
        assert one.offsets.shape == (one.scores.size, 2)
        assert one.evidence.shape == (1, one.scores.size)
        np.testing.assert_array_equal(one.evidence, other.evidence)  # neither chance nor company
        np.testing.assert_array_equal(one.scores, other.scores)
        rows = word_rows(one, one.rows, words)[0]
        for sentence in np.split(rows, first_words[1:]):
            np.testing.assert_array_equal(sentence, sentence[0])
    assert scorer.count_tokens("The tower, again.") >= 3


@pytest.mark.parametrize("name", BASELINES)
def test_hostile_text(name):
    scorer = make(name)
    for text, relevance in zip(HOSTILE, scorer.score([ScoreRequest(HOSTILE, QUERY)])[0], strict=True):
        assert np.isfinite(relevance.scores).all()
        assert np.isfinite(relevance.rows).all()
        assert relevance.offsets.max(initial=0) <= len(text)
        assert bool(relevance.scores.size) == bool(text.strip())
    for query in ("the", "🎉", "\ud800?", "qqq zzz"):
        scorer.score([ScoreRequest(TEXTS, query), ScoreRequest(["One sentence."], query)])
    for unit in ("sentence", "phrase", "dynamic"):
        result = TextCompressor(scorer).compress(HOSTILE, QUERY, token_budget=30, unit=unit)
        assert 0 < result.n_tokens_out <= 30


def test_registry():
    assert all(baseline_class(name).name == name for name in BASELINES)
    with pytest.raises(ValueError, match="known names: bm25, lead"):
        baseline_class("nope")
    with pytest.raises(ValueError, match="takes no model"):
        baseline_class("bm25").load(model="x")
    for name in ("selective_context", "longllmlingua", "token_classifier", "provence"):
        with pytest.raises(ValueError, match="pass model="):
            baseline_class(name).load()


def test_batches_hold_one_length_unless_padded():
    lengths = [5, 3, 5, 40, 3, 4]
    assert list(batches(lengths, 12, pads=False)) == [[1, 4], [5], [0, 2], [3]]
    assert list(batches(lengths, 12, pads=True)) == [[1, 4, 5], [0, 2], [3]]


def test_word_means_over_tokens_that_touch():
    words = np.array([[0, 4], [5, 7], [8, 9]])
    tokens = np.array([[0, 2], [2, 4], [4, 7], [2, 6]])
    np.testing.assert_allclose(word_means([1.0, 3.0, 5.0, 8.0], tokens, words), [4.0, 6.5, 0.0])


def test_random_is_seeded_and_knows_neither_order_nor_the_other_texts():
    first, second = Random(0), Random(1)
    forwards = first.score([ScoreRequest(TEXTS, QUERY)])[0]
    backwards = first.score([ScoreRequest(TEXTS[::-1], QUERY)])[0][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
    assert not np.array_equal(forwards[0].scores, second.score([ScoreRequest(TEXTS, QUERY)])[0][0].scores)
    assert not np.array_equal(forwards[0].scores, first.score([ScoreRequest(TEXTS, "Why?")])[0][0].scores)
    twins = first.score([ScoreRequest([TEXTS[0], TEXTS[0]], QUERY)])[0]
    assert not np.array_equal(twins[0].scores, twins[1].scores)
    many = np.concatenate(values_of(first, ["Yes. " * 2000]))
    assert 0.45 < many.mean() < 0.55


def test_lead_keeps_the_beginning():
    values = np.concatenate(values_of(make("lead"), TEXTS))
    np.testing.assert_array_equal(values, -np.arange(len(values)))
    result = TextCompressor(make("lead")).compress(TEXTS, QUERY, token_budget=25, unit="dynamic")
    assert " ".join(TEXTS).startswith(" ".join(p.text for p in result.passages if p.text))
    assert result.n_tokens_out == 25


def test_bm25_over_all_sentences(capfd):
    import bm25s

    sentences = [s for text in TEXTS for s in sentences_of(text)]
    index = bm25s.BM25(method="lucene")
    index.index(bm25s.tokenize(sentences, show_progress=False), show_progress=False)
    order, scores = index.retrieve(
        bm25s.tokenize([QUERY], show_progress=False), k=len(sentences), show_progress=False, sorted=True
    )
    expected = np.empty(len(sentences), dtype=np.float32)
    expected[order[0]] = scores[0]
    capfd.readouterr()
    found = np.concatenate(values_of(make("bm25"), TEXTS))
    assert capfd.readouterr() == ("", "")
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert sentences[found.argmax()] == "It is 330 metres tall, said Zoë."
    assert not np.concatenate(values_of(make("bm25"), TEXTS, "who is it")).any()


def test_sentence_vectors_are_cosines():
    scorer = make("sentence_vectors")
    for text, values in zip(TEXTS, values_of(scorer, TEXTS), strict=True):
        expected = [
            float(scorer.embedder.embed_query(s) @ scorer.embedder.embed_query(QUERY)) for s in sentences_of(text)
        ]
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_passage_vectors_are_retrieval_with_titles():
    scorer = make("passage_vectors")
    titles = ["Towers", "", "Fruit", ""]
    found = scorer.score([ScoreRequest(TEXTS[:4], QUERY, titles)])[0]
    for title, text, relevance in zip(titles, TEXTS, found, strict=False):
        embedded = f"{title}\n{text}" if title else text
        cosine = float(scorer.embedder.embed_query(embedded) @ scorer.embedder.embed_query(QUERY))
        assert relevance.scores[0] == pytest.approx(cosine, abs=1e-5)
        assert (np.diff(relevance.scores) <= 0).all()


def log_p(model, sequence, first):
    """Log-likelihood of each token from ``first`` on, one forward per token over what stands before it."""
    found = []
    for at in range(first, len(sequence)):
        with torch.no_grad():
            logits = model(torch.tensor([sequence[:at]])).logits[0, -1]
        found.append(float(torch.log_softmax(logits.double(), dim=0)[sequence[at]]))
    return np.array(found)


CASES = [
    (architecture, dtype, pads)
    for architecture in ("qwen2", "gpt2")
    for dtype in (torch.float32, torch.bfloat16)
    for pads in (False, True)
]


@pytest.mark.parametrize(("architecture", "dtype", "pads"), CASES)
def test_selective_context_equals_its_definition(architecture, dtype, pads):
    model, tokenizer = tiny_decoder(architecture, n_layers=2)
    model.to(dtype)
    scorer = SelectiveContext(model, tokenizer, pads=pads)
    relevances = scorer.score([ScoreRequest(TEXTS, QUERY)])[0]
    atol = 1e-4 if dtype is torch.float32 else 0.08  # a logit near 8 has steps of 1/16 in bf16
    for text, relevance, values in zip(TEXTS, relevances, values_of(scorer, TEXTS), strict=True):
        ids = [tokenizer(s, add_special_tokens=False)["input_ids"] for s in sentences_of(text)]
        expected = [-log_p(model, [tokenizer.bos_token_id, *sentence], 1) for sentence in ids]
        np.testing.assert_allclose(relevance.scores, np.concatenate(expected), atol=atol)
        np.testing.assert_allclose(values, [e.mean() for e in expected], atol=atol)
        if not pads:
            alone = scorer.score([ScoreRequest([text], "Another query")])[0][0]
            np.testing.assert_allclose(relevance.scores, alone.scores, atol=1e-3)


def test_bf16_models_get_an_exact_softmax():
    model, tokenizer = tiny_decoder("qwen2", n_layers=1)
    scorer = SelectiveContext(model.to(torch.bfloat16), tokenizer)
    text = "The tower was built in 1889."
    sequence = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        log_probabilities = model(sequence).logits[0, :-1].double().log_softmax(-1)
    expected = -log_probabilities.gather(1, sequence[0, 1:, None])[:, 0]
    np.testing.assert_allclose(scorer.score([ScoreRequest([text], QUERY)])[0][0].scores, expected, atol=1e-4)


def test_a_special_token_in_a_text_is_text():
    _, tokenizer = tiny_decoder("llama")
    scorer = make("selective_context")
    assert len(tokenizer("</s>", add_special_tokens=False)["input_ids"]) == 1
    assert scorer.count_tokens("</s>") > 1


@pytest.mark.parametrize(("architecture", "dtype", "pads"), CASES)
def test_longllmlingua_equals_its_definition(architecture, dtype, pads):
    model, tokenizer = tiny_decoder(architecture, n_layers=2)
    model.to(dtype)
    scorer = LongLLMLinguaRank(model, tokenizer, pads=pads)
    question = tokenizer(QUERY + RESTRICTION, add_special_tokens=False)["input_ids"]
    atol = 1e-4 if dtype is torch.float32 else 0.05
    for text, values in zip(TEXTS, values_of(scorer, TEXTS), strict=True):
        document = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        expected = log_p(model, [*document, *question], len(document)).mean()
        assert values[0] == pytest.approx(expected, abs=atol)
        assert (np.diff(values) < 0).all()
        assert values[0] - values[-1] < 1e-4
        if not pads:
            np.testing.assert_allclose(values, values_of(scorer, [text])[0], atol=1e-3)


def test_longllmlingua_takes_documents_one_after_the_other():
    scorer = make("longllmlingua")
    values = values_of(scorer, TEXTS)
    best = max(range(len(TEXTS)), key=lambda i: values[i][0])
    result = TextCompressor(scorer).compress(TEXTS, QUERY, token_budget=scorer.count_tokens(TEXTS[best]))
    assert [p.text for p in result.passages] == [t if i == best else "" for i, t in enumerate(TEXTS)]
    twins = values_of(scorer, [TEXTS[0], TEXTS[0]])
    np.testing.assert_array_equal(*twins)


def test_longllmlingua_reads_what_fits():
    model, tokenizer = tiny_decoder("llama", n_layers=1, n_positions=160)
    scorer = LongLLMLinguaRank(model, tokenizer)
    room = 160 - 1 - scorer.count_tokens(QUERY + RESTRICTION)
    long = "near the river " * 200
    offsets = tokenizer(long, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    cut = long[: offsets[room - 1][1]]
    assert values_of(scorer, [long])[0][0] == pytest.approx(values_of(scorer, [cut])[0][0], abs=1e-6)
    with pytest.raises(ValueError, match="leaves no room"):
        scorer.score([ScoreRequest(TEXTS, "why " * 200)])


def test_selective_context_loses_nothing_of_a_long_sentence():
    model, tokenizer = tiny_decoder("llama", n_layers=1)
    text = "the tower near the river " * 30
    whole = SelectiveContext(model, tokenizer).score([ScoreRequest([text], QUERY)])[0][0]
    cut = SelectiveContext(model, tokenizer, max_tokens=21).score([ScoreRequest([text], QUERY)])[0][0]
    np.testing.assert_array_equal(whole.offsets, cut.offsets)
    np.testing.assert_allclose(whole.scores[:20], cut.scores[:20], atol=1e-4)
    ids = tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
    second = -log_p(model, [tokenizer.bos_token_id, *ids[10:30]], 11)  # the second window starts 10 tokens back
    np.testing.assert_allclose(cut.scores[20:30], second, atol=1e-4)


@pytest.mark.parametrize("missing", ["bos", "bos and eos"])
def test_tokenizer_without_bos(missing):
    model, tokenizer = tiny_decoder("llama", n_layers=1)
    tokenizer.bos_token = None
    if missing == "bos and eos":
        tokenizer.eos_token = None
    scorer = SelectiveContext(model, tokenizer)
    relevance, single, _ = scorer.score([ScoreRequest(["The tower was built.", "T", ""], QUERY)])[0]
    ids = tokenizer("The tower was built.", add_special_tokens=False)["input_ids"]
    if missing == "bos":
        expected = -log_p(model, [tokenizer.eos_token_id, *ids], 1)
    else:
        rest = -log_p(model, ids, 1)
        expected = [rest.mean(), *rest]
        assert single.scores == [0.0]
    np.testing.assert_allclose(relevance.scores, expected, atol=1e-4)
    assert np.isfinite(np.concatenate(values_of(LongLLMLinguaRank(model, tokenizer), HOSTILE))).all()


@pytest.mark.parametrize("pads", [False, True])
def test_token_classifier_equals_its_definition(pads):
    model, tokenizer = tiny_classifier()
    texts = [*TEXTS, "The tower is tall. " * 12, "tower river " * 20]
    scorer = TokenClassifier(model, tokenizer, max_tokens=40, pads=pads)
    for text, relevance in zip(texts, scorer.score([ScoreRequest(texts, QUERY)])[0], strict=True):
        words, first_words = segment(text)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        starts = set(words[first_words, 0].tolist())
        window, p = [], []
        sentences = []
        for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if not sentences or any(start <= s < end for s in starts):
                sentences.append([])
            sentences[-1].append(token)
        pieces = [s[i : i + 38] for s in sentences for i in range(0, len(s), 38)]
        for piece in [*pieces, None]:
            if piece is None or len(window) + len(piece) > 38:
                with torch.no_grad():
                    logits = model(torch.tensor([[tokenizer.cls_token_id, *window, tokenizer.sep_token_id]])).logits
                p += logits[0].softmax(-1)[1:-1, 1].tolist()
                window = []
            window = window + (piece or [])
        touching = [
            [v for v, (a, b) in zip(p, encoded["offset_mapping"], strict=True) if a < end and b > start]
            for start, end in words
        ]
        expected = np.array([np.mean(values) for values in touching])
        np.testing.assert_allclose(relevance.scores, expected, atol=1e-5)
        means = [part.mean() for part in np.split(expected, first_words[1:])]
        np.testing.assert_allclose(relevance.evidence[0][first_words], means, atol=1e-5)


def test_provence_climbs_the_ladder():
    pruner = Pruner()
    text = "Yes. It is tall. It was built\nin the long year 1889."
    values = values_of(Provence(pruner, ladder=(0.1, 0.2, 0.5, 0.7, 0.9, 0.95)), [text, ""])
    np.testing.assert_allclose(values[0], [0.0, 0.2, 0.7])
    assert [threshold for threshold, _ in pruner.calls] == [0.1, 0.2, 0.5, 0.7, 0.9]  # nothing survives 0.9: enough
    assert not any(show_progress for _, show_progress in pruner.calls)
    with pytest.raises(UnsupportedModelError, match="process"):
        Provence(object())
    with pytest.raises(ValueError, match="ascending"):
        Provence(pruner, ladder=(0.5, 0.1))


def test_checkpoints_are_loaded_by_folder(tmp_path):
    model, tokenizer = tiny_classifier()
    model.save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    loaded = TokenClassifier.load(model=str(tmp_path / "classifier"), device="cpu", dtype="float32")
    for one, other in zip(values_of(loaded, TEXTS), values_of(make("token_classifier"), TEXTS), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    model, tokenizer = tiny_decoder("gpt2", n_layers=1)
    model.save_pretrained(tmp_path / "decoder")
    tokenizer.save_pretrained(tmp_path / "decoder")
    loaded = SelectiveContext.load(model=str(tmp_path / "decoder"), device="cpu", dtype="float32")
    for one, other in zip(values_of(loaded, TEXTS), values_of(make("selective_context"), TEXTS), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


REMOTE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel

class Config(PretrainedConfig):
    model_type = "tiny_pruner"

class Model(PreTrainedModel):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.post_init()

    def process(self, question, context, threshold=0.1):
        return {"pruned_context": context if threshold < 0.3 else ""}
"""


def test_remote_code_runs_only_when_asked(tmp_path, monkeypatch):
    import json

    from safetensors.torch import save_file

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "pruner"
    folder.mkdir()
    (folder / "modeling.py").write_text(REMOTE)
    auto = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "tiny_pruner", "auto_map": auto}))
    save_file({"scale": torch.ones(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match="trust_remote_code=True"):
        Provence.load(model=str(folder))
    assert not (tmp_path / "modules").exists()
    scorer = Provence.load(model=str(folder), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(values_of(scorer, ["The tower."])[0], [0.2])
