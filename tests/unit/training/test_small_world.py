"""The recipe of the weights that ship, and their measure, in a few steps each: every lesson runs, none runs twice."""

from dataclasses import replace

import pytest

from ctxcompress_integrations.errors import SummaryMismatchError
from ctxcompress_integrations.hf import small_world as small_world_weights
from ctxcompress_integrations.hf.load import load_tokenizer, mini_folder
from ctxcompress_integrations.readers import load_reader
from ctxcompress_integrations.summarizers import load_summarizer
from ctxcompress_integrations.testing.tiny import tiny_small_world
from ctxcompress_integrations.training import bench_small_world as bench
from ctxcompress_integrations.training import small_world, small_world_studies, world
from ctxcompress_integrations.training.exact import exact_match
from ctxcompress_integrations.training.loop import TrainingError
from ctxcompress_integrations.training.small_world_plan import PARTS, Plan

pytestmark = pytest.mark.skipif(mini_folder() is None, reason="the extra 'offline' is not installed")
SHORT = Plan(copying=1, telling=1, text=2, superposed=8, imitated=2, vectors=2, several=2, icae=2, icformer=2, batch=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of parts, and the lessons with the steps at which each reported."""
    folder, seen = tmp_path_factory.mktemp("small-world"), []
    with pytest.MonkeyPatch.context() as patch:
        for size in ("N_LISTINGS", "N_BEGINNINGS", "N_SHORT", "N_DOCUMENTS"):
            patch.setattr(small_world_studies, size, 30)
        patch.setattr(small_world, "LEARNED", 100.0)
        maker = small_world.SmallWorld(folder, SHORT, report=lambda name, at: seen.append((name, at.step)), n_dev=2)
        maker.train()
    return folder, seen, maker


def test_every_lesson_runs_once_and_leaves_its_file(made):
    folder, seen, maker = made
    assert list(dict.fromkeys(name for name, _ in seen)) == list(SHORT.lessons)
    assert {name: max(step for other, step in seen if other == name) for name in SHORT.lessons} == {
        name: SHORT.recipe(name).steps for name in SHORT.lessons
    }
    names = {path.name for path in folder.glob("*.safetensors")}
    assert names == {f"{name}.safetensors" for name in ("listings", "text", "superposed")} | {
        f"small-world-{part}.safetensors" for part in ("reader", *PARTS)
    }
    assert not list(folder.glob("*.checkpoint"))
    maker.report = lambda *_: pytest.fail("trained what was trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_world, "LEARNED", 100.0)
        maker.train()


def test_what_another_plan_has_made_is_not_taken(made, tmp_path):
    folder, _, maker = made
    for name in ("listings.safetensors", "text.safetensors", "small-world-reader.safetensors", maker.path("icae").name):
        copied = tmp_path / name
        copied.write_bytes((folder / name).read_bytes())
        other = small_world.SmallWorld(tmp_path, replace(SHORT, seed=5), n_dev=2)
        with pytest.raises(ValueError, match=rf"{name} belongs to another recipe \(seed: 0 there, 5 here\)"):
            other.train()
        copied.unlink()


def test_listings_are_taught_again_until_they_are_learned(tmp_path, monkeypatch):
    monkeypatch.setattr(small_world_studies, "N_LISTINGS", 30)
    monkeypatch.setattr(small_world, "MOST_ROUNDS", 2)
    monkeypatch.setattr(small_world, "LEARNED", -1.0)
    seen = []
    maker = small_world.SmallWorld(tmp_path, SHORT, report=lambda *at: seen.append(at), n_dev=2)
    with pytest.raises(TrainingError, match="2 rounds"):
        maker.train()
    assert [name for name, _ in seen] == ["listings"] * 4
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"listings.safetensors", "listings-1.safetensors"}
    first, second = (
        small_world_weights.FORMAT.read(path)[0]["sha256"] for path in sorted(tmp_path.glob("*.safetensors"))
    )
    assert first != second


def test_parts_are_made_for_each_other_and_for_nobody_else(made):
    _, _, maker = made
    reader = load_reader(str(maker.path("reader")), device="cpu")
    for part in PARTS:
        writer = load_summarizer(part, model=str(maker.path("reader")), weights=maker.path(part), device="cpu")
        (summary,) = writer.summarize([world.document("ships", 0).text])
        assert summary.reader == reader.identity
        assert summary.n_vectors == writer.count_vectors(summary.n_tokens)
        assert summary.n_tokens / summary.n_vectors > 6
        assert reader.generate([summary, "Who?"], max_new_tokens=2) is not None
        changed = replace(summary, reader="f" * 64)
        with pytest.raises(SummaryMismatchError):
            reader.generate([changed, "Who?"], max_new_tokens=2)
    assert load_tokenizer(str(maker.path("reader"))).vocab_size == load_tokenizer("mini").vocab_size


def test_the_bench_reports_every_measure(made, monkeypatch):
    folder, _, _ = made
    for name, value in {"N_ADAPTED": 8, "N_ROAD": 6, "N_TIMED": 1, "BUDGETS": (48,)}.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "LLOCO", replace(bench.LLOCO, epochs=1, batch=4))
    rows = []
    bench.bench_small_world(rows.append, weights=folder, device="cpu", n=6)
    assert len({row.measure for row in rows}) == len(rows)
    targets = [row.target for row in rows if row.target]
    assert len(targets) > 15
    assert {part for part in PARTS if any(f", {part}: exact match" in row.measure for row in rows)} == set(PARTS)


def test_exact_match_knows_right_from_wrong():
    examples = small_world_studies.asked(world.documents(world.TRAINED, "dev", 3))

    class Knows:
        def generate_many(self, prompts, max_new_tokens):
            answers = {example.question: example.answers[0].upper() + " " for example in examples}
            return [next(a for q, a in answers.items() if q in str(prompt[-1])) for prompt in prompts]

    assert exact_match(Knows(), examples) == 1.0
    assert exact_match(Knows(), [replace(examples[0], answers=("nobody",)), *examples[1:]]) == pytest.approx(2 / 3)


def test_documents_that_are_found_together_resemble_each_other():
    documents = list(world.documents(world.TRAINED, "dev", 1000))
    found = small_world_studies.among(documents, 3, 50)
    assert found == small_world_studies.among(documents, 3, 50)
    of = {one.id: one for one in documents}
    places = []
    for right, example in zip(documents, found, strict=False):
        ids = [passage.id for passage in example.passages]
        assert len(set(ids)) == 3
        assert {of[i].domain for i in ids} == {right.domain}
        words = {word for fact in right.facts for word in fact.name.split()}
        assert all(words & set(" ".join(fact.name for fact in of[i].facts).split()) for i in ids)
        assert example.question in {one.question for one in right.examples}
        places.append(ids.index(right.id))
    assert set(places) == {0, 1, 2}

    class Sees:
        def generate_many(self, prompts, max_new_tokens):
            return [str(sum("[3] " in part for part in prompt if isinstance(part, str))) for prompt in prompts]

    assert exact_match(Sees(), [replace(one, answers=("1",)) for one in found]) == 1.0


def test_questions_go_both_ways_where_only_one_name_fits(monkeypatch):
    for size in ("N_BEGINNINGS", "N_SHORT", "N_DOCUMENTS"):
        monkeypatch.setattr(small_world_studies, size, 30)
    model, tokenizer = tiny_small_world()
    plain, both = (small_world_studies.told(model, tokenizer, both_ways=ways) for ways in (False, True))
    assert [study.text for study in both] == [study.text for study in plain]
    for one, other in zip(plain, both, strict=True):
        assert other.questions[: len(one.questions)] == one.questions
        added = other.questions[len(one.questions) :]
        assert all(question.startswith("Whose ") and name in other.text for question, name in added)
        assert len({question for question, _ in added}) == len(added)
    assert sum(len(study.questions) for study in both) > 1.8 * sum(len(study.questions) for study in plain)
