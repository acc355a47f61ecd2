"""Training of summarizers on a tiny reader: losses are what single prompts give, it learns, it resumes bit for bit."""

import json
import random
from dataclasses import replace

import pytest
import torch

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.evaluation.datasets import Example
from ctxcompress_integrations.hf.splice import Splicer
from ctxcompress_integrations.pipeline import around
from ctxcompress_integrations.readers.hf import HFReader
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.summarizers.autocompressor import AutoCompressor
from ctxcompress_integrations.summarizers.icae import Icae
from ctxcompress_integrations.summarizers.icformer import IcFormer
from ctxcompress_integrations.summarizers.pooled import Pooled
from ctxcompress_integrations.testing.tiny import tiny_decoder, tiny_small_world
from ctxcompress_integrations.training import world
from ctxcompress_integrations.training.exact import exact_match
from ctxcompress_integrations.training.lessons import REPEAT, Lesson, Mix, Shown, Study, Task, lessons
from ctxcompress_integrations.training.loop import TrainingError, finish
from ctxcompress_integrations.training.script import fitted, script_of
from ctxcompress_integrations.training.soft import Recipe, Stage, train_soft
from ctxcompress_integrations.training.studies import studies_of
from ctxcompress_integrations.training.superposed import Superposed, WordWeights
from ctxcompress_integrations.training.teaching import Teaching

PROMPT = "{context} Q: {question} A:"
SUMMARIZERS = {
    "autocompressor": lambda m, t: AutoCompressor.untrained(m, t, n_summary=4, segment_tokens=16),
    "icae": lambda m, t: Icae.untrained(m, t, n_memory=4, rank=2, layers=("query", "value", "q_proj", "v_proj")),
    "icformer": lambda m, t: IcFormer.untrained(m, t, n_digests=4, chunk_tokens=16, n_heads=4, n_inner=32, n_layers=1),
    "pooled": lambda m, t: Pooled.untrained(m, t, reader=m, pool=4),
}
FACTS = ("red fox", "dog", "1889", "river bank")


