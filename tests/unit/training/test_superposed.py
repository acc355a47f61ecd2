"""Sums of word vectors, against their definition."""

import math

import torch

from ctxcompress_integrations.testing.tiny import tiny_small_world
from ctxcompress_integrations.training.superposed import Superposed


def test_a_vector_is_the_sum_of_its_words_over_the_root_of_their_number():
    model, tokenizer = tiny_small_world()
    writer = Superposed(model, tokenizer, segment_tokens=4, align="tokens")
    text = "The red fox ran over the river bank."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    table = model.get_input_embeddings().weight
    (found,) = writer.summarize([text])
    wanted = []
    for start in range(0, len(ids), 4):
        group = ids[start : start + 4]
        wanted.append(sum(table[i].double() for i in group) / math.sqrt(len(group)))
    torch.testing.assert_close(torch.as_tensor(found.vectors).double(), torch.stack(wanted).detach(), atol=1e-5, rtol=0)
    assert writer.count_vectors(len(ids)) == len(wanted)
    assert not list(writer.module.parameters())


def test_the_ratio_tightens():
    model, tokenizer = tiny_small_world()
    writer = Superposed(model, tokenizer, segment_tokens=2)
    tight = writer.at_ratio(6)
    assert (writer.ratio, tight.ratio, tight.align) == (2.0, 6.0, "sentences")
    assert tight.fingerprint != writer.fingerprint
