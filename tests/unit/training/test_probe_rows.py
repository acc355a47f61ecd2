"""The probe's training on rows that say nothing, long passages, and without scikit-learn."""

import subprocess
import sys

import numpy as np
import pytest

from ctxcompress_integrations.evaluation.datasets import Example, Stretch
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.testing.tiny import tiny_decoder
from ctxcompress_integrations.training.probe import train_probe


def asked(question, context, *spans):
    marked = tuple(Stretch(0, start, end) for start, end in spans)
    return Example("x", question, (Passage("0", context),), (), marked)


def test_rows_that_say_nothing_are_left_out():
    model, tokenizer = tiny_decoder("llama", n_positions=512)
    good = [asked("Who?", f"Ann has {i} cats. Bob has none. Nobody knows.", (0, 3)) for i in range(4)]
    bad = [
        asked("Who?", "Ann has cats. Bob has none."),
        asked("Who?", "One sentence only.", (0, 3)),
        asked("Who?", "All of it. Answers.", (0, 19)),
        asked("why " * 1000, "A question. That fills the window.", (0, 1)),
    ]
    head, figures = train_probe(model, tokenizer, [*good, *bad], base="tiny")
    assert (figures.n_questions, figures.n_left_out) == (4, 4)
    assert np.isfinite(head.weight).all()
    with pytest.raises(ValueError, match="0 usable questions"):
        train_probe(model, tokenizer, bad, base="tiny")


def test_long_passages_are_read_in_windows():
    model, tokenizer = tiny_decoder("llama", n_positions=200)
    text = " ".join(f"Sentence number {i} speaks of the river." for i in range(40))
    rows = [asked("river?", f"{i} {text}", (len(text) - 20, len(text) - 10)) for i in range(3)]
    _, figures = train_probe(model, tokenizer, rows, base="tiny")
    assert figures.n_questions == 3


def test_missing_scikit_learn_names_the_extra():
    code = """
import sys
from importlib import util
find = util.find_spec
util.find_spec = lambda name, package=None: None if name.partition(".")[0] == "sklearn" else find(name, package)
from ctxcompress_integrations.errors import MissingExtraError
try:
    import ctxcompress_integrations.training.probe
except MissingExtraError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "[train]" in found.stdout, found.stderr