def rows(n):
    for i in range(n):
        first, second = FACTS[i % 4], FACTS[(i // 4) % 4]
        text = f"The {first} and then the {second} number {i}."
        for question, answer in (("first?", first), ("second?", second)):
            yield Example(f"{i}", question, (Passage("0", text),), (answer,))


def studies(splicer, n=24):
    return studies_of(rows(n), splicer, prompt=PROMPT, limit=256, max_answer=16)[0]


def recipe(**changes):
    stage = Stage(6, Mix(continuation=0.3), ratio=2)
    return Recipe(
        **{"stages": (stage,), "batch": 4, "lr": 1e-2, "warm_up": 2, "prompt": PROMPT, "eval_every": 2, **changes}
    )


def weights_of(model):
    return WordWeights(torch.linspace(0.1, 1.0, len(model.get_input_embeddings().weight)))


def slow_loss(model, splicer, shown, task, vectors):
    """Of one task alone: the prompt as the reader makes it, one forward, one token at a time."""
    parts = ["[1] ", None] if shown.as_vectors else ["[1] " + shown.text]
    table = model.get_input_embeddings()
    before, after = (splicer.segments([text])[0] for text in ("[1] ", f" Q: {task.question} A:"))
    opening = len(before) - len(splicer.tokenizer("[1] ", add_special_tokens=False)["input_ids"])
    if parts[-1] is None:
        rows_ = [table(torch.tensor(before)), vectors, table(torch.tensor(after[opening:]))]
    else:
        rows_ = [table(torch.tensor(splicer.segments(around(parts, task.question, PROMPT))[0]))]
    answer = splicer.answer(task.answer)
    whole = torch.cat([*rows_, table(torch.tensor(answer))])
    logits = model(inputs_embeds=whole[None]).logits[0].log_softmax(-1)
    return [-logits[len(whole) - len(answer) - 1 + i, token] for i, token in enumerate(answer)]


@pytest.mark.parametrize("reader", ["bert", "llama"])
@pytest.mark.parametrize("as_vectors", [True, False])
def test_packed_losses_are_those_of_single_prompts(reader, as_vectors):
    torch.manual_seed(0)
    model, tokenizer = tiny_small_world() if reader == "bert" else tiny_decoder()
    tokenizer.chat_template = None
    splicer = Splicer(model.get_input_embeddings(), tokenizer)
    summarizer = SUMMARIZERS["icae"](model, tokenizer)
    found = [
        Lesson(
            (Shown(s.text, as_vectors),),
            (*(Task("answer", *q) for q in s.questions), Task("autoencode", REPEAT, s.text)),
        )
        for s in studies(splicer, 3)
    ]
    teaching = Teaching(model, splicer, prompt=PROMPT, written=[summarizer.module])
    losses = teaching(found, summarizer)
    slow = {"answer": [], "autoencode": []}
    for lesson in found:
        vectors = summarizer.written([lesson.passages[0].text])[0]
        for task in lesson.tasks:
            slow[task.kind] += slow_loss(model, splicer, lesson.passages[0], task, vectors)
    assert losses.keys() == slow.keys()
    for kind, values in slow.items():
        torch.testing.assert_close(losses[kind], torch.stack(values).mean(), atol=2e-4, rtol=1e-4)
    if not as_vectors:
        return
    grads = []
    for total in (losses["answer"], torch.stack(slow["answer"]).mean()):
        summarizer.module.zero_grad()
        total.backward()
        grads.append(summarizer.module.memory.grad.clone())
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-3)


def test_distillation_is_the_divergence_from_the_full_text():
    model, tokenizer = tiny_small_world()
    splicer = Splicer(model.get_input_embeddings(), tokenizer)
    lesson = [Lesson((Shown(s.text, False),), (Task("answer", *s.questions[0]),)) for s in studies(splicer, 2)]
    teaching = Teaching(model, splicer, prompt=PROMPT)
    assert float(teaching(lesson, None, 1.0)["distil"].detach()) == pytest.approx(0.0, abs=1e-5)
    with_vectors = [Lesson((Shown(x.passages[0].text, True),), x.tasks) for x in lesson]
    summarizer = SUMMARIZERS["pooled"](model, tokenizer)
    found = teaching(with_vectors, summarizer, 1.0)["distil"]
    texts = [x.passages[0].text for x in lesson]
    vectors = dict(zip(texts, summarizer.written(texts), strict=True))
    logits = [
        teaching._logits(some, [script_of(one, splicer, teaching.prompt) for one in some], vectors)
        for some in (lesson, with_vectors)
    ]
    taught, said = (x.log_softmax(-1) for x in logits)
    torch.testing.assert_close(found, (taught.exp() * (taught - said)).sum(-1).mean())


@pytest.mark.parametrize("name", SUMMARIZERS)
@pytest.mark.parametrize("recomputes", [False, True])
def test_a_few_steps_improve_every_summarizer_and_leave_the_reader(name, recomputes, tmp_path):
    torch.manual_seed(0)
    model, tokenizer = tiny_small_world()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    summarizer = SUMMARIZERS[name](model, tokenizer)
    data = studies(Splicer(model.get_input_embeddings(), tokenizer))
    stage = Stage(30, Mix(), ratio=2)
    plan = recipe(stages=(stage,), eval_every=10, recomputes=recomputes)
    seen = train_soft(model, tokenizer, data, tmp_path / "x.safetensors", plan, summarizers=[summarizer])
    assert seen.losses[-1][1]["autoencode"] < seen.losses[0][1]["autoencode"]
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    summarizer.save(tmp_path / "x.safetensors", card={"steps": seen.step})
    finish(tmp_path / "x.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.curves.json", "x.safetensors"]


def test_a_reader_learns_to_answer_and_its_embeddings_stay(tmp_path):
    torch.manual_seed(0)
    model, tokenizer = tiny_small_world()
    embeddings = model.bert.embeddings.state_dict()
    before = {key: tensor.clone() for key, tensor in embeddings.items()}
    data = studies(Splicer(model.get_input_embeddings(), tokenizer), 16)
    reader, examples = HFReader(model, tokenizer), list(rows(16))

    def measure():
        return {"text": exact_match(reader, examples, prompt=PROMPT, max_new_tokens=8)}

    start = measure()["text"]
    stage = Stage(60, Mix(text_share=1.0, autoencode=0.0))
    plan = recipe(stages=(stage,), reader_lr=5e-3, eval_every=60)
    seen = train_soft(model, tokenizer, data, tmp_path / "x.safetensors", plan, measure=measure)
    assert seen.dev[-1][1]["text"] > start + 0.2
    assert all(torch.equal(tensor, before[key]) for key, tensor in embeddings.items())


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path):
    def run(out, stop_at=None, steps=None):
        torch.manual_seed(0)
        model, tokenizer = tiny_small_world()
        made = [SUMMARIZERS[name](model, tokenizer) for name in ("icae", "pooled")]

        def report(progress):
            if steps is not None:
                steps.append(progress.step)
            if progress.step == stop_at:
                raise KeyboardInterrupt

        data = studies(Splicer(model.get_input_embeddings(), tokenizer))
        train_soft(model, tokenizer, data, out, recipe(reader_lr=1e-3), summarizers=made, report=report)
        return {**model.state_dict(), **made[0].module.state_dict(), **made[1].module.state_dict()}

    whole = run(tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts.safetensors", stop_at=3)
    steps = []
    parts = run(tmp_path / "parts.safetensors", steps=steps)
    assert steps == [3, 4, 5, 6]  # the checkpoint stands at 2
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    curves = [json.loads((tmp_path / f"{name}.curves.json").read_text()) for name in ("whole", "parts")]
    assert curves[0]["losses"] == curves[1]["losses"]


def test_a_checkpoint_of_another_recipe_is_not_mixed_in(tmp_path):
    model, tokenizer = tiny_small_world()
    made, data = SUMMARIZERS["pooled"](model, tokenizer), studies(Splicer(model.get_input_embeddings(), tokenizer))
    train_soft(model, tokenizer, data, tmp_path / "x", recipe(), summarizers=[made])
    with pytest.raises(ValueError, match="another recipe"):
        train_soft(model, tokenizer, data, tmp_path / "x", recipe(lr=1e-3), summarizers=[made])


def test_a_checkpoint_of_other_data_another_reader_or_other_summarizers_is_not_mixed_in(tmp_path):
    model, tokenizer = tiny_small_world()
    splicer = Splicer(model.get_input_embeddings(), tokenizer)
    made, data = SUMMARIZERS["pooled"](model, tokenizer), studies(splicer)
    train_soft(model, tokenizer, data, tmp_path / "x", recipe(), summarizers=[made])
    other, its = tiny_small_world(seed=3)
    example = Superposed(model, tokenizer, weights_of(model), segment_tokens=2)
    for what, given, changes in (
        ("data", (model, tokenizer, studies(splicer, 23)), {"summarizers": [made]}),
        ("reader", (other, its, data), {"summarizers": [SUMMARIZERS["pooled"](other, its)]}),
        (
            r"summarizers\.0\.align: 'tokens' there, 'sentences' here",
            (model, tokenizer, data),
            {"summarizers": [made.changed(align="sentences")]},
        ),
        (r"summarizers\.0\.name", (model, tokenizer, data), {"summarizers": [SUMMARIZERS["icae"](model, tokenizer)]}),
        (r"example\.name", (model, tokenizer, data), {"summarizers": [made], "example": example}),
    ):
        with pytest.raises(ValueError, match=rf"another recipe \(.*{what}"):
            train_soft(*given, tmp_path / "x", recipe(), **changes)
    four, three = (Icae.untrained(model, tokenizer, n_memory=n, rank=2, layers=("query",)) for n in (4, 3))
    train_soft(model, tokenizer, data, tmp_path / "y", recipe(), summarizers=[four])
    with pytest.raises(ValueError, match=r"\(summarizers\.0\.module\.n_memory: 4 there, 3 here\)"):
        train_soft(model, tokenizer, data, tmp_path / "y", recipe(), summarizers=[three])


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint(tmp_path):
    model, tokenizer = tiny_small_world()
    made, data = SUMMARIZERS["pooled"](model, tokenizer), studies(Splicer(model.get_input_embeddings(), tokenizer))

    def spoil(progress):
        if progress.step == 3:
            made.module.maps[0].weight.data.fill_(float("nan"))

    with pytest.raises(TrainingError, match="not a number at step 4"):
        train_soft(model, tokenizer, data, tmp_path / "x", recipe(), summarizers=[made], report=spoil)
    steps = []
    train_soft(
        model, tokenizer, data, tmp_path / "x", recipe(), summarizers=[made], report=lambda p: steps.append(p.step)
    )
    assert steps == [3, 4, 5, 6]


def test_rows_that_cannot_be_used_are_counted_by_reason():
    model, tokenizer = tiny_small_world()
    splicer = Splicer(model.get_input_embeddings(), tokenizer)
    two = (Passage("0", "One passage."), Passage("1", "Another."))
    bad = [
        Example("a", "who?", (Passage("0", "Nobody."),)),
        Example("b", "who?", two, ("passage",)),
        Example("c", "who?", (Passage("0", "A fox " * 60),), ("fox " * 50,)),
        Example("d", "who?", (Passage("0", "river " * 300),), ("river",)),
    ]
    found, left_out = studies_of([*rows(2), *bad], splicer, prompt=PROMPT, limit=256, max_answer=16)
    assert [len(study.questions) for study in found] == [2, 2]
    assert left_out == {
        "have no answer": 1,
        "do not say which passage answers": 1,
        "have an answer longer than 16 tokens": 1,
        "take more than the 256 positions of the reader": 1,
    }
    with pytest.raises(ValueError, match="2 usable passages, a batch takes 4"):
        lessons(found, Mix(), batch=4, draw=random.Random(0))
    with pytest.raises(ValueError, match="of at most 3 tokens"):
        lessons(found, Mix(max_tokens=3), batch=2, draw=random.Random(0))


def test_what_cannot_learn_is_refused(tmp_path):
    model, tokenizer = tiny_small_world()
    with pytest.raises(ValueError, match="nothing learns"):
        train_soft(model, tokenizer, [], tmp_path / "x", recipe())
    with pytest.raises(ValueError, match="float32"):
        train_soft(model.to(torch.bfloat16), tokenizer, [], tmp_path / "x", recipe(reader_lr=1.0))
    gemma, its = tiny_decoder("gemma2")
    with pytest.raises(UnsupportedModelError, match="caps its logits"):
        train_soft(gemma, its, [], tmp_path / "x", recipe(reader_lr=1.0))
    llama, its = tiny_decoder()
    for field in ("logits_scaling", "logit_scale"):  # Granite's and Cohere's
        setattr(llama.config, field, 8.0)
        with pytest.raises(UnsupportedModelError, match=rf"scales its logits \({field}=8.0\)"):
            train_soft(llama, its, [], tmp_path / "x", recipe(reader_lr=1.0))
        setattr(llama.config, field, 1.0)
    with pytest.raises(ValueError, match="0 usable passages"):
        train_soft(llama, its, [], tmp_path / "x", recipe(reader_lr=1.0))


@pytest.mark.parametrize("learns", [True, False])
def test_imitation_is_the_squared_distance_to_what_the_example_wrote(learns):
    torch.manual_seed(0)
    model, tokenizer = tiny_small_world()
    model.requires_grad_(learns)
    splicer = Splicer(model.get_input_embeddings(), tokenizer)
    shown = [Lesson((Shown(s.text, False),), (Task("answer", *s.questions[0]),)) for s in studies(splicer, 3)]
    example = Superposed(model, tokenizer, weights_of(model), segment_tokens=4)
    follower = SUMMARIZERS["pooled"](model, tokenizer).changed(align="sentences")
    losses = Teaching(model, splicer, prompt=PROMPT)(shown, example, 0.0, follower)
    assert losses.keys() == ({"imitate", "answer"} if learns else {"imitate"})  # a frozen reader reads nothing
    pairs = [
        (wrote.vectors, wanted.vectors)
        for lesson in shown
        for wrote, wanted in zip(*(w.summarize([lesson.passages[0].text]) for w in (follower, example)), strict=True)
    ]
    slow = sum(((a - b) ** 2).sum() for a, b in pairs) / sum((b**2).sum() for _, b in pairs)
    assert float(losses["imitate"].detach()) == pytest.approx(float(slow), rel=1e-4)
    losses["imitate"].backward()
    assert follower.module.maps[0].weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="pooled writes 12 vectors where superposed writes 16"):
        Teaching(model, splicer, prompt=PROMPT)(shown, example, 0.0, follower.at_ratio(6))


