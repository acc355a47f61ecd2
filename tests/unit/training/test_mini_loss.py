"""The batched losses against loops written from their definitions."""

import random

import numpy as np
import pytest
import torch

from ctxcompress_integrations.evaluation.datasets import Example, Stretch
from ctxcompress_integrations.hf.mini_weights import untrained
from ctxcompress_integrations.hf.token_reader import TokenReader
from ctxcompress_integrations.nn.late_interaction import TrainingHead
from ctxcompress_integrations.nn.packed_encoder import pack
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.testing.tiny import tiny_encoder
from ctxcompress_integrations.training import mini_batch, mini_loss
from ctxcompress_integrations.training.mini_data import Batch, build

ROWS = (
    ("Where was Ada born?", "Ada was born in Rome. She wrote a book.", "Rome"),
    ("What did she write?", "Ada was born in Rome. She wrote a book.", "book"),
    ("Who lives in Rome?", "The king lives there. Rome is old. A book fell.", "king"),
)


@pytest.fixture
def setting():
    base, tokenizer = tiny_encoder()
    examples = []
    for i, (question, text, answer) in enumerate(ROWS):
        start = text.index(answer)
        examples.append(
            Example(
                str(i),
                question,
                (Passage("0", text, metadata={"title": "Ada_of Rome"} if i < 2 else {}),),
                (answer,),
                (Stretch(0, start, start + len(answer)),),
            )
        )
    hops = (Passage("0", "The book is by Bo."), Passage("1", "Bo was born here. Sun."))
    examples.append(Example("h", "Where was the author born?", hops, (), (), (Stretch(0, 0, 18), Stretch(1, 0, 17))))
    data = build(examples, tokenizer)
    torch.manual_seed(0)
    model = untrained(base, layers=(0, 1), n_dims=8)
    teacher = untrained(base, layers=(0, 1), n_dims=8).encoder
    torch.nn.init.normal_(model.importance.weight)
    torch.nn.init.normal_(model.shares.weight)
    for parameter in model.encoder.layers[1].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.encoder.layers[0].requires_grad_(False)
    return model, TrainingHead(), teacher, data, tokenizer


def fast_losses(setting, batch):
    model, head, teacher, data, tokenizer = setting
    return mini_loss.batch_losses(
        model, head, teacher.layers[1:], data, batch, TokenReader(tokenizer), random.Random(0)
    )


