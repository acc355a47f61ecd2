"""The ladder: what every summarizer promises, whatever its method."""

import copy
import json
import math
import random
from fractions import Fraction
from itertools import accumulate, chain, pairwise

import numpy as np
import pytest
import torch

from ctxcompress_integrations import Passage, _registry
from ctxcompress_integrations.errors import SummaryValueError
from ctxcompress_integrations.summarizers import available_summarizers, load_summarizer, summarizer_class
from ctxcompress_integrations.summarizers.autocompressor import AutoCompressor
from ctxcompress_integrations.summarizers.base import Summarizer
from ctxcompress_integrations.summarizers.icae import Icae
from ctxcompress_integrations.summarizers.icformer import IcFormer
from ctxcompress_integrations.summarizers.pieces import aligned_cuts, batches, equal_cuts, tokens_of
from ctxcompress_integrations.summarizers.pooled import Pooled
from ctxcompress_integrations.testing.tiny import tiny_decoder, tiny_tokenizer
from ctxcompress_integrations.text.segment import segment

METHODS = ["autocompressor", "icae", "icformer", "pooled"]


def untrained(method):
    model, tokenizer = tiny_decoder("llama", n_layers=1)
    torch.manual_seed(0)
    return {
        "autocompressor": lambda: AutoCompressor.untrained(model, tokenizer, n_summary=2, segment_tokens=10),
        "icae": lambda: Icae.untrained(model, tokenizer, n_memory=2, tokens_per_slot=5, rank=2),
        "icformer": lambda: IcFormer.untrained(model, tokenizer, n_digests=2, chunk_tokens=10, n_heads=4, n_inner=8),
        "pooled": lambda: Pooled.untrained(model, tokenizer, reader=model, pool=5),
    }[method]()