def test_a_stage_that_imitates_moves_a_summarizer_towards_its_example(tmp_path):
    torch.manual_seed(0)
    model, tokenizer = tiny_small_world()
    found = studies(Splicer(model.get_input_embeddings(), tokenizer))
    example = Superposed(model, tokenizer, weights_of(model), segment_tokens=2)
    follower = SUMMARIZERS["pooled"](model, tokenizer).changed(align="sentences")
    plan = recipe(stages=(Stage(12, Mix(), ratio=4, weights={"imitate": 1.0}),), lr=3e-2)
    seen = train_soft(model, tokenizer, found, tmp_path / "x", plan, summarizers=[follower], example=example)
    first, last = (sum(loss["imitate"] for _, loss in part) for part in (seen.losses[:2], seen.losses[-2:]))
    assert last < 0.8 * first
    with pytest.raises(ValueError, match="takes an example"):
        train_soft(model, tokenizer, found, tmp_path / "y", plan, summarizers=[follower])


def test_retelling_asks_for_a_telling_and_its_loss_has_a_name():
    torch.manual_seed(0)
    model, tokenizer = tiny_small_world()
    splicer = Splicer(model.get_input_embeddings(), tokenizer)
    told = {example.passages[0].text: [f"Told again, {example.passages[0].text}"] for example in rows(8)}
    known = studies_of(rows(8), splicer, prompt=PROMPT, limit=256, max_answer=16, tellings=told)[0]
    mix = Mix(retelling=1.0, text_share=1.0)
    drawn = lessons(known, mix, batch=4, draw=random.Random(0))
    assert {task.kind for lesson in drawn for task in lesson.tasks} == {"retell"}
    assert all(lesson.tasks[0].answer == told[lesson.passages[0].text][0] for lesson in drawn)
    losses = Teaching(model, splicer, prompt=PROMPT)(drawn, None)
    assert losses.keys() == {"retell"}
    losses["retell"].backward()
    without = studies_of(rows(8), splicer, prompt=PROMPT, limit=256, max_answer=16)[0]
    asked = lessons(without, mix, batch=4, draw=random.Random(0))
    assert {task.kind for lesson in asked for task in lesson.tasks} == {"answer"}


