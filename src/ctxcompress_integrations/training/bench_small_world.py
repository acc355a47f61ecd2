"""``ctxcompress bench small-world``: what the weights that ship can do, on documents that none of them has seen.

Documents are of the split "test"; every question is single, so that none can be answered by elimination. The reader
answers from the text, from nothing, and from what each summarizer made of the text. An adapter is trained here, by
:func:`~ctxcompress_integrations.training.lloco.train_lloco`, on other documents of the domain that the weights never
saw. Then whole roads run, from a question to an answer, through an index.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from ctxcompress_integrations.allocation import Allowed, label
from ctxcompress_integrations.evaluation.datasets import Example
from ctxcompress_integrations.evaluation.rows import Row
from ctxcompress_integrations.hf.load import SMALL_WORLD, load_decoder, shipped
from ctxcompress_integrations.index.compressed_index import CompressedIndex
from ctxcompress_integrations.loading import load_compressor
from ctxcompress_integrations.pipeline import Pipeline
from ctxcompress_integrations.readers.hf import HFReader
from ctxcompress_integrations.records import SummaryVectors
from ctxcompress_integrations.summarizers import load_summarizer
from ctxcompress_integrations.summarizers.token_summarizer import TokenSummarizer
from ctxcompress_integrations.training import world
from ctxcompress_integrations.training.exact import exact_match, is_exact
from ctxcompress_integrations.training.lloco import train_lloco
from ctxcompress_integrations.training.lloco_course import LlocoRecipe
from ctxcompress_integrations.training.small_world import part_file
from ctxcompress_integrations.training.small_world_plan import PARTS, TIGHT
from ctxcompress_integrations.training.small_world_studies import among, asked
from ctxcompress_integrations.training.world import Document

N_QUESTIONS = 500
N_ADAPTED, N_ROAD, N_TIMED, N_NEW = 1500, 600, 60, 4
AMONG = {"text": (3,), "vectors": (3, 8)}
"""Passages that resemble each other, all read; eight are longer as text than the reader's 512 positions."""
BUDGETS = (48, 72, 96, 144, 216)
LLOCO = LlocoRecipe(lr=1e-3, epochs=4, batch=16, precision="bf16")
"""The paper's rank and schedule; a model of 11 M parameters takes a larger step than one of 7 B."""
SHARE = "share of questions"
Report = Callable[[Row], None]


class _Parts(NamedTuple):
    """What was trained, loaded."""

    lm: Any
    tokenizer: Any
    reader: HFReader
    summarizers: dict[str, TokenSummarizer[Any]]
    device: str


def bench_small_world(
    report: Report, *, weights: Path | None = None, device: str = "auto", n: int = N_QUESTIONS
) -> None:
    """Measure and hand each row to ``report`` as soon as it is known.

    Args:
        report: called with every row.
        weights: folder of ``ctxcompress train small-world``; None for the weights that ship.
        device: as for :func:`~ctxcompress_integrations.loading.load_compressor`.
        n: questions of each measure.
    """
    parts = _loaded(weights, device)
    _answers(report, parts, n)
    _among(report, parts, n)
    _unseen_domain(report, parts, n)
    with tempfile.TemporaryDirectory(prefix="ctxcompress-bench-") as folder:
        _roads(report, parts, Path(folder))
        _codecs(report, parts, Path(folder), n)


def _loaded(weights: Path | None, device: str) -> _Parts:
    def of(part: str) -> Path:
        return shipped(part) if weights is None else part_file(weights, part)

    model = SMALL_WORLD if weights is None else str(of("reader"))
    lm, tokenizer = load_decoder(model, device=device)
    summarizers = {
        part: cast(TokenSummarizer[Any], load_summarizer(part, model=model, weights=of(part), device=device))
        for part in PARTS
    }
    return _Parts(lm, tokenizer, HFReader(lm, tokenizer), summarizers, device)