def slow_losses(model, head, teacher, data, tokenizer, batch, titled=True):  # noqa: C901 - loops are the point
    """Everything by loops, one text at a time."""

    def states(ids, encoder=model.encoder):
        return encoder(torch.tensor(ids), pack([len(ids)]))

    def unit(vector):
        return vector / vector.norm()

    def read(passage):
        return passage.ids[: passage.first] + (passage.title_ids if titled else []) + passage.ids[passage.first :]

    def title_and_text(p):
        vectors = model.passage_vectors(states(read(data.passages[p])))
        n_title = len(read(data.passages[p])) - len(data.passages[p].ids)
        first = data.passages[p].first
        return vectors[first : first + n_title], torch.cat([vectors[:first], vectors[first + n_title :]])

    asked = [tokenizer(data.questions[q].text)["input_ids"] for q in batch.questions]
    everything = [*(read(data.passages[p]) for p in batch.passages), *asked]
    drift = [1 - unit(states(ids).mean(0)) @ unit(states(ids, teacher).mean(0)) for ids in everything]
    titles, vectors = ({p: title_and_text(p)[k] for p in batch.passages} for k in (0, 1))
    scale = head.sentence_scale.exp()
    totals = [[], [], [], [], drift]
    for number in batch.questions:
        question = data.questions[number]
        question_states = states(tokenizer(question.text)["input_ids"])
        query = model.query_vectors(question_states)
        share, pooled_share = torch.nn.functional.softplus(model.shares(question_states.mean(0)))
        logit, unknown = {}, set()
        for p in batch.passages:
            passage = data.passages[p]
            cosine = query.vectors @ vectors[p].T
            of_sentences = []
            for s in range(passage.n_sentences):
                inside = [i for i, x in enumerate(passage.sentence) if x == s]
                of_sentences.append(cosine[:, inside].max(dim=1).values)
            of_title = [(query.vectors @ titles[p].T).max(dim=1).values] if len(titles[p]) else []
            whole = (torch.stack(of_sentences + of_title).max(dim=0).values * query.weights).sum()
            alike = unit(question_states.mean(0)) @ unit(states(read(passage)).mean(0))
            for s, best in enumerate(of_sentences):
                score = (best * query.weights).sum() + share * whole + pooled_share * alike
                logit[p, s] = (score / (1 + share + pooled_share) - head.middle) * scale
                inside = [c for c, x in zip(passage.starts, passage.sentence, strict=True) if x == s]
                text = passage.text[inside[0] : inside[-1] + 1]
                if p not in question.passages and any(a in text for a in question.answers if len(a) > 2):
                    unknown.add((p, s))
        known = {key: value for key, value in logit.items() if key not in unknown}
        positive = [known[key] for key in question.positives]
        own = {key: value for key, value in known.items() if key[0] in question.passages}
        for total, among in ((totals[0], known), (totals[1], own)):
            if question.needs_all:
                rest = [v for key, v in among.items() if key not in question.positives]
                each = [torch.logsumexp(torch.stack([v, *rest]), 0) - v for v in positive]
                total.append(torch.stack(each).mean())
            else:
                total.append(
                    torch.logsumexp(torch.stack(list(among.values())), 0) - torch.logsumexp(torch.stack(positive), 0)
                )
        softplus = torch.nn.functional.softplus
        stacked = torch.stack(positive)
        best = softplus(-stacked).mean() if question.needs_all else softplus(-torch.logsumexp(stacked, 0))
        near = [v for key, v in own.items() if key not in question.positives]
        far = sorted((v for key, v in known.items() if key not in own), reverse=True)[:4]
        far += [torch.tensor(-1e4)] * (4 - len(far))
        near_mean = softplus(torch.stack(near)).mean() if near else torch.tensor(0.0)
        totals[2].append(best + near_mean + softplus(torch.stack(far)).mean())
        if question.answer_spans:
            p = question.passages[0]
            token = (query.vectors[0] @ vectors[p].T) * head.token_scale.exp()
            hit = [
                i for i, c in enumerate(data.passages[p].starts) if any(a <= c < b for a, b in question.answer_spans)
            ]
            totals[3].append(torch.logsumexp(token, 0) - torch.logsumexp(token[hit], 0))
    return [torch.stack(total).mean() for total in totals]


@pytest.mark.parametrize("titled", [True, False])
def test_losses_equal_the_loops_in_value_and_gradient(setting, titled, monkeypatch):
    model, _, _, data, _ = setting
    monkeypatch.setattr(mini_batch, "TITLE_SHARE", float(titled))
    monkeypatch.setattr(mini_batch, "noisy", lambda question, _: question)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: torch.enable_grad())  # fp32 throughout
    batch = Batch(list(range(len(data.passages))), list(range(len(data.questions))))
    fast = fast_losses(setting, batch)
    slow = slow_losses(*setting, batch, titled)
    assert float(fast.drift.detach()) > 0.01
    np.testing.assert_allclose(
        [float(x.detach()) for x in fast], [float(x.detach()) for x in slow], rtol=1e-4, atol=1e-5
    )
    fast.total.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    weights = (1, 1, mini_loss.ANSWERABLE_WEIGHT, mini_loss.TOKEN_WEIGHT, mini_loss.DRIFT_WEIGHT)
    sum(weight * loss for weight, loss in zip(weights, slow, strict=True)).backward()
    assert {"shares.weight", "encoder.layers.1.up.weight"} <= ours.keys()
    assert not any(name.startswith("encoder.layers.0") for name in ours)
    for name, parameter in model.named_parameters():
        if name in ours:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_bf16_autocast_is_near(setting, monkeypatch):
    data = setting[3]
    monkeypatch.setattr(mini_batch, "noisy", lambda question, _: question)
    monkeypatch.setattr(mini_batch, "TITLE_SHARE", 1.0)
    batch = Batch(list(range(len(data.passages))), list(range(len(data.questions))))
    fast = fast_losses(setting, batch)
    slow = slow_losses(*setting, batch)
    np.testing.assert_allclose([float(x.detach()) for x in fast], [float(x.detach()) for x in slow], rtol=0.1, atol=0.1)


def test_a_batch_without_marked_answers_has_no_token_loss(setting):
    model, data = setting[0], setting[3]
    hop = data.multi[0]
    losses = fast_losses(setting, Batch(list(data.questions[hop].passages), [hop]))
    assert float(losses.token.detach()) == 0.0
    losses.total.backward()
    assert torch.isfinite(model.query.weight.grad).all()
