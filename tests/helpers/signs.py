"""A made-up task for ``mini``: questions of one word that point at a sentence with another word, which overlap cannot
find and training can.
"""

from ctxcompress_integrations.evaluation.datasets import Dataset, Example, Stretch
from ctxcompress_integrations.evaluation.metrics import weighted_mean
from ctxcompress_integrations.evaluation.runs import Budget, run_method
from ctxcompress_integrations.records import Passage

SIGNS = {"where": "place", "when": "year", "who": "name", "why": "reason"}


def examples(start, n):
    """Four questions to each of ``n`` passages."""
    for i in range(start, start + n):
        facts = [f"A {sign} {i * 7 % 90 + 10}." for sign in SIGNS.values()]
        facts = facts[i % 4 :] + facts[: i % 4]
        text = " ".join(facts)
        for word, sign in SIGNS.items():
            at = text.index(f"A {sign}")
            end = text.index(".", at)
            yield Example(f"{i}-{word}", f"{word}?", (Passage("0", text),), (text[at:end],), (Stretch(0, at, end),))


def kept(scorer, held_out):
    """Share of the answers in a quarter of the tokens."""
    run = run_method(Dataset("held-out", tuple(held_out)), "mini", scorer, [Budget(0.25)], len)[0]
    return weighted_mean(run.answer)