def _answers(report: Report, parts: _Parts, n: int) -> None:
    """Text, nothing, and every summarizer, on unseen documents of trained domains."""
    examples = asked(world.documents(world.TRAINED, "test", n))
    where = "unseen documents of trained domains"
    full = exact_match(parts.reader, examples)
    report(Row(f"{where}, full text: exact match", full, SHARE, ">= 0.95", n))
    nothing = exact_match(parts.reader, examples, has_context=False)
    report(Row(f"{where}, no text: exact match", nothing, SHARE, "<= 0.10", n))
    found = {}
    for part, summarizer in parts.summarizers.items():
        found[part] = exact_match(parts.reader, examples, summarize=summarizer.summarize)
        report(Row(f"{where}, {part}: exact match", found[part], SHARE, n=n))
        bound = {"autocompressor": ">= 0.90", "icae": ">= 0.90"}.get(part)
        _share(report, f"{where}, {part} / full text", found[part], full, bound, n)
        report(Row(f"{where}, {part}: positions, text / vectors", _saved(parts, summarizer, examples), "x", ">= 8", n))
    for part in ("icformer", "pooled"):
        _share(report, f"{where}, {part} / icae", found[part], found["icae"], ">= 0.90", n)


def _among(report: Report, parts: _Parts, n: int) -> None:
    """The right document among others that resemble it."""
    documents, summarizer = list(world.documents(world.TRAINED, "test", 4 * n)), parts.summarizers["autocompressor"]
    for form, sizes in AMONG.items():
        for size in sizes:
            write = summarizer.summarize if form == "vectors" else None
            found = exact_match(parts.reader, among(documents, size, n), summarize=write)
            report(Row(f"among {size} documents that resemble each other, {form}: exact match", found, SHARE, n=n))


def _share(report: Report, measure: str, part: float, whole: float, target: str | None, n: int) -> None:
    """One share of right answers over another; there is none of nothing."""
    value, why = (part / whole, None) if whole else (None, "no answer is right that it could be compared with")
    report(Row(measure, value, "x", target, n, why=why))


def _saved(parts: _Parts, summarizer: TokenSummarizer[Any], examples: Sequence[Example]) -> float:
    """Positions of passages as text over those of their vectors, labels included."""
    counts = [parts.reader.count_tokens(example.passages[0].text) for example in examples]
    n_label = parts.reader.count_tokens(label(1, ""))
    return sum(c + n_label for c in counts) / sum(summarizer.count_vectors(c) + n_label for c in counts)


def _unseen_domain(report: Report, parts: _Parts, n: int) -> None:
    """LLoCO: an adapter on the summaries of a corpus from a domain that nothing was trained on."""
    summarizer, where = parts.summarizers["autocompressor"].at_ratio(TIGHT), "unseen domain"
    known = list(world.documents(world.HELD_OUT, "train", N_ADAPTED))
    new = list(world.documents(world.HELD_OUT, "test", n))
    examples = asked(new)
    full = exact_match(parts.reader, examples)
    report(Row(f"{where}, full text: exact match", full, SHARE, n=n))
    report(Row(f"{where}: positions, text / vectors", _saved(parts, summarizer, examples), "x", n=n))
    tokens = sum(parts.reader.count_tokens(one.text) for one in new)
    vectors = sum(summarizer.count_vectors(parts.reader.count_tokens(one.text)) for one in new)
    report(Row(f"{where}: tokens / vectors", tokens / vectors, "x", ">= 16", n))
    with tempfile.TemporaryDirectory(prefix="ctxcompress-bench-") as folder:
        index = _index(Path(folder) / "index", [*known, *new], embedder=None)
        with index:
            index.build_summaries(summarizer)
            held = partial(_held, index, {d.text: d.id for d in new}, summarizer.fingerprint)
            before = exact_match(parts.reader, examples, summarize=held)
            report(Row(f"{where}, summaries without adapter: exact match", before, SHARE, n=n))
            started = time.perf_counter()
            lessons = [example for one in known for example in one.examples]
            train_lloco(index, parts.lm, parts.tokenizer, lessons, Path(folder) / "adapter", LLOCO)
            report(Row("training the adapter", time.perf_counter() - started, "s"))
            name = str((Path(folder) / "adapter").resolve())
            reader = HFReader(parts.lm, parts.tokenizer, adapters={name: name})
            after = exact_match(reader, examples, summarize=held)
    report(Row(f"{where}, summaries with adapter: exact match", after, SHARE, n=n))
    report(Row(f"{where}: gain of the adapter", 100 * (after - before), "points", ">= 15", n))
    _share(report, f"{where}: with adapter / full text", after, full, ">= 0.85", n)


def _index(path: Path, documents: Sequence[Document], *, embedder: str | None) -> CompressedIndex:
    """An index of documents; without an embedder, one that is asked by id only."""
    passages = [one.passage for one in documents]
    if embedder is None:
        import numpy as np

        index = CompressedIndex.create(path, embedder=None, dimension=4)
        index.add(passages, vectors=np.ones((len(passages), 4), np.float32))
    else:
        index = CompressedIndex.create(path, embedder=embedder)
        index.add(passages)
    return index


