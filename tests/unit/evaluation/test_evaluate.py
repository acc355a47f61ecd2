"""The whole evaluation on a few rows: budgets, gaps, differences, tables, page, command line."""

import json
import math
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from ctxcompress_integrations import _optional
from ctxcompress_integrations.cli import app
from ctxcompress_integrations.errors import MissingExtraError
from ctxcompress_integrations.evaluation import evaluate as evaluation
from ctxcompress_integrations.evaluation.datasets import load_dataset
from ctxcompress_integrations.evaluation.evaluate import Plan, evaluate
from ctxcompress_integrations.evaluation.jsonl import DatasetError
from ctxcompress_integrations.evaluation.methods import MethodSettings
from ctxcompress_integrations.evaluation.runs import BUDGETS, Budget, Run, run_method, time_method
from ctxcompress_integrations.evaluation.summary import summarize
from ctxcompress_integrations.records import Relevance
from ctxcompress_integrations.scorers.base import Scorer
from ctxcompress_integrations.text.segment import segment

FACTS = ("height", "colour", "owner", "builder", "age", "place")


def rows(n=12):
    for i in range(n):
        sentences = [f"The {fact} of tower {i} is {fact}value{i}, as everyone here knows." for fact in FACTS]
        fact = FACTS[i % len(FACTS)]
        context = " ".join(sentences)
        answer = f"{fact}value{i}"
        yield {
            "id": str(i),
            "question": f"What is the {fact}?",
            "context": context,
            "answers": [{"text": answer, "start": context.index(answer)}],
        }
    yield {
        "id": "none",
        "question": "What is the smell?",
        "context": "The tower is tall. It stands.",
        "answers": [],
        "answerable": False,
    }


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "towers.jsonl"
    path.write_text("\n".join(map(json.dumps, rows())) + "\nbroken\n", encoding="utf-8")
    return path


class Perfect(Scorer):
    """Knows the answers: every word of the sentence that holds the fact asked for scores 1."""

    name = "perfect"
    thresholds = {"0.01": 0.5}  # noqa: RUF012

    @classmethod
    def load(cls, **_):
        return cls()

    def count_tokens(self, text):
        return len(text.split())

    def score(self, requests):
        return [[self.relevance(text, query) for text in texts] for texts, query, _ in requests]

    def relevance(self, text, query):
        words, first_words = segment(text)
        fact = query.split()[-1].strip("?")
        values = np.zeros(len(words), dtype=np.float32)
        for first, last in zip(first_words, [*first_words[1:], len(words)], strict=True):
            values[first:last] = f"The {fact} " in text[words[first, 0] : words[last - 1, 1]]
        return Relevance(words, values)


def words(text):
    return len(text.split())


def test_a_perfect_scorer_keeps_every_answer_and_closes_the_gap(file):
    from ctxcompress_integrations.evaluation.baselines import baseline_class

    dataset = load_dataset(file)
    runs = run_method(dataset, "perfect", Perfect(), BUDGETS, words)
    runs += run_method(dataset, "random", baseline_class("random").load(), BUDGETS, words)
    found = {
        row.measure: row
        for row in summarize(
            runs, reference="perfect", targets={("towers", "perfect", "keep_ratio 0.25", "answer kept"): ">= 0.9"}
        )
    }
    kept = found["towers, perfect, keep_ratio 0.25: answer kept"]
    assert (kept.value, kept.ok, kept.n) == (1.0, True, 12)
    assert found["towers, perfect, keep_ratio 0.25: gap closed, answer kept"].value == pytest.approx(1.0)
    assert found["towers, random, keep_ratio 0.25: answer kept"].value < 0.6
    difference = found["towers, keep_ratio 0.25: answer kept, perfect minus random"]
    assert difference.value > 0.4
    assert difference.spread[0] > 0
    assert found["token budgets exceeded"].value == 0
    assert found["token budgets exceeded"].n == 2 * 12 * sum(b.is_hard for b in BUDGETS)
    rates = [found[f"towers: oracle, answer kept, at {r} of the tokens"].value for r in ("5%", "10%", "100%")]
    assert rates == sorted(rates)
    assert rates[-1] == 1.0


def test_hard_budgets_hold_and_soft_ones_keep_a_sentence(file):
    dataset = load_dataset(file)
    hard, soft = run_method(dataset, "p", Perfect(), [Budget(0.05, is_hard=True), Budget(0.05)], words)
    assert hard.n_over == 0
    assert (hard.rate <= 0.06).all()
    assert (soft.rate > 0.1).all()
    assert len(hard.rate) == 12  # the unanswerable question is not asked