def test_lessons_are_decided_by_the_draw_and_show_what_the_mix_says():
    made = [
        Study(one.text, 80, tuple((e.question, e.answers[0]) for e in one.examples))
        for one in world.documents(world.TRAINED, "train", 30)
    ]
    mix = Mix(autoencode=0.5, continuation=0.2, n_questions=2, n_passages=3, text_share=0.5)
    drawn = [lessons(made, mix, batch=8, draw=random.Random(i)) for i in range(20)]
    assert drawn[0] == lessons(made, mix, batch=8, draw=random.Random(0))
    flat = [lesson for step in drawn for lesson in step]
    assert {len(lesson.passages) for lesson in flat} == {1, 2, 3}
    shown = [passage.as_vectors for lesson in flat for passage in lesson.passages]
    assert 0.4 < sum(shown) / len(shown) < 0.6
    for step in drawn:  # rows of one length: a step asks all of its passages for the same
        assert len({lesson.tasks[-1].kind for lesson in step}) == 1
    kinds = [task.kind for lesson in flat for task in lesson.tasks]
    assert {"autoencode", "continue", "answer"} == set(kinds)
    for lesson in flat:
        for task in lesson.tasks:
            if task.kind == "autoencode":
                assert task.answer == lesson.passages[-1].text
            elif task.kind == "continue":
                assert f"{lesson.passages[0].text} {task.answer}" in {study.text for study in made}
            else:
                assert any(task.answer in passage.text for passage in lesson.passages)