@pytest.mark.parametrize("method", METHODS)
class TestEverySummarizer:
    def test_one_summary_per_passage(self, method, texts):
        summarizer = untrained(method)
        passages = [Passage(f"p{i}", text) for i, text in enumerate(texts)]
        found = summarizer.summarize(passages)
        assert [one.id for one in found] == [p.id for p in passages]
        for one, text in zip(found, texts, strict=True):
            assert one.vectors.dtype == np.float32
            assert one.width == 32
            assert one.n_tokens == len(summarizer.tokenizer(text, add_special_tokens=False)["input_ids"])
            assert one.n_vectors == summarizer.count_vectors(one.n_tokens)
            assert one.fingerprint == summarizer.fingerprint
            assert one.reader == summarizer.identity["reader"]
            assert one.adapter is None
        assert summarizer.ratio == 5.0
        assert summarizer.summarize([]) == []
        assert json.loads(json.dumps(summarizer.identity)) == summarizer.identity

    def test_numbers_are_whole_and_numpys_are_taken(self, method):
        summarizer = untrained(method)
        tighter = summarizer.at_ratio(np.int64(4)).changed(batch_tokens=np.int32(64))
        assert tighter.fingerprint == summarizer.at_ratio(4).fingerprint
        assert tighter.ratio == 4.0
        settings = zip(METHODS, ("segment_tokens", "tokens_per_slot", "chunk_tokens", "pool"), strict=True)
        for name in (dict(settings)[method], "batch_tokens"):
            for wrong in (0, 2.5, True, "4"):
                with pytest.raises(ValueError, match=f"{name} must be an int >= 1, got {wrong!r}"):
                    summarizer.changed(**{name: wrong})

    def test_equal_texts_run_once_and_share_no_memory(self, method, monkeypatch):
        summarizer = untrained(method)
        seen = []
        encode = summarizer.encode
        monkeypatch.setattr(summarizer, "encode", lambda pieces: seen.extend(pieces) or encode(pieces))
        found = summarizer.summarize(["Paris.", "The dog.", "Paris."])
        assert len(seen) == 2
        assert [one.id for one in found] == ["0", "1", "2"]
        found[0].vectors[:] = 7.0
        assert not (found[2].vectors == 7.0).any()

    def test_bad_passages(self, method, monkeypatch):
        summarizer = untrained(method)
        monkeypatch.setattr(summarizer, "encode", lambda pieces: pytest.fail("it ran"))
        for passages, message in [
            (["fine", " \n\t"], "the passage '1' has no text"),
            ([Passage("a", "")], "the passage 'a' has no text"),
            ([Passage("a", None)], "must be str"),
            ([3], "must be a Passage or a str, got int"),
            ("text", "wrap it in a list"),
            ([Passage("a", "x"), Passage("a", "y")], "'a' occurs twice"),
        ]:
            with pytest.raises(ValueError, match=message):
                summarizer.summarize(passages)
        with pytest.raises(ValueError, match="at least 1 token, got 0"):
            summarizer.count_vectors(0)

    def test_values_that_are_not_finite_are_named(self, method):
        summarizer = untrained(method)
        bad = summarizer.tokenizer("tower")["input_ids"][-1]
        with torch.no_grad():
            summarizer.model.get_input_embeddings().weight[bad] = float("nan")
        with pytest.raises(SummaryValueError, match="summary of the passage 'b' has values that are not finite"):
            summarizer.summarize([Passage("a", "dog"), Passage("b", "tower")])

    def test_text_that_no_encoding_has(self, method):
        (one,) = untrained(method).summarize(["half \ud83d of a pair"])
        assert np.isfinite(one.vectors).all()

    def test_progress_counts_passages(self, method, texts):
        summarizer = untrained(method)
        summarizer.batch_tokens = 30
        calls = []
        summarizer.summarize([*texts, texts[0]], progress=lambda done, total: calls.append((done, total)))
        assert {total for _, total in calls} == {6}
        done = [count for count, _ in calls]
        assert done == sorted(done)
        assert done[-1] == 6
        assert len(done) == 5

    def test_flags_and_gradients_stay(self, method, texts):
        summarizer = untrained(method)
        summarizer.model.train()
        summarizer.module.train()
        found = summarizer.summarize(texts[:2])
        assert summarizer.model.training
        assert summarizer.module.training
        assert isinstance(found[0].vectors, np.ndarray)
        pieces = [[summarizer.tokenizer(texts[1])["input_ids"][:8]]]
        assert all(vectors.requires_grad for vectors in summarizer.encode(pieces))

    def test_segments_that_end_where_sentences_end(self, method):
        summarizer = untrained(method)
        summarizer.align = "sentences"
        text = "The tower is old. A dog ran. It was very, very late."
        (whole,) = summarizer.summarize([text])
        assert whole.n_vectors == summarizer.count_vectors(whole.n_tokens)
        (tokens,) = tokens_of(summarizer.tokenizer, [text], sentences=True)
        pieces = summarizer._pieces(tokens, "0")
        flat = [segment for piece in pieces for segment in piece]
        assert [*chain(*flat)] == [*[summarizer.tokenizer.bos_token_id] * summarizer.has_bos, *tokens.ids]
        assert tokens.sentences[0] + summarizer.has_bos in accumulate(map(len, flat))
        vectors = torch.cat(summarizer.encode(pieces)).detach()
        torch.testing.assert_close(torch.as_tensor(whole.vectors), vectors, atol=1e-5, rtol=0)
        summarizer.align = "tokens"
        (plain,) = summarizer.summarize([text])
        assert plain.n_vectors == whole.n_vectors
        assert not np.allclose(plain.vectors, whole.vectors)

    def test_the_fingerprint_is_of_what_decides_the_values(self, method):
        summarizer = untrained(method)
        first = summarizer.fingerprint
        same = copy.deepcopy(summarizer)
        same.model.to(torch.bfloat16)
        same.module.to(torch.bfloat16)
        same.batch_tokens = 17
        same.__dict__.pop("bases", None)
        assert same.fingerprint == first
        for name, parameter in summarizer.module.named_parameters():
            other = copy.deepcopy(summarizer)
            with torch.no_grad():
                other.module.get_parameter(name)[..., 0] += 1.0
            assert other.fingerprint != first, name
            assert parameter is summarizer.module.get_parameter(name)
        other = copy.deepcopy(summarizer)
        other.__dict__.pop("bases", None)
        with torch.no_grad():
            other.model.get_input_embeddings().weight[0, 0] += 1.0
        assert other.fingerprint != first
        other = copy.deepcopy(summarizer)
        other.__dict__.pop("bases", None)
        other.tokenizer = tiny_tokenizer("metaspace")
        assert other.fingerprint != first
        for name in summarizer.config:
            other = copy.deepcopy(summarizer)
            value = getattr(other, name)
            setattr(other, name, not value if isinstance(value, bool) else 6 if isinstance(value, int) else "else")
            assert other.fingerprint != first, name
        assert summarizer.fingerprint == first


def test_the_adapters_strength_is_in_the_fingerprint():
    summarizer = untrained("icae")
    first = summarizer.fingerprint
    summarizer.module.adapter.alpha *= 2
    assert summarizer.fingerprint != first


def test_the_reader_is_in_the_fingerprint_of_pooled():
    summarizer = untrained("pooled")
    other = Pooled(summarizer.model, summarizer.tokenizer, summarizer.module, reader="0" * 64, pool=5)
    assert other.fingerprint != summarizer.fingerprint


@pytest.mark.parametrize(
    ("n", "longest", "multiple", "lengths"),
    [
        (1, 512, 1, [1]),
        (512, 512, 1, [512]),
        (513, 512, 1, [257, 256]),
        (5, 2, 1, [2, 2, 1]),
        (9, 4, 4, [4, 4, 1]),
        (10, 8, 4, [8, 2]),
        (17, 12, 3, [9, 8]),
        (5, 1, 1, [1, 1, 1, 1, 1]),
        (13, 3, 1, [3, 3, 3, 3, 1]),
    ],
)
def test_equal_cuts(n, longest, multiple, lengths):
    assert equal_cuts(n, longest, multiple=multiple) == lengths


def test_every_cut_is_short_enough_and_nothing_is_lost():
    for longest in (4, 8, 12):
        for n in range(1, 200):
            cuts = equal_cuts(n, longest, multiple=4)
            assert sum(cuts) == n
            assert max(cuts) <= longest
            assert min(cuts) >= 1
            assert not any(length % 4 for length in cuts[:-1])


def slow_aligned(n_tokens, n_segments, ends):
    cuts = [0]
    for i in range(1, n_segments):
        middle, half = Fraction(i * n_tokens, n_segments), Fraction(n_tokens, 2 * n_segments)
        near = [end for end in ends if middle - half < end <= middle + half]
        cuts.append(min(near, key=lambda end: abs(end - middle)) if near else math.floor(middle + Fraction(1, 2)))
    return [after - before for before, after in pairwise([*cuts, n_tokens])]


def test_aligned_cuts_lose_nothing_and_stay_near():
    draw = random.Random(0)
    for _ in range(600):
        n_tokens = draw.randint(1, 60)
        n_segments = draw.randint(1, n_tokens)
        ends = sorted(draw.sample(range(1, n_tokens + 1), draw.randint(0, n_tokens)))
        lengths = aligned_cuts(n_tokens, n_segments, ends)
        assert lengths == slow_aligned(n_tokens, n_segments, ends)
        assert len(lengths) == n_segments
        assert sum(lengths) == n_tokens
        assert min(lengths) >= 1
        assert max(lengths) < 2 * n_tokens / n_segments or n_segments == 1


@pytest.mark.parametrize("style", ["byte", "metaspace"])
def test_a_sentence_begins_at_the_token_that_reaches_into_it(style):
    tokenizer = tiny_tokenizer(style)
    texts = ["One here. Two there.\nThree.", "no end", "Größe 5. Ça va? 是的。好。"]
    for text, found in zip(texts, tokens_of(tokenizer, texts, sentences=True), strict=True):
        words, firsts = segment(text)
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        starts = [words[i, 0] for i in firsts[1:]]
        wanted = [next(i for i, (_, end) in enumerate(offsets) if end > start) for start in starts]
        assert found.sentences == sorted({*wanted})
        assert found.ids == tokens_of(tokenizer, [text])[0].ids
        assert len(wanted) == {"One here. Two there.\nThree.": 2, "no end": 0}.get(text, len(wanted))


def test_batches_stay_in_their_budget_and_hold_everything_once():
    widths = [7, 3, 50, 3, 9, 8]
    found = list(batches(widths, 20))
    assert found == [[1, 3], [0, 5], [4], [2]]
    assert list(batches(widths, 1)) == [[i] for i in (1, 3, 0, 5, 4, 2)]
    assert list(batches([], 5)) == []


def test_registry(monkeypatch):
    assert available_summarizers() == METHODS
    assert [summarizer_class(name).name for name in METHODS] == METHODS
    with pytest.raises(ValueError, match="there is no summarizer 'nope'; known names: autocompressor, icae"):
        load_summarizer("nope")

    class Theirs(Summarizer):
        name = "theirs"

    class Point:
        name = "theirs"
        load = staticmethod(lambda: Theirs)

    monkeypatch.setattr(_registry, "entry_points", lambda group: [Point])
    assert summarizer_class("theirs") is Theirs
    assert "theirs" in available_summarizers()
    with pytest.raises(NotImplementedError, match="Theirs is built from objects"):
        load_summarizer("theirs")