def test_thresholds_and_times(file):
    dataset = load_dataset(file)
    some, none, ratio = run_method(
        dataset, "p", Perfect(), [Budget(threshold=0.5), Budget(threshold=2.0), Budget(0.25)], words
    )
    assert some.is_answerable.tolist() == [True] * 12 + [False]
    assert (some.rate[:12] > 0).all()
    assert some.rate[12] == 0.0
    assert some.answer[:12].min() == 1.0
    assert math.isnan(some.answer[12])
    assert none.rate.max() == 0.0
    assert len(ratio.rate) == 12
    found = {row.measure: row.value for row in summarize([some, none], reference="p", targets={})}
    assert found["towers, p, threshold 0.5: answer kept"] == 1.0
    assert found["towers, p, threshold 0.5: tokens dropped where there is no answer"] == 1.0
    assert found["towers, p, threshold 2: tokens kept"] == 0.0
    assert len(time_method(dataset, Perfect(), words, n=5)) >= 3


def test_a_busy_machine_times_nothing(file):
    settings = MethodSettings(device="cpu")
    for times in (True, False):
        rows = evaluate(Plan([str(file)], ["lexical"], settings, times=times), words)
        assert any("time, median" in row.measure for row in rows) is times


def test_questions_without_answers_are_measured_by_thresholds_alone(tmp_path, monkeypatch):
    path = tmp_path / "none.jsonl"
    path.write_text(json.dumps(list(rows())[-1]), encoding="utf-8")
    monkeypatch.setattr(evaluation, "load_method", lambda *_: Perfect())
    found = {row.measure: row for row in evaluate(Plan([str(path)], ["perfect"], MethodSettings(), times=False), words)}
    assert found["none, perfect, threshold auto: tokens dropped where there is no answer"].value == 1.0
    assert "none of its questions is answered" in found["none: what budgets keep"].why
    assert not any("keep_ratio" in measure for measure in found)


def test_two_sets_of_one_name_are_refused(file, tmp_path):
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "towers.jsonl.gz"
    other.write_bytes(file.read_bytes())
    with pytest.raises(DatasetError, match=r"towers.jsonl' and '.*towers.jsonl.gz' would both be called 'towers'"):
        evaluate(Plan([str(file), str(other)], ["lexical"], MethodSettings()), words)
    versions = [str(file.rename(tmp_path / "my.v1.jsonl")), str(other.rename(tmp_path / "my.v2.jsonl"))]
    found = evaluate(Plan(versions, ["lexical"], MethodSettings(), budgets=[Budget(0.25)], times=False), words)
    assert {row.labels["set"] for row in found if "set" in row.labels} == {"my.v1", "my.v2"}


def test_the_default_threshold_has_a_name(file):
    dataset = load_dataset(file)
    auto, same = run_method(dataset, "p", Perfect(), [Budget(threshold="auto"), Budget(threshold=0.5)], words)
    assert auto.rate.tolist() == same.rate.tolist()
    target = {("towers", "p", "threshold auto", "tokens dropped where there is no answer"): ">= 0.8"}
    found = {row.measure: row for row in summarize([auto], reference="p", targets=target)}
    assert found["towers, p, threshold auto: tokens dropped where there is no answer"].ok


def test_all_support_is_compared_by_its_ratio():
    def run(method, all_support):
        values = np.asarray(all_support, dtype=np.float64)
        unknown = np.full(len(values), np.nan)
        return Run(
            "hops", method, Budget(0.25), np.full(len(values), 0.25), unknown, values, values, unknown,
            np.full(len(values), True), 0,
        )  # fmt: skip

    runs = [run("ours", [1, 1, 1, 0] * 5), run("other", [1, 0, 1, 0] * 5), run("none", [0] * 20)]
    target = {("hops", "ours", "keep_ratio 0.25", "all support kept, ours over other"): ">= 1.5"}
    found = {row.measure: row for row in summarize(runs, reference="ours", targets=target)}
    ratio = found["hops, keep_ratio 0.25: all support kept, ours over other"]
    assert (ratio.value, ratio.ok) == (1.5, True)
    assert ratio.spread[0] < 1.5 < ratio.spread[1]
    assert found["hops, keep_ratio 0.25: all support kept, ours minus other"].value == 0.25
    assert "hops, keep_ratio 0.25: all support kept, ours over none" not in found