def test_a_prompt_shows_as_much_text_as_the_mix_allows():
    made = [Study(f"p{i}", 10 + i % 3, ((f"q{i}", "a"),)) for i in range(30)]
    n_tokens = {study.text: study.n_tokens for study in made}
    mix = Mix(autoencode=0.0, n_passages=8, text_share=0.8)

    def text_of(mix):
        drawn = [lesson for i in range(40) for lesson in lessons(made, mix, batch=8, draw=random.Random(i))]
        return [[n_tokens[p.text] for p in lesson.passages if not p.as_vectors] for lesson in drawn]

    bounded = text_of(replace(mix, max_text=25))
    assert max(map(sum, text_of(mix))) > 60
    assert {len(shown) for shown in bounded} == {0, 1, 2}
    assert max(map(sum, bounded)) <= 25
    assert not any(text_of(replace(mix, max_text=9))), "none is cut"


def test_a_prompt_shows_one_shelf_and_asks_nothing_that_two_of_its_passages_answer():
    shelved = [
        Study(
            f"{shelf}{i} has {i}.",
            4,
            ((f"What has {shelf}{i}?", str(i)), (f"Who has {i // 2}?", f"{shelf}{i}")),
            shelf=shelf,
        )
        for shelf in "ab"
        for i in range(8)
    ]
    loose = [Study(f"c{i} has {i}.", 4, ((f"What has c{i}?", str(i)),)) for i in range(8)]
    mix = Mix(autoencode=0.0, n_passages=4, n_questions=2)
    steps = [lessons([*shelved, *loose], mix, batch=12, draw=random.Random(i)) for i in range(60)]
    of = {study.text: study for study in (*shelved, *loose)}
    for step in steps:
        size = len(step[0].passages)
        assert len(step) == 12 // size, "as many passages in every step"
        for lesson in step:
            shown = [of[passage.text] for passage in lesson.passages]
            assert len({study.text for study in shown}) == len(shown) == size
            asked = [question for study in shown for question, _ in study.questions]
            assert sorted(task.question for task in lesson.tasks) == sorted(set(asked)), "all of them are asked about"
            assert any(len({study.shelf for study in shown}) == 1 or not study.shelf for study in shown)
    assert {len(step[0].passages) for step in steps} == {1, 2, 3, 4}
    places = [[of[p.text].shelf for p in lesson.passages] for step in steps for lesson in step]
    assert sum(len(one) > 1 and set(one) == {"a"} for one in places) > 10
    (alone,) = lessons(loose[:3], Mix(autoencode=0.0, n_passages=9), batch=2, draw=random.Random(3))
    assert len(alone.passages) == 2, "no more than a batch has"


