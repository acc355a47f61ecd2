"""From annotated examples to what can be learned on; what cannot is counted by its reason before the first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from ctxcompress_integrations.evaluation.datasets import Example
from ctxcompress_integrations.hf.splice import Splicer
from ctxcompress_integrations.text.segment import well_formed
from ctxcompress_integrations.training.lessons import CONTINUE, REPEAT, RETELL, Lesson, Shown, Study, Task
from ctxcompress_integrations.training.script import script_of

NONE: Mapping[str, Sequence[str]] = MappingProxyType({})
NEAR = 32
"""Tokens, at most, that a prompt has more than its parts have apart."""
_ITSELF = (Task("autoencode", REPEAT, ""), Task("retell", RETELL, ""), Task("continue", CONTINUE, ""))


def studies_of(
    examples: Iterable[Example],
    splicer: Splicer,
    *,
    prompt: str,
    limit: int | None,
    max_answer: int,
    tellings: Mapping[str, Sequence[str]] = NONE,
    n_vectors: Callable[[str, int], int] | None = None,
    as_text: bool = True,
) -> tuple[list[Study], dict[str, int]]:
    """What can be learned on, and how many examples cannot be used, by the reason.

    Args:
        examples: with answers; of several passages the one that holds the answer is taken, of those in which an answer
            is marked and then of those that support it. Halves of surrogate pairs are replaced.
        splicer: of the reader.
        prompt: with ``{context}`` and ``{question}``.
        limit: positions that the reader reads; None for no limit.
        max_answer: tokens of the longest answer.
        tellings: other ways to say what a text says, by the text.
        n_vectors: the most vectors that a passage is shown as, by its text and tokens; a ValueError for one that cannot
            be summarized. None where passages are only shown as text.
        as_text: passages are shown as text, too.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    left_out: Counter[str] = Counter()
    fits = _Fit(splicer, prompt, limit, n_vectors, as_text)
    told: dict[str, Sequence[str]] = {}
    for example in examples:
        passage = _answering(example)
        if passage is None:
            left_out["do not say which passage answers" if example.answers else "have no answer"] += 1
            continue
        text, question, answer = map(well_formed, (passage, example.question, example.answers[0]))
        if len(splicer.answer(answer)) > max_answer + 1:
            left_out[f"have an answer longer than {max_answer} tokens"] += 1
        elif why := fits.why_not(text, question, answer):
            left_out[why] += 1
        else:
            found.setdefault(text, []).append((question, answer))
            told[text] = tellings.get(passage, ())
    studies = [Study(t, fits.n_text[t], tuple(asked), tuple(told[t])) for t, asked in found.items()]
    return studies, dict(left_out)


def _answering(example: Example) -> str | None:
    """The text of the passage that answers: the marked one that holds the answer, or the supporting one, or any marked
    one, or the only one.
    """
    if not example.answers:
        return None
    texts, answer = [passage.text for passage in example.passages], example.answers[0].casefold()
    marked = [stretch.passage for stretch in example.marked]
    holding = [i for i in (*marked, *(g.passage for g in example.gold)) if answer in texts[i].casefold()]
    places = [*holding, *marked, *([0] if len(texts) == 1 else [])]
    return texts[places[0]] if places else None


class _Fit:
    """Whether a passage, in the forms in which it is shown, leaves the reader room for a question and its answer.

    Args:
        splicer, prompt, limit, n_vectors, as_text: as :func:`studies_of` says.

    Attributes:
        n_text: tokens of each text that was asked for.
    """

    def __init__(
        self,
        splicer: Splicer,
        prompt: str,
        limit: int | None,
        n_vectors: Callable[[str, int], int] | None,
        as_text: bool,
    ) -> None:
        self.splicer, self.prompt, self.limit, self.n_vectors = splicer, prompt, limit, n_vectors
        self.as_text = as_text or n_vectors is None
        self.n_text: dict[str, int] = {}
        self._n_frame = self._positions("x", "x", "x", False)

    def why_not(self, text: str, question: str, answer: str) -> str:
        """The reason why an example cannot be used; "" for one that can be."""
        if text not in self.n_text:
            self.n_text[text] = self.splicer.count(text) if text.strip() else 0
        n_text = self.n_text[text]
        if not n_text:
            return "are about a passage without text"
        try:
            n_vectors = self.n_vectors(text, n_text) if self.n_vectors is not None else 0
        except ValueError:
            return "are about a passage that is too long to be summarized"
        n_asked = self.splicer.count(question) + len(self.splicer.answer(answer))
        n_shown = max(n_vectors, n_text if self.as_text else 0)
        if self.limit is None or self._n_frame + n_shown + n_asked + NEAR <= self.limit:
            return ""
        n_all = [self._positions(text, question, answer, False)] if self.as_text else []
        n_all += [self._positions(text, question, answer, True) + n_vectors - 1] if self.n_vectors is not None else []
        return f"take more than the {self.limit} positions of the reader" if max(n_all) > self.limit else ""

    def _positions(self, text: str, question: str, answer: str, as_vectors: bool) -> int:
        """Of the longest prompt with its answer, as it is trained on; one position for all vectors."""
        tasks = (Task("answer", question, answer), *_ITSELF)
        script = script_of(Lesson((Shown(text, as_vectors),), tasks), self.splicer, self.prompt)
        return len(script.beginning) + max(map(len, script.endings))
