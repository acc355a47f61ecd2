"""One budget over three forms: what always holds, and the rule against a slow walk up its ladder."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ctxcompress_integrations import load_compressor
from ctxcompress_integrations.allocation import FORMS, allocate
from ctxcompress_integrations.records import CompressedPassage, CompressionResult, Passage, Span, SummaryVectors
from ctxcompress_integrations.room import pruned_within
from ctxcompress_integrations.testing.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
COUNTERS = {
    "words": lambda text: len(text.split()),
    "characters": len,
    "pairs": lambda text: -(-len(text) // 2),  # joining two texts may save a token
    "greedy": lambda text: len(text) + len(re.findall("\n\n", text)) * 3,  # joining costs some
    "bpe": lambda text: len(TOKENIZER.encode(text, add_special_tokens=False)),
}


def passage(i, original, kept, score=None, title=""):
    spans = (Span(0, len(kept)),) if kept else ()
    return CompressedPassage(f"p{i}", kept, spans, None, {"title": title}, original, rerank_score=score)


def vectors(i, m):
    return SummaryVectors(f"p{i}", np.zeros((m, 4), np.float32), "f", "r", 9)


@st.composite
def requests(draw):
    n = draw(st.integers(0, 6))
    passages, summaries = [], {}
    is_scored = draw(st.booleans())
    for i in range(n):
        words = draw(st.lists(st.sampled_from(["a", "tower", "1889.", "the", "Zoë", "塔"]), max_size=14))
        n_kept = draw(st.integers(0, len(words)))
        score = draw(st.floats(0, 1)) if is_scored else None
        passages.append(passage(i, " ".join(words), " ".join(words[:n_kept]), score, draw(st.sampled_from(["", "Ti"]))))
        if draw(st.booleans()):
            summaries[f"p{i}"] = vectors(i, draw(st.integers(1, 12)))
    return CompressionResult("q", passages, 0, 0), summaries


budgets = st.integers(1, 150)
counters = st.sampled_from(sorted(COUNTERS))
policies = st.sampled_from(["mixed", "text", "vectors"])


def positions(parts, count):
    """Texts that touch are tokenised together."""
    total, text = 0, ""
    for part in [*parts, None]:
        if isinstance(part, str):
            text += part
            continue
        total += (count(text) if text else 0) + (0 if part is None else len(part.vectors))
        text = ""
    return total


def parts_by_hand(result, summaries, forms):
    parts = []
    for number, (p, form) in enumerate(zip(result.passages, forms, strict=True), start=1):
        if form == "left out":
            continue
        parts += ["\n\n"] if parts else []
        parts += [f"[{number}] {p.title}: " if p.title else f"[{number}] "]
        parts += [{"vectors": summaries.get(p.id), "pruned": p.text, "full": p.original}[form]]
    return parts


def slow_ladder(result, summaries, alone, form):
    """All states, lowest first."""
    best_first = sorted(range(len(result.passages)), key=lambda i: -(result.passages[i].rerank_score or 0))
    steps = []
    for i in best_first:
        p = result.passages[i]
        if p.id in summaries and form != "text":
            texts = {"pruned": p.text, "full": p.original} if form == "mixed" else {}
            cheap = [k for k, text in texts.items() if text and alone(i, k) <= alone(i, "vectors")]
            steps.append((i, ["vectors", *cheap][-1]))
    if form != "vectors":
        steps += [(i, "pruned") for i in best_first if result.passages[i].text]
        steps += [(i, "full") for i in best_first if result.passages[i].original]
    states = [["left out"] * len(result.passages)]
    for i, kind in steps:
        if FORMS.index(kind) > FORMS.index(states[-1][i]):
            states.append([*states[-1][:i], kind, *states[-1][i + 1 :]])
    return states


def slow_forms(result, summaries, budget, count, form):
    """The last state that fits, joined and passage by passage; the highest of all needs only fit joined."""

    def alone(i, kind):
        forms = ["left out"] * len(result.passages)
        forms[i] = kind
        return positions(parts_by_hand(result, summaries, forms), count)

    states = slow_ladder(result, summaries, alone, form)
    chosen = states[0]
    for state in states:
        joined = positions(parts_by_hand(result, summaries, state), count)
        used = [i for i, kind in enumerate(state) if kind != "left out"]
        apart = sum(alone(i, state[i]) for i in used) + max(0, len(used) - 1) * count("\n\n")
        if joined <= budget and (apart <= budget or state is states[-1]):
            chosen = state
    return as_seen(result, chosen)


def as_seen(result, forms):
    """A pruned text of which nothing was cut is the full text."""
    same = [p.text == p.original for p in result.passages]
    return ["full" if form == "pruned" and is_same else form for form, is_same in zip(forms, same, strict=True)]


def forms_of(allocation):
    return [share.form for share in allocation.shares]


@settings(deadline=None)
@given(requests(), budgets, counters, policies)
def test_the_rule_equals_the_slow_walk(request_, budget, counter, policy):
    result, summaries = request_
    count = COUNTERS[counter]
    allocation = allocate(result, summaries, budget=budget, count_tokens=count, form=policy)
    assert as_seen(result, forms_of(allocation)) == slow_forms(result, summaries, budget, count, policy)


@settings(deadline=None)
@given(requests(), budgets, counters, policies)
def test_the_budget_holds_and_the_parts_are_the_passages(request_, budget, counter, policy):
    result, summaries = request_
    count = COUNTERS[counter]
    allocation = allocate(result, summaries, budget=budget, count_tokens=count, form=policy)
    assert allocation.n_positions == positions(allocation.parts, count) <= budget
    expected = parts_by_hand(result, summaries, forms_of(allocation))
    assert [p for p in allocation.parts if not isinstance(p, str)] == [p for p in expected if not isinstance(p, str)]
    assert "".join(p if isinstance(p, str) else "\0" for p in allocation.parts) == "".join(
        p if isinstance(p, str) else "\0" for p in expected
    )
    assert [share.id for share in allocation.shares] == [p.id for p in result.passages]
    assert all((share.cost > 0) == (share.form != "left out") for share in allocation.shares)
    again = allocate(result, dict(reversed(summaries.items())), budget=budget, count_tokens=count, form=policy)
    assert (again.shares, again.parts) == (allocation.shares, allocation.parts)


@settings(deadline=None)
@given(requests(), budgets, st.integers(1, 60), counters, policies)
def test_more_budget_takes_nothing_away(request_, budget, more, counter, policy):
    result, summaries = request_
    small, large = (
        allocate(result, summaries, budget=b, count_tokens=COUNTERS[counter], form=policy)
        for b in (budget, budget + more)
    )
    for before, after in zip(forms_of(small), forms_of(large), strict=True):
        assert FORMS.index(before) <= FORMS.index(after)


@settings(deadline=None)
@given(requests(), budgets, counters)
@example((CompressionResult("q", [passage(0, "the tower", "")], 0, 0), {"p0": vectors(0, 1)}), 3, "words")
def test_vectors_only_where_they_save_positions(request_, budget, counter):
    result, summaries = request_
    count = COUNTERS[counter]
    allocation = allocate(result, summaries, budget=budget, count_tokens=count)
    whole = parts_by_hand(result, summaries, ["full" if p.original else "left out" for p in result.passages])
    for p, share in zip(result.passages, allocation.shares, strict=True):
        if share.form == "vectors":
            for text in {p.text, p.original} - {""}:
                one = parts_by_hand(CompressionResult("q", [replace(p, text=text)], 0, 0), {}, ["pruned"])
                assert (
                    positions(one, count) > count(one[0]) + summaries[p.id].n_vectors
                    or count("".join(one)) > share.cost
                )
    if all(p.original for p in result.passages) and positions(whole, count) <= budget:
        assert set(forms_of(allocation)) <= {"full"}


def test_best_passages_as_text_and_the_tail_as_vectors():
    words = " ".join(["word"] * 40)
    result = CompressionResult(
        "q", [passage(i, words, words[:49], score) for i, score in enumerate([0.1, 0.9, 0.5])], 0, 0
    )
    summaries = {f"p{i}": vectors(i, 4) for i in range(3)}
    forms = {
        budget: forms_of(allocate(result, summaries, budget=budget, count_tokens=COUNTERS["words"]))
        for budget in (4, 5, 15, 21, 27, 33, 63, 123)
    }
    assert forms == {
        4: ["left out"] * 3,
        5: ["left out", "vectors", "left out"],
        15: ["vectors"] * 3,
        21: ["vectors", "pruned", "vectors"],
        27: ["vectors", "pruned", "pruned"],
        33: ["pruned"] * 3,
        63: ["pruned", "full", "pruned"],
        123: ["full"] * 3,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget must be an int >= 1, got 0"),
        ({"budget": 1.5}, "got 1.5"),
        ({"form": "both"}, "'both'"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        allocate(CompressionResult("q", [], 0, 0), {}, **({"budget": 5, "count_tokens": len} | options))


def test_without_a_budget_vectors_travel_wherever_they_save_positions():
    texts = ["a b c d e f g h", "a", "x y z w"]
    result = CompressionResult("q", [passage(i, text, text) for i, text in enumerate(texts)], 13, 13)
    summaries = {f"p{i}": vectors(i, 2) for i in (0, 1)}

    def words(text):
        return len(text.split())

    found = allocate(result, summaries, budget=None, count_tokens=words)
    assert [share.form for share in found.shares] == ["vectors", "full", "full"]
    only = allocate(result, summaries, budget=None, count_tokens=words, form="vectors")
    assert [share.form for share in only.shares] == ["vectors", "vectors", "left out"]
    text = allocate(result, summaries, budget=None, count_tokens=words, form="text")
    assert [share.form for share in text.shares] == ["full"] * 3


def test_pruning_leaves_room_for_labels_and_vectors():
    texts = [f"w{i} " * 30 for i in range(3)]
    passages = [Passage(f"p{i}", text.strip()) for i, text in enumerate(texts)]
    summaries = {f"p{i}": vectors(i, 5) for i in range(3)}

    def words(text):
        return len(text.split())

    def compress(room):
        rooms.append(room)
        kept = " ".join(passages[0].text.split()[:room])
        done = [passage(i, p.text, kept if i == 0 else "", 1.0 if i == 0 else 0.0) for i, p in enumerate(passages)]
        return CompressionResult("q", done, 90, words(kept))

    for budget, expected in ((30, [12]), (60, [42, 47])):  # 3 x (1 label + 5 vectors); text gives its vectors back
        rooms = []
        result = pruned_within(budget, compress, passages, summaries, words)
        assert rooms == expected
        assert result.n_tokens_out == words(result.text)
        found = allocate(result, summaries, budget=budget, count_tokens=words)
        assert found.n_positions <= budget
        assert [share.form for share in found.shares] == ["vectors" if budget == 30 else "full", "vectors", "vectors"]
    rooms = []
    pruned_within(30, compress, passages, {}, words)
    assert rooms == [27, 29]  # without vectors every word counts


@pytest.mark.parametrize("budget", [48, 64, 100, 128, 200, 256, 512])
@pytest.mark.parametrize("k", [8, 20])
def test_labels_do_not_keep_a_budget_from_being_spent(k, budget):
    """With long titles most of a small budget would be labels, if every passage were to get one."""
    passages = [
        Passage(f"p{i}", f"Number {i} lies at the river. It has {i} towers of red stone. Nobody came in {1900 + i}.")
        for i in range(k)
    ]
    passages = [replace(p, metadata={"title": f"Some title of the article {i}"}) for i, p in enumerate(passages)]
    compressor = load_compressor("lexical")

    def words(text):
        return len(text.split())

    def compress(room):
        return compressor.compress(passages, "how many towers has number 3?", token_budget=room, count_tokens=words)

    found = allocate(pruned_within(budget, compress, passages, {}, words), {}, budget=budget, count_tokens=words)
    everything = sum(words(p.text) + 7 for p in passages)
    assert min(budget, everything) - 24 < found.n_positions <= budget  # less than one passage is left unspent