def test_a_passage_is_given_back_as_far_as_positions_reach_and_an_answer_that_does_not_fit_is_named():
    model, tokenizer = tiny_small_world()
    splicer = Splicer(model.get_input_embeddings(), tokenizer)
    (study,) = studies(splicer, 1)
    passage = (Shown(study.text, False),)
    asked, again = Task("answer", *study.questions[0]), Task("autoencode", REPEAT, study.text)
    whole = script_of(Lesson(passage, (asked, again)), splicer, PROMPT)
    n_whole = len(whole.beginning) + max(map(len, whole.endings))
    assert fitted(whole, (asked, again), n_whole) == whole
    cut = fitted(whole, (asked, again), n_whole - 3)
    assert cut.beginning == whole.beginning
    assert cut.endings == [whole.endings[0], whole.endings[1][:-3]]
    assert cut.n_answers == [whole.n_answers[0], whole.n_answers[1] - 3]
    model.config.max_position_embeddings = n_whole - 3
    losses = Teaching(model, splicer, prompt=PROMPT)([Lesson(passage, (asked, again))], None)
    assert losses.keys() == {"answer", "autoencode"}
    with pytest.raises(ValueError, match="1 positions more"):
        fitted(whole, (asked, again), len(whole.beginning) + len(whole.endings[0]) - 1)
    only = script_of(Lesson(passage, (again,)), splicer, PROMPT)
    with pytest.raises(ValueError, match="positions more"):
        fitted(only, (again,), len(only.beginning) + len(only.endings[0]) - only.n_answers[0])


def test_passages_longer_than_half_of_the_positions_are_trained_on(tmp_path):
    torch.manual_seed(0)
    model, tokenizer = tiny_small_world()
    splicer = Splicer(model.get_input_embeddings(), tokenizer)
    limit = model.config.max_position_embeddings
    long = " ".join(["the red fox and the dog"] * (limit // 12))
    made = [
        Study(f"{i} {long}", splicer.count(f"{i} {long}"), ((f"What is number {i}?", "red fox"),)) for i in range(4)
    ]
    assert limit // 2 < made[0].n_tokens < limit
    summarizer = SUMMARIZERS["pooled"](model, tokenizer)
    stages = (Stage(2, Mix(autoencode=1.0), ratio=1),)
    seen = train_soft(model, tokenizer, made, tmp_path / "a", recipe(stages=stages, batch=2), summarizers=[summarizer])
    assert seen.step == 2


def test_of_several_ratios_every_step_draws_one(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model, tokenizer = tiny_small_world()
    summarizer, seen = SUMMARIZERS["pooled"](model, tokenizer), []
    monkeypatch.setattr(Pooled, "at_ratio", lambda self, ratio: seen.append(ratio) or self)
    found = studies(Splicer(model.get_input_embeddings(), tokenizer))
    stages = (Stage(8, Mix(continuation=0.3), ratio=(2, 5)), Stage(2, Mix(), ratio=3))
    train_soft(model, tokenizer, found, tmp_path / "a", recipe(stages=stages), summarizers=[summarizer])
    assert set(seen[:8]) == {2, 5}
    assert seen[8:] == [3, 3]
