"""The batched losses against loops written from their definitions."""

import random

import numpy as np
import pytest
import torch

from ctxcompress_integrations.evaluation.datasets import Example, Stretch
from ctxcompress_integrations.hf.trained import untrained
from ctxcompress_integrations.nn.late_interaction import TrainingHead
from ctxcompress_integrations.nn.packed_encoder import pack
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.testing.tiny import tiny_encoder
from ctxcompress_integrations.training import mini_loss
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
            Example(str(i), question, (Passage("0", text),), (answer,), (Stretch(0, start, start + len(answer)),))
        )
    hops = (Passage("0", "The book is by Bo."), Passage("1", "Bo was born here. Sun."))
    examples.append(Example("h", "Where was the author born?", hops, (), (), (Stretch(0, 0, 18), Stretch(1, 0, 17))))
    data = build(examples, tokenizer)
    torch.manual_seed(0)
    model = untrained(base, layers=(0, 1), n_dims=8)
    torch.nn.init.normal_(model.importance.weight)
    return model, TrainingHead(), data, tokenizer


def slow_losses(model, head, data, batch, tokenizer):
    """Everything by loops, one text at a time."""

    def states(ids):
        return model.encoder(torch.tensor(ids), pack([len(ids)]))

    vectors = {p: model.passage_vectors(states(data.passages[p].ids)) for p in batch.passages}
    share, scale = model.passage_share, head.sentence_scale.exp()
    totals = [[], [], [], []]
    for number in batch.questions:
        question = data.questions[number]
        query = model.query_vectors(states(tokenizer(question.text)["input_ids"]))
        logit, unknown = {}, set()
        for p in batch.passages:
            passage = data.passages[p]
            cosine = query.vectors @ vectors[p].T
            of_sentences = []
            for s in range(passage.n_sentences):
                inside = [i for i, x in enumerate(passage.sentence) if x == s]
                of_sentences.append(cosine[:, inside].max(dim=1).values)
            whole = (torch.stack(of_sentences).max(dim=0).values * query.weights).sum()
            for s, best in enumerate(of_sentences):
                logit[p, s] = (((best * query.weights).sum() + share * whole) / (1 + share) - head.middle) * scale
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


def test_losses_equal_the_loops_in_value_and_gradient(setting, monkeypatch):
    model, head, data, tokenizer = setting
    monkeypatch.setattr(mini_loss, "noisy", lambda question, _: question)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: torch.enable_grad())  # fp32 throughout
    batch = Batch(list(range(len(data.passages))), list(range(len(data.questions))))
    fast = mini_loss.batch_losses(model, head, data, batch, tokenizer, random.Random(0))
    slow = slow_losses(model, head, data, batch, tokenizer)
    np.testing.assert_allclose(
        [float(x.detach()) for x in fast], [float(x.detach()) for x in slow], rtol=1e-4, atol=1e-5
    )
    fast.total.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    (slow[0] + slow[1] + mini_loss.ANSWERABLE_WEIGHT * slow[2] + mini_loss.TOKEN_WEIGHT * slow[3]).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_bf16_autocast_is_near(setting, monkeypatch):
    model, head, data, tokenizer = setting
    monkeypatch.setattr(mini_loss, "noisy", lambda question, _: question)
    batch = Batch(list(range(len(data.passages))), list(range(len(data.questions))))
    fast = mini_loss.batch_losses(model, head, data, batch, tokenizer, random.Random(0))
    slow = slow_losses(model, head, data, batch, tokenizer)
    np.testing.assert_allclose([float(x.detach()) for x in fast], [float(x.detach()) for x in slow], rtol=0.1, atol=0.1)


def test_a_batch_without_marked_answers_has_no_token_loss(setting):
    model, head, data, tokenizer = setting
    hop = data.multi[0]
    losses = mini_loss.batch_losses(
        model, head, data, Batch(list(data.questions[hop].passages), [hop]), tokenizer, random.Random(0)
    )
    assert float(losses.token.detach()) == 0.0
    losses.total.backward()
    assert torch.isfinite(model.query.weight.grad).all()