def test_no_gap_is_no_number(tmp_path):
    row = {"question": "Who?", "context": "It was Ada.", "answers": [{"text": "Ada", "start": 7}]}
    file = tmp_path / "xquad-en.jsonl"  # its rows have targets
    file.write_text("\n".join([json.dumps(row)] * 3), encoding="utf-8")
    done = CliRunner().invoke(
        app, ["eval", str(file), "--methods", "mini,random", "--no-times", "--json", str(tmp_path / "r.json")]
    )
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    rows = json.loads((tmp_path / "r.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    gap = next(r for r in rows["rows"] if r["measure"] == "xquad-en, mini, keep_ratio 0.25: gap closed, answer kept")
    assert (gap["value"], gap["spread"], gap["ok"]) == (None, None, None)
    assert "there is no gap" in gap["why"]


def test_titles_can_be_hidden_from_methods(file, monkeypatch):
    seen = []

    class Reader(Perfect):
        def score(self, requests):
            seen.extend(title for request in requests for title in request.titles)
            return super().score(requests)

    row = json.loads(file.read_text().splitlines()[0]) | {"title": "A_tower"}
    file.write_text(json.dumps(row))
    monkeypatch.setattr(evaluation, "load_method", lambda *_: Reader())
    for titles in (True, False):
        evaluate(Plan([str(file)], ["reader"], MethodSettings(), budgets=[Budget(0.25)], titles=titles), words)
        assert set(seen) == {"A_tower" if titles else ""}
        seen.clear()


def test_methods_without_a_model_are_reported_and_not_run(file):
    plan = Plan([str(file)], ["lexical", "quito", "nonsense"], MethodSettings(), budgets=[Budget(0.25)])
    found = {row.measure: row for row in evaluate(plan, words)}
    assert found["quito: everything"].why == "quito needs a model: name one by --model"
    assert "nonsense" in found["nonsense: everything"].why
    assert found["towers: rows skipped"].value == 1
    assert "14 (JSONDecodeError" in found["towers: rows skipped"].why
    assert found["towers, lexical, keep_ratio 0.25: time, median"].value > 0


def test_a_method_that_fails_on_a_set_takes_no_other_with_it(file, tmp_path, monkeypatch):
    class Failing(Perfect):
        def score(self, requests):
            if any("Too long" in request.query for request in requests):
                raise RuntimeError("no room\nfor it")
            return super().score(requests)

    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps(next(rows()) | {"question": "Too long a height?"}), encoding="utf-8")
    monkeypatch.setattr(evaluation, "load_method", lambda name, _: {"perfect": Perfect, "failing": Failing}[name]())
    plan = Plan([str(long), str(file)], ["failing", "perfect"], MethodSettings(), budgets=[Budget(0.25)])
    found = {row.measure: row for row in evaluate(plan, words)}
    assert found["long, failing: everything"].why == "RuntimeError: no room for it"
    assert found["towers, failing, keep_ratio 0.25: answer kept"].value == 1.0
    assert found["long, perfect, keep_ratio 0.25: answer kept"].value == 1.0
    assert not [measure for measure in found if measure.startswith("long, failing, ")]


def test_command_line_writes_json_and_page(file, tmp_path):
    page, out = tmp_path / "page", tmp_path / "r.json"
    arguments = [
        "eval",
        str(file),
        "--methods",
        "bm25, random,lead",
        "--json",
        str(out),
        "--page",
        str(page),
        "--limit",
        "8",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "answer kept" in done.output
    assert "bm25" in done.output
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report) == {"command", "machine", "rows"}
    assert {"measure", "value", "unit", "target", "ok", "n", "spread"} <= set(report["rows"][0])
    text = (page / "evaluation-report.md").read_text(encoding="utf-8")
    assert "| bm25 |" in text
    assert (page / "evaluation-towers.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert CliRunner().invoke(app, ["eval", "no-such-set"]).exception is not None
    assert CliRunner().invoke(app, ["eval", "--limit", "0"]).exit_code == 2


@pytest.mark.parametrize(("methods", "unknown"), [("leed, random", "leed"), ("random,", ""), ("", "")])
def test_a_method_that_is_none_is_wrong_usage(file, methods, unknown, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: pytest.fail("nothing may run"))
    done = CliRunner().invoke(app, ["eval", str(file), "--methods", methods])
    assert done.exit_code == 2
    assert f"there is no method '{unknown}'; known names" in done.output


def test_what_cannot_be_written_is_told_before_anything_runs(file, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: pytest.fail("nothing may run"))
    for option, path in (("--json", tmp_path), ("--page", file)):
        assert CliRunner().invoke(app, ["eval", str(file), option, str(path)]).exit_code == 2
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    monkeypatch.setattr(_optional, "find_spec", lambda _: None)
    done = CliRunner().invoke(app, ["eval", str(file), "--page", str(tmp_path / "page")])
    assert isinstance(done.exception, MissingExtraError)
    assert "ctxcompress-integrations[eval]" in str(done.exception)


def test_what_looks_like_markup_is_shown_as_it_is(file, tmp_path):
    path = tmp_path / "a [red] set.jsonl"
    wrong = {"question": "Who?", "context": "Ada [/b].", "answers": [{"text": "[/b] Bob", "start": 4}]}
    path.write_text(file.read_text() + json.dumps(wrong), encoding="utf-8")
    done = CliRunner().invoke(app, ["eval", str(path), "--methods", "lexical", "--no-times"])
    assert done.exit_code == 0, done.output
    assert "'[/b] Bob'" in " ".join(done.output.split())
    assert "a [red] set: answer kept" in done.output