def _held(
    index: CompressedIndex, ids: dict[str, str], fingerprint: str, texts: Sequence[str]
) -> Sequence[SummaryVectors]:
    return index.summaries([ids[text] for text in texts], fingerprint)


def _roads(report: Report, parts: _Parts, folder: Path) -> None:
    """From a question to an answer: text against vectors, then all forms under budgets."""
    documents = list(world.documents(world.TRAINED, "test", N_ROAD))
    examples, summarizer = asked(documents), parts.summarizers["autocompressor"]
    compressor = load_compressor("mini", device=parts.device)
    with _index(folder / "road.index", documents, embedder="mini") as index:
        index.build_summaries(summarizer)
        road = partial(
            Pipeline, index, compressor, reader=parts.reader, fingerprint=summarizer.fingerprint, max_new_tokens=N_NEW
        )
        found = {}
        for form in ("text", "vectors"):
            found[form] = _road(report, road(k=3, reader_budget=440, form=form), form, examples)
        lost = 100 * (found["text"][0] - found["vectors"][0])
        report(Row("road, exact match lost by vectors", lost, "points", "<= 10"))
        report(Row("road, positions: text / vectors", found["text"][1] / found["vectors"][1], "x", ">= 8"))
        report(Row("road, seconds: text / vectors", found["text"][2] / found["vectors"][2], "x"))
        for budget in BUDGETS:
            _under(report, partial(road, k=8, reader_budget=budget), budget, examples)


def _road(report: Report, pipeline: Pipeline, form: str, examples: Sequence[Example]) -> tuple[float, float, float]:
    """Exact match, mean positions and seconds per question asked alone."""
    answers = pipeline.ask_many([example.question for example in examples])
    right = sum(is_exact(answer.text or "", e) for answer, e in zip(answers, examples, strict=True)) / len(examples)
    positions = sum(a.allocation.n_positions for a in answers if a.allocation) / len(examples)
    started = time.perf_counter()
    for example in examples[:N_TIMED]:
        pipeline.ask(example.question)
    seconds = (time.perf_counter() - started) / N_TIMED
    name = f"road, {N_ROAD} documents, 3 retrieved, {form}"
    report(Row(f"{name}: exact match", right, SHARE, n=len(examples)))
    report(Row(f"{name}: positions", positions, "positions per question", n=len(examples)))
    report(Row(f"{name}: time", 1000 * seconds, "ms per question", n=N_TIMED))
    return right, positions, seconds


def _under(report: Report, road: Callable[..., Pipeline], budget: int, examples: Sequence[Example]) -> None:
    """One budget, the three forms."""
    found: dict[Allowed, float] = {}
    forms: tuple[Allowed, ...] = ("text", "vectors", "mixed")
    for form in forms:
        answers = road(form=form).ask_many([example.question for example in examples])
        right = sum(is_exact(a.text or "", e) for a, e in zip(answers, examples, strict=True))
        found[form] = right / len(examples)
        report(Row(f"road, budget of {budget} positions, {form}: exact match", found[form], SHARE, n=len(examples)))
    gain = 100 * (found["mixed"] - max(found["text"], found["vectors"]))
    report(Row(f"road, budget of {budget} positions: mixed against the better of both", gain, "points", ">= 0"))


def _codecs(report: Report, parts: _Parts, folder: Path, n: int) -> None:
    """What storing vectors in fewer bits costs."""
    documents = list(world.documents(world.TRAINED, "test", n))
    examples, summarizer = asked(documents), parts.summarizers["autocompressor"]
    ids, found = {one.text: one.id for one in documents}, {}
    for codec, bound in (("fp16", None), ("int8", "<= 0.5"), ("pq", "<= 2")):
        with _index(folder / f"{codec}.index", documents, embedder=None) as index:
            index.build_summaries(summarizer, codec=codec)
            held = partial(_held, index, ids, summarizer.fingerprint)
            found[codec] = exact_match(parts.reader, examples, summarize=held)
        report(Row(f"{codec}: exact match", found[codec], SHARE, n=n))
        if bound is not None:
            report(Row(f"{codec}: exact match lost", 100 * (found["fp16"] - found[codec]), "points", bound, n))
