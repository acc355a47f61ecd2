"""``ctxcompress bench mini``: does the default compressor keep the answer, and how long does a question take.

Times of a single call are of passages of drawn words: they depend on lengths alone. Other data come from ``--data DIR``
or ``CTXCOMPRESS_DATA``: gzipped or plain JSON lines with ``question``, ``context`` and ``answers``
(``[{"text", "start"}]``). Without a folder those rows say so.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ctxcompress_integrations.compressor import TextCompressor
from ctxcompress_integrations.evaluation.jsonl import read_rows
from ctxcompress_integrations.evaluation.rows import Row
from ctxcompress_integrations.hf.load import load_tokenizer
from ctxcompress_integrations.index.compressed_index import CompressedIndex
from ctxcompress_integrations.pipeline import Pipeline
from ctxcompress_integrations.records import CompressionResult, Passage
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.scorers.mini import Mini

QUALITY_FILE = "xquad_12lang"
N_PASSAGES = 10_000
N_QUESTIONS = 100
N_CALLS, N_WARM_UP = 20, 2
BATCH = 64


def bench_mini(report: Callable[[Row], None], *, data: Path | None, device: str = "auto") -> None:
    """Measure and hand each row to ``report`` as soon as it is known."""
    scorer = Mini.load(device=device)
    fast = Mini.load(device=device, fast=True)
    _calls(report, scorer, fast)
    _scoring(report, scorer, fast)
    _answer_kept(report, scorer, data)
    _ask(report, scorer, data)


def _texts() -> Callable[[int], str]:
    """Sentences of 14 drawn words, each a token of its own: a text of so many words."""
    generator = np.random.default_rng(0)
    words = [word for word in load_tokenizer("mini").get_vocab() if word.isascii() and word.isalpha()]
    words = sorted(word for word in words if len(word) > 2)

    def text(n_words: int) -> str:
        drawn = generator.choice(words, n_words).tolist()
        sentences = [" ".join(drawn[at : at + 14]).capitalize() for at in range(0, n_words, 14)]
        return ". ".join(sentences) + "."

    return text


def _calls(report: Callable[[Row], None], scorer: Mini, fast: Mini) -> None:
    """Whole ``compress`` calls over 20 passages of 150 tokens: seen for the first time, and asked about again; by the
    fast form for the first time.
    """
    text = _texts()
    whole, thin = (TextCompressor(s, cache_size=0, keep_ratio=0.25) for s in (scorer, fast))
    ways = {"uncached": (whole, "<= 150"), "cached passage states": (whole, "<= 25"), "fast, uncached": (thin, None)}
    ms: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(N_CALLS + N_WARM_UP):
        passages = [text(140) for _ in range(20)]  # and ten full stops
        for name, (compressor, _) in ways.items():
            result = compressor.compress(passages, f"which {text(6)[:-1]}?")
            if number >= N_WARM_UP:
                ms[name].append(1000 * result.seconds)
    for name, (_, bound) in ways.items():
        _report_ms(report, f"compress 20 passages of 150 tokens, {name}: median", ms[name], bound)
    ratio = statistics.median(ms["uncached"]) / statistics.median(ms["fast, uncached"])
    report(Row("fast form, whole call: times faster", ratio, "x"))


def _scoring(report: Callable[[Row], None], scorer: Mini, fast: Mini) -> None:
    """Scoring alone by both forms, of passages that are equally long and of others, as they come from an index."""
    text = _texts()
    for of, n_words, bound in (("150", [140] * 20, ">= 2"), ("99 to 201", range(92, 188, 5), None)):
        ms: dict[str, list[float]] = {"mini": [], "fast": []}
        for number in range(N_CALLS + N_WARM_UP):
            request = ScoreRequest([text(n) for n in n_words], f"which {text(6)[:-1]}?")
            for form, taken in zip((scorer, fast), ms.values(), strict=True):
                started = time.perf_counter()
                form.score([request])
                if number >= N_WARM_UP:
                    taken.append(1000 * (time.perf_counter() - started))
        for name, taken in ms.items():
            _report_ms(report, f"score 20 passages of {of} tokens, {name}: median", taken)
        ratio = statistics.median(ms["mini"]) / statistics.median(ms["fast"])
        report(Row(f"fast form, scoring passages of {of} tokens: times faster", ratio, "x", bound))


def _report_ms(report: Callable[[Row], None], measure: str, ms: list[float], bound: str | None = None) -> None:
    report(Row(measure, statistics.median(ms), "ms", bound, len(ms), (min(ms), max(ms))))


def _answer_kept(report: Callable[[Row], None], scorer: Mini, data: Path | None) -> None:
    """XQuAD English, single passages, sentence unit: how often an answer survives, and whether a budget ever broke."""
    measure = "xquad en, sentence unit, keep_ratio 0.25: answer kept"
    files = [] if data is None else sorted(data.glob(f"{QUALITY_FILE}*.jsonl*"))
    rows = [row for file in files for _, row in read_rows(file) if row.get("lang", "en") == "en"]
    if not rows:
        report(Row(measure, None, "share of questions", ">= 0.90", why=_no_data(data, QUALITY_FILE)))
        return
    compressor = TextCompressor(scorer, cache_size=2 * BATCH)
    n_over = n_requests = 0
    for ratio in (0.25, 0.5):
        kept, kept_hard, n_in, n_out, n_out_hard = [], [], 0, 0, 0
        for at in range(0, len(rows), BATCH):
            batch = rows[at : at + BATCH]
            results = compressor.compress_many([([r["context"]], r["question"]) for r in batch], keep_ratio=ratio)
            for row, result in zip(batch, results, strict=True):
                budget = max(1, int(ratio * result.n_tokens_in))
                hard = compressor.compress([row["context"]], row["question"], token_budget=budget)
                n_requests, n_over = n_requests + 1, n_over + (hard.n_tokens_out > budget)
                kept.append(has_answer(row, result))
                kept_hard.append(has_answer(row, hard))
                n_in, n_out, n_out_hard = (
                    n_in + result.n_tokens_in,
                    n_out + result.n_tokens_out,
                    n_out_hard + hard.n_tokens_out,
                )
        name = f"xquad en, sentence unit, keep_ratio {ratio}"
        bound = ">= 0.90" if ratio == 0.25 else None
        report(Row(f"{name}: answer kept", float(np.mean(kept)), "share of questions", bound, len(kept)))
        report(Row(f"{name}: tokens kept", n_out / n_in, "share of tokens", n=len(kept)))
        name = f"xquad en, sentence unit, token_budget {ratio} of the tokens"
        report(Row(f"{name}: answer kept", float(np.mean(kept_hard)), "share of questions", n=len(kept)))
        report(Row(f"{name}: tokens kept", n_out_hard / n_in, "share of tokens", n=len(kept)))
    report(Row("token budgets exceeded", n_over, "requests", "<= 0", n_requests))


def _ask(report: Callable[[Row], None], scorer: Mini, data: Path | None) -> None:
    """Retrieval and compression of one question at a time over an index of ``N_PASSAGES`` real passages."""
    measure = f"ask over {N_PASSAGES} passages, k=8, keep_ratio 0.25: median"
    rows = (
        []
        if data is None
        else [r for f in sorted(data.glob("squad*.jsonl*")) for _, r in read_rows(f) if "context" in r]
    )
    contexts = list(dict.fromkeys(row["context"] for row in rows))[:N_PASSAGES]
    if len(contexts) < N_PASSAGES:
        report(Row(measure, None, "ms", "< 400", why=_no_data(data, "squad*") + f" with {N_PASSAGES} passages"))
        return
    inside = set(contexts)
    questions = list(dict.fromkeys(r["question"] for r in rows if r["context"] in inside))
    questions = questions[:: max(1, len(questions) // (N_QUESTIONS + 5))]
    with (
        tempfile.TemporaryDirectory() as folder,
        CompressedIndex.create(Path(folder) / "bench.index", embedder="mini") as index,
    ):
        index.add([Passage(str(i), text) for i, text in enumerate(contexts)])
        pipeline = Pipeline(index, TextCompressor(scorer, cache_size=0), k=8)
        for question in questions[:5]:  # warm-up
            pipeline.ask(question, keep_ratio=0.25)
        answers = [pipeline.ask(question, keep_ratio=0.25) for question in questions[5 : N_QUESTIONS + 5]]
    ms = [1000 * (answer.seconds_retrieve + answer.seconds_compress) for answer in answers]
    _report_ms(report, measure, ms, "< 400")
    p95 = float(np.percentile(ms, 95))
    report(Row(measure.replace("median", "95th percentile"), p95, "ms", n=len(ms), spread=(min(ms), max(ms))))
    retrieve = statistics.median(1000 * answer.seconds_retrieve for answer in answers)
    report(Row(measure.replace("median", "retrieval alone, median"), retrieve, "ms", n=len(ms)))
    kept = float(np.mean([answer.result.keep_ratio for answer in answers]))
    report(Row(measure.replace("median", "tokens kept"), kept, "share of tokens", n=len(ms)))


def has_answer(row: dict[str, Any], result: CompressionResult) -> bool:
    """True when the text of one of the gold answers survives."""
    return any(answer["text"] in result.text for answer in row["answers"])


def _no_data(data: Path | None, name: str) -> str:
    return (
        f"no {name} file in {data}" if data else f"give the folder with the {name} files by --data or CTXCOMPRESS_DATA"
    )
