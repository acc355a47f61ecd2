"""An adapter per corpus: it learns from the index's vectors, the index names it, a reader reads with it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ctxcompress_integrations import CompressedIndex
from ctxcompress_integrations.errors import SummaryMismatchError
from ctxcompress_integrations.evaluation.datasets import Example
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.readers.hf import HFReader
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.summarizers.pooled import Pooled
from ctxcompress_integrations.testing.tiny import tiny_decoder, tiny_small_world
from ctxcompress_integrations.training.lessons import Lesson, Shown, Task
from ctxcompress_integrations.training.lloco import CARD, record_adapter, train_lloco
from ctxcompress_integrations.training.lloco_course import LlocoCourse, LlocoRecipe, StoredVectors

pytest.importorskip("faiss")
PROMPT = "{context} Q: {question} A:"
ANSWERS = ("fox", "dog", "river", "tower")


class Letters:
    """An embedder that needs no model."""

    def embed_documents(self, texts):
        return [[float(text.count(c)) + 1e-3 for c in "aeioutr"] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


def rows(n):
    for i in range(n):
        answer = ANSWERS[i % 4]
        yield Example(str(i), "what?", (Passage("0", f"The quick {answer} number {i} over the bank."),), (answer,))


def index_for(model, tokenizer, folder, n=16, **choices):
    index = CompressedIndex.create(folder, embedder=Letters())
    index.add([Passage(f"p{i}", example.passages[0].text) for i, example in enumerate(rows(n))])
    torch.manual_seed(1)
    index.build_summaries(Pooled.untrained(model, tokenizer, reader=model, **{"pool": 2, **choices}))
    return index


def recipe(**changes):
    plan = {"lr": 2e-2, "epochs": 12, "batch": 4, "prompt": PROMPT, "eval_every": 24, "max_answer": 8, "rank": 4}
    return LlocoRecipe(**plan | changes)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_adapter_learns_and_the_index_and_a_reader_know_it(kind, tmp_path):
    model, tokenizer = tiny_small_world() if kind == "bert" else tiny_decoder()
    tokenizer.chat_template = None
    before, modules = weights_digest(model), [type(m).__name__ for m in model.modules()]
    out = tmp_path / "adapter"
    with index_for(model, tokenizer, tmp_path / "i") as index:
        stranger = Example("x", "what?", (Passage("0", "Not in the index."),), ("index",))
        trained = train_lloco(index, model, tokenizer, [*rows(16), stranger], out, recipe(epochs=24, eval_every=48))
        losses = [values["answer"] for _, values in trained.progress.losses]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.7 * losses[0]
        assert trained.n_questions == 16
        assert trained.left_out == {"are about a text of which the index holds no summary": 1}
        fingerprint = index.fingerprint_for(before)
        vectors = index.summaries(["p0"], fingerprint)[0]
        assert vectors.adapter == str(out)
        reader = HFReader(model, tokenizer, adapters={str(out): out})
        assert reader.generate([vectors, " Q: what? A:"], max_new_tokens=2) is not None
    assert weights_digest(model) == before
    assert [type(m).__name__ for m in model.modules()] == modules
    assert all(parameter.requires_grad for parameter in model.parameters()) == (kind == "llama")
    assert not hasattr(model, "peft_config")
    assert json.loads((out / CARD).read_text())["reader"] == before
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 16)
    assert len(config["target_modules"]) == 4


def test_defaults_are_the_papers():
    plan = LlocoRecipe()
    assert (plan.rank, plan.alpha, plan.dropout, plan.lr, plan.epochs, plan.warm_up) == (8, 16, 0.05, 2e-5, 3, 0.04)


def test_each_epoch_sees_every_lesson_once_in_an_order_of_its_own():
    made = [Lesson((Shown(str(i), True),), (Task("answer", "q", "a"),)) for i in range(8)]
    course = LlocoCourse(recipe(epochs=3, batch=4), made, StoredVectors({}), "f")
    seen = []

    def learner(lessons, _):
        seen.append([lesson.passages[0].text for lesson in lessons])
        return {"answer": torch.zeros(())}

    for step in range(course.steps):
        course.losses_at(learner, step, 0)
    epochs = [seen[i] + seen[i + 1] for i in range(0, 6, 2)]
    assert all(sorted(epoch) == [str(i) for i in range(8)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    rates = [course.rate_at(step) for step in range(course.steps)]
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)


def test_what_does_not_fit_is_refused(tmp_path):
    model, tokenizer = tiny_small_world()
    with index_for(model, tokenizer, tmp_path / "i") as index:
        with pytest.raises(ValueError, match="4 lessons can be made of the 4 questions, a batch takes 8"):
            train_lloco(index, model, tokenizer, list(rows(4)), tmp_path / "a", recipe(batch=8))
        other = tiny_small_world(seed=3)
        with pytest.raises(SummaryMismatchError, match="no summaries for the reader"):
            train_lloco(index, *other, list(rows(16)), tmp_path / "a", recipe())
        train_lloco(index, model, tokenizer, list(rows(16)), tmp_path / "a", recipe(epochs=1))
        with pytest.raises(ValueError, match="exists already"):
            train_lloco(index, model, tokenizer, list(rows(16)), tmp_path / "a", recipe())
    with (
        index_for(model, tokenizer, tmp_path / "j", pool=4) as index,
        pytest.raises(SummaryMismatchError, match="learned from summaries"),
    ):
        record_adapter(index, tmp_path / "a")


def test_an_adapter_that_the_index_was_not_told_of_is_told_of_by_the_same_command(tmp_path, monkeypatch):
    model, tokenizer = tiny_small_world()
    monkeypatch.chdir(tmp_path)
    out, plan, steps = Path("adapter"), recipe(epochs=1), []
    with index_for(model, tokenizer, tmp_path / "i") as index:
        with monkeypatch.context() as patch:
            patch.setattr(index, "set_adapter", lambda *_: pytest.fail("disk full"))
            with pytest.raises(pytest.fail.Exception):
                train_lloco(index, model, tokenizer, list(rows(16)), out, plan)
        written = (out / "adapter_model.safetensors").read_bytes()
        trained = train_lloco(index, model, tokenizer, list(rows(16)), out, plan, report=steps.append)
        (known,) = index.adapters.values()
    assert (steps, trained.progress.step) == ([], 4)
    assert known.name == str(tmp_path / "adapter"), "from any folder"
    assert (out / "adapter_model.safetensors").read_bytes() == written
    assert not Path("adapter.checkpoint").exists()


def test_of_a_long_document_its_vectors_are_read_and_of_no_other(tmp_path, monkeypatch):
    model, tokenizer = tiny_small_world()
    long = [f"{i} " + "The quick fox over the bank. " * 90 for i in range(6)]
    read = []
    with CompressedIndex.create(tmp_path / "i", embedder=Letters()) as index:
        index.add([Passage(f"p{i}", text) for i, text in enumerate(long)])
        index.build_summaries(Pooled.untrained(model, tokenizer, reader=model, pool=8))
        fingerprint = index.fingerprint_for(weights_digest(model))
        assert index.summaries(["p0"], fingerprint)[0].n_tokens > model.config.max_position_embeddings
        summaries = index.summaries
        monkeypatch.setattr(index, "summaries", lambda ids, *a, **k: read.extend(ids) or summaries(ids, *a, **k))
        asked = [Example(str(i), "what?", (Passage("0", text),), ("fox",)) for i, text in enumerate(long[:4])]
        trained = train_lloco(index, model, tokenizer, asked, tmp_path / "a", recipe(epochs=1))
    assert (trained.n_questions, trained.left_out) == (4, {})
    assert sorted(read) == ["p0", "p1", "p2", "p3"]


def test_an_interrupted_run_goes_on_and_leaves_the_reader_as_it_was(tmp_path):
    model, tokenizer = tiny_small_world()
    before = weights_digest(model)

    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    plan = recipe(epochs=2, eval_every=2)
    with index_for(model, tokenizer, tmp_path / "i") as index:
        train_lloco(index, model, tokenizer, list(rows(16)), tmp_path / "whole", plan)
        with pytest.raises(KeyboardInterrupt):
            train_lloco(index, model, tokenizer, list(rows(16)), tmp_path / "parts", plan, report=stop)
        assert weights_digest(model) == before
        assert not (tmp_path / "parts").exists()
        others = [replace(example, question="which?") for example in rows(16)]
        with pytest.raises(ValueError, match=r"another recipe \(data: "):
            train_lloco(index, model, tokenizer, others, tmp_path / "parts", plan)
        steps = []
        train_lloco(
            index, model, tokenizer, list(rows(16)), tmp_path / "parts", plan, report=lambda p: steps.append(p.step)
        )
    assert steps == list(range(3, 9))
    whole, parts = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts
