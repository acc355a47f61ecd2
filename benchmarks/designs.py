"""Three ways for a question to meet a passage, trained alike for the same time and measured by the harness.

(a) apart: late interaction, passages scored from vectors that never saw the question (what ``mini`` is).
(b) attending: the question's tokens attend, layer by layer, to the states of the passage, which never saw the question
    and can be stored; then late interaction with the question's tokens as they come out.
(c) joint: question and passage in one sequence, one pointer logit per passage token.

    python benchmarks/designs.py --data DIR --seconds 1200 --json benchmarks/results/designs-cpu.json

All start from the same encoder and see the same batches in the same order with the same losses; a design that costs
more sees fewer of them in its time. (b) and (c) score each question against its own passages and the hardest others of
the batch, because every pair costs a pass of its own.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctxcompress_integrations.evaluation.baselines.base import by_sentence
from ctxcompress_integrations.evaluation.metrics import bootstrap, weighted_mean
from ctxcompress_integrations.evaluation.rows import Row, as_report, write_report
from ctxcompress_integrations.evaluation.runs import Budget, run_method, time_method
from ctxcompress_integrations.evaluation.sets import load_set, load_training
from ctxcompress_integrations.hf import mini_weights
from ctxcompress_integrations.hf.load import load_encoder
from ctxcompress_integrations.nn.late_interaction import LateInteraction, QueryVectors, TrainingHead, segment_max
from ctxcompress_integrations.nn.packed_encoder import EncoderLayer, pack, run_layers
from ctxcompress_integrations.records import Passage, Relevance
from ctxcompress_integrations.scorers.base import ScoreRequest
from ctxcompress_integrations.scorers.request import RequestScorer
from ctxcompress_integrations.text.segment import segment
from ctxcompress_integrations.training import mini_loss
from ctxcompress_integrations.training.mini_batch import layout_of
from ctxcompress_integrations.training.mini_data import (
    MAX_QUESTION_TOKENS,
    TrainingPassage,
    TrainingSet,
    batches,
    build,
    noisy,
    training_passages,
)
from ctxcompress_integrations.training.neighbours import neighbours_of

SETS = {"xquad-en": 400, "squad2": 300, "nq20": 120, "musique": 100}
FAR = -1e3
Ids: TypeAlias = Sequence[Sequence[int]]
Pairs: TypeAlias = Sequence[tuple[int, int]]
"""(question, passage), by their places."""


class Design(nn.Module, ABC):
    """Scores of sentences for pairs of a question and a passage."""

    name: ClassVar[str]
    n_others: ClassVar[int]  # passages beside its own that a question is trained against

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.model: LateInteraction = mini_weights.untrained(base, layers=range(6), n_dims=128)
        self.pointer = nn.Linear(base.config.hidden_size, 1)

    @abstractmethod
    def forward(self, questions: Ids, passages: Sequence[TrainingPassage], pairs: Pairs) -> list[Tensor]:
        """Token ids of questions, passages, and which to put together -> per pair ``[s]``."""

    def encode(self, sequences: Sequence[Sequence[int]]) -> list[list[Tensor]]:
        """Per layer, from the embeddings on, the states ``[n, d]`` of each sequence."""
        lengths = [len(sequence) for sequence in sequences]
        blocks = pack(lengths, step=16)
        states = self.model.encoder.embed(torch.tensor([t for s in sequences for t in s]), blocks)
        found = [states]
        for layer in self.model.encoder.layers:
            found.append(run_layers([layer], found[-1], blocks))
        return [list(torch.split(states, lengths)) for states in found]

    def meet(self, query: QueryVectors, states: Tensor, passage: TrainingPassage) -> Tensor:
        """Late interaction of one question with one passage ``[n, d]``, ``[s]``."""
        sentence = torch.tensor(passage.sentence)
        vectors = self.model.passage_vectors(states)[sentence >= 0]
        best = segment_max(query.vectors @ vectors.T, sentence[sentence >= 0], passage.n_sentences)  # [q, s]
        whole = (best.amax(dim=1) * query.weights).sum()
        alike = query.pooled @ F.normalize(states.float().mean(dim=0), dim=-1)
        of_sentence = (best * query.weights[:, None]).sum(dim=0)
        return (of_sentence + query.shares[0] * whole + query.shares[1] * alike) / (1 + query.shares.sum())


class Apart(Design):
    """(a)."""

    name, n_others = "(a) apart", 10**6

    def forward(self, questions: Ids, passages: Sequence[TrainingPassage], pairs: Pairs) -> list[Tensor]:
        states = self.encode([*questions, *(p.ids for p in passages)])[-1]
        queries = [self.model.query_vectors(s) for s in states[: len(questions)]]
        return [self.meet(queries[q], states[len(questions) + p], passages[p]) for q, p in pairs]


class Attending(Design):
    """(b)."""

    name, n_others = "(b) attending", 3

    def forward(self, questions: Ids, passages: Sequence[TrainingPassage], pairs: Pairs) -> list[Tensor]:
        layers = self.encode([p.ids for p in passages])
        asked = [torch.tensor(questions[q]) for q, _ in pairs]
        n_asked, n_read = torch.tensor([len(a) for a in asked]), torch.tensor([len(passages[p].ids) for _, p in pairs])
        ids = nn.utils.rnn.pad_sequence(asked, batch_first=True)
        encoder = self.model.encoder
        states = encoder.norm(encoder.words(ids) + encoder.positions(torch.arange(ids.shape[1])))  # [b, q, d]
        is_read = torch.arange(int(n_read.max())) < n_read[:, None]
        is_asked = torch.arange(ids.shape[1]) < n_asked[:, None]
        mask = torch.cat([is_read, is_asked], dim=1)[:, None, None]
        for layer, stored in zip(encoder.layers, layers, strict=False):
            context = nn.utils.rnn.pad_sequence([stored[p] for _, p in pairs], batch_first=True)
            states = attend(layer, states, torch.cat([context, states.to(context.dtype)], dim=1), mask)
        queries = [self.model.query_vectors(s[:n]) for s, n in zip(states, n_asked.tolist(), strict=True)]
        return [self.meet(q, layers[-1][p], passages[p]) for q, (_, p) in zip(queries, pairs, strict=True)]


class Joint(Design):
    """(c)."""

    name, n_others = "(c) joint", 1

    def forward(self, questions: Ids, passages: Sequence[TrainingPassage], pairs: Pairs) -> list[Tensor]:
        states = self.encode([[*questions[q], *passages[p].ids[1:]] for q, p in pairs])[-1]
        found = []
        for s, (q, p) in zip(states, pairs, strict=True):
            sentence = torch.tensor(passages[p].sentence[1:])
            logits = self.pointer(s[len(questions[q]) :].float())[:, 0] / 20  # the losses' scale starts at 20
            of_text = logits[sentence >= 0].clamp(-0.999, 50)[None]
            found.append(segment_max(of_text, sentence[sentence >= 0], passages[p].n_sentences)[0])
        return found


def attend(layer: EncoderLayer, states: Tensor, context: Tensor, mask: Tensor) -> Tensor:
    """One layer for ``[b, q, d]`` that looks at ``[b, k, d]``."""
    b, n, width = states.shape

    def heads(x: Tensor) -> Tensor:
        return x.view(b, x.shape[1], layer.n_heads, -1).transpose(1, 2)

    query = heads(layer.qkv(states)[..., :width])
    key, value = (heads(x) for x in layer.qkv(context)[..., width:].split(width, dim=-1))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).reshape(b, n, width)
    states = layer.attention_norm(states + layer.out(mixed))
    return layer.output_norm(states + layer.down(F.gelu(layer.up(states))))


def train(
    design: Design, data: TrainingSet, neighbours: np.ndarray, tokenizer: Any, seconds: float, seed: int
) -> tuple[int, int]:
    """``(steps, questions)`` seen in so many seconds of all cores together; linear warm-up, then linear decay."""
    torch.manual_seed(seed)
    head, started, n_steps, n_questions = TrainingHead(), time.process_time(), 0, 0
    design.model.encoder.words.requires_grad_(False)
    encoder = [p for p in design.model.encoder.parameters() if p.requires_grad]
    rest = [p for p in (*design.parameters(), *head.parameters()) if all(p is not q for q in encoder)]
    groups = [{"params": encoder, "factor": 1.0}, {"params": [p for p in rest if p.requires_grad], "factor": 5.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, weight_decay=0.01)
    for batch in batches(data, neighbours, seed=seed):
        spent = (time.process_time() - started) / seconds
        if spent >= 1:
            return n_steps, n_questions
        generator = random.Random(f"{seed}/{n_steps}")  # noqa: S311 - noise, no secret
        for group in optimizer.param_groups:
            group["lr"] = 1e-4 * group["factor"] * min(1.0, (n_steps + 1) / 40) * (1 - spent)
        loss = losses(design, head, data, batch, tokenizer, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimizer.step()
        n_steps, n_questions = n_steps + 1, n_questions + len(batch.questions)
    raise AssertionError("batches never end")


def losses(design: Design, head: TrainingHead, data: TrainingSet, batch: Any, tokenizer: Any, generator: Any) -> Tensor:
    """The choice and threshold losses of ``training/mini_loss.py`` over the pairs that the design can afford."""
    passages = [data.passages[p] for p in batch.passages]
    questions = [data.questions[q] for q in batch.questions]
    place = {p: i for i, p in enumerate(batch.passages)}
    pairs = []
    for q, question in enumerate(questions):
        own = [place[p] for p in question.passages]
        others = [i for i in range(len(passages)) if i not in own]
        beside = sorted(others, key=lambda i: abs(i - own[0]))[: design.n_others]  # neighbours lie side by side
        pairs += [(q, i) for i in (*own, *beside)]
    asked = [noisy(q.text, generator) for q in questions]
    ids = tokenizer(asked, truncation=True, max_length=MAX_QUESTION_TOKENS)["input_ids"]
    with torch.autocast("cpu", torch.bfloat16):
        found = design(ids, passages, pairs)
    layout = layout_of(batch.passages, passages, [[]] * len(passages), torch.device("cpu"))
    scores = torch.full((len(questions), layout.n_sentences), FAR)
    rows = torch.cat([torch.full((len(s),), q) for (q, _), s in zip(pairs, found, strict=True)])
    columns = torch.cat(
        [layout.first[batch.passages[p]] + torch.arange(len(s)) for (_, p), s in zip(pairs, found, strict=True)]
    )
    scores = scores.index_put((rows, columns), torch.cat([s.float() for s in found]))
    among_all, in_passage, answerable = mini_loss.sentence_losses(scores, head, questions, data, batch, layout)
    return among_all + in_passage + mini_loss.ANSWERABLE_WEIGHT * answerable


class DesignScorer(RequestScorer):
    """A trained design in the harness."""

    name: ClassVar[str] = "design"

    def __init__(self, design: Design, tokenizer: Any) -> None:
        self.design, self.tokenizer = design.eval(), tokenizer

    @classmethod
    def load(cls, **_: Any) -> DesignScorer:
        raise ValueError("a design is trained here and never saved: build it from its encoder")

    @torch.no_grad()
    def _score_request(self, request: ScoreRequest) -> list[Relevance]:
        passages = training_passages([Passage(str(i), text) for i, text in enumerate(request.texts)], self.tokenizer)
        ids = self.tokenizer([request.query], truncation=True, max_length=MAX_QUESTION_TOKENS)["input_ids"]
        with torch.autocast("cpu", torch.bfloat16):
            found = self.design(ids, passages, [(0, i) for i in range(len(passages))])
        return [by_sentence(t, s) for t, s in zip(request.texts, map(whole, request.texts, found), strict=True)]


def whole(text: str, scores: Tensor) -> np.ndarray:
    """One value for every sentence: those beyond the window get the lowest."""
    values = np.full(len(segment(text)[1]), -1.0, dtype=np.float32)
    values[: len(scores)] = scores.float().numpy()
    return values


def measure(design: Design, tokenizer: Any, folder: Path) -> Iterable[Row]:
    """Answers kept, documents ordered, milliseconds."""
    scorer = DesignScorer(design, tokenizer)

    def count_tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False, verbose=False))

    for name, limit in SETS.items():
        dataset = load_set(name, folder, limit=limit)
        ratios = (0.05, 0.1, 0.25) if len(dataset.examples[0].passages) > 1 else (0.25,)
        for run in run_method(dataset, design.name, scorer, [Budget(r) for r in ratios], count_tokens):
            interval = bootstrap(lambda w, run=run: weighted_mean(run.answer, w), len(run.answer))
            measure_name = f"{name}, {design.name}, {run.budget}: answer kept"
            yield Row(
                measure_name, weighted_mean(run.answer), "share, 95 % interval", n=len(run.answer), spread=interval
            )
        if name == "nq20":
            ms = time_method(dataset, scorer, count_tokens, n=20)
            spread = (float(ms.min()), float(ms.max()))
            yield Row(f"{name}, {design.name}: time, median", float(np.median(ms)), "ms", n=len(ms), spread=spread)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the standard sets")
    parser.add_argument("--seconds", type=float, default=1200.0, help="processor time of each training")
    parser.add_argument("--limit", type=int, default=2000, help="examples per training set")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/designs-cpu.json"))
    arguments = parser.parse_args()
    base, tokenizer = load_encoder("mini", device="cpu", dtype="float32")
    examples = [e for s in load_training(None, arguments.data, limit=arguments.limit) for e in s.examples]
    data = build(examples, tokenizer)
    neighbours = neighbours_of(data, base, tokenizer, arguments.json.with_suffix(".neighbours"))
    rows: list[Row] = []
    for kind in (Apart, Attending, Joint):
        design = kind(base)
        n_steps, n_questions = train(design, data, neighbours, tokenizer, arguments.seconds, seed=0)
        rows.append(
            Row(
                f"{kind.name}: questions seen in {arguments.seconds:g} processor seconds",
                n_questions,
                "questions",
                n=n_steps,
            )
        )
        for row in measure(design, tokenizer, arguments.data):
            rows.append(row)
            print(f"{row.measure} {row.value:.3f}", flush=True)
        write_report(arguments.json, as_report(" ".join(["python", *sys.argv]), rows))


if __name__ == "__main__":
    main()
