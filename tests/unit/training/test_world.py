"""The small world: decided by its numbers, no entity in two splits, every answer in its document and nowhere else."""

from collections import Counter

import pytest

from ctxcompress_integrations.evaluation.datasets import load_dataset
from ctxcompress_integrations.training import world


def test_a_document_is_decided_by_domain_and_number():
    assert world.document("ships", 7) == world.document("ships", 7)
    texts = [one.text for one in world.documents(world.DOMAINS, "train", 1200)]
    assert len(set(texts)) == len(texts)


def test_no_entity_is_in_two_splits_and_none_comes_back_within_a_corpus():
    names = {}
    for split in world.SPLITS:
        made = list(world.documents(world.TRAINED, split, 1000))
        of_split = Counter(name for one in made for name in {fact.name for fact in one.facts})
        assert max(of_split.values()) == 1
        names[split] = set(of_split)
    assert not names["train"] & names["dev"]
    assert not names["train"] & names["test"]
    assert not names["dev"] & names["test"]


def test_splits_end_where_the_next_begins():
    with pytest.raises(ValueError, match="no document 3000000"):
        world.document("ships", 3_000_000)
    with pytest.raises(ValueError, match="companies"):
        world.document("planets", 0)
    with pytest.raises(ValueError, match="n_facts"):
        world.document("ships", 0, n_facts=8)


def test_every_question_has_one_answer_where_it_is_marked():
    for one in world.documents(world.DOMAINS, "test", 300):
        asked = [(fact.name, fact.attribute.name) for fact in one.facts]
        assert len(set(asked)) == len(asked)  # name and attribute say which fact is meant
        assert len({fact.value for fact in one.facts}) == len(one.facts)
        for fact, example in zip(one.facts, one.examples, strict=True):
            assert fact.name in example.question
            mark = example.marked[0]
            assert one.text[mark.start : mark.end] == example.answers[0] == fact.value
            sentence = one.text[: mark.end].rpartition(". ")[2] + one.text[mark.end :].partition(".")[0]
            others = {other.value for other in one.facts} - {fact.value}
            assert not others & set(sentence.replace(",", "").split())


def test_what_a_sentence_calls_its_entity_is_in_the_document():
    aliased = 0
    for one in world.documents(world.DOMAINS, "train", 300):
        names = {fact.name for fact in one.facts}
        assert all(name in one.text for name in names)
        alias = world.DOMAINS[one.id.partition("-")[0]].alias
        if alias and f"{alias} " in one.text and len(names) > 1:
            assert f"The {alias} " not in one.text
        aliased += len(names) == 1
    assert 60 < aliased < 240


def test_a_question_alone_can_only_be_guessed():
    """What was the commonest answer to a wording, or to a word of a name, seldom is the next one."""
    seen, right, n = {}, 0, 0
    for i, one in enumerate(world.documents(["companies"], "train", 4000)):
        for fact, example in zip(one.facts, one.examples, strict=True):
            keys = [example.question.replace(fact.name, ""), *((w, fact.attribute.name) for w in fact.name.split())]
            for key in keys:
                counts = seen.setdefault(key, Counter())
                if i >= 2000:
                    right += bool(counts) and counts.most_common(1)[0][0] == fact.value
                    n += 1
                counts[fact.value] += 1
    assert n > 20_000
    assert right / n < 0.03


def test_a_document_is_told_again_in_another_order():
    for made in world.documents(world.DOMAINS, "dev", 40, n_facts=5):
        again = [made.told(number) for number in range(6)]
        assert again[1] == made.told(1)
        orders = set()
        for text in again:
            assert all(fact.value.lower() in text.lower() and fact.name.lower() in text.lower() for fact in made.facts)
            orders.add(tuple(sorted(fact.value for fact in made.facts if text.lower().find(fact.value.lower()) < 60)))
        assert len(orders) > 1


def test_a_listing_says_every_fact_in_one_form_and_begins_with_fewer():
    for i in range(60):
        made = world.listing(world.TRAINED[i % len(world.TRAINED)], i)
        assert made == world.listing(world.TRAINED[i % len(world.TRAINED)], i)
        assert 2 <= len({fact.name for fact in made.facts}) <= 4
        assert all(made.text[f.start : f.start + len(f.value)] == f.value for f in made.facts)
        assert sorted(made.listed(1)) == sorted(made.text)
        first = made.beginning(1)
        assert first.facts == made.facts[:1]
        assert first.text == made.text.partition(". ")[0] + "."
        assert made.beginning(99).text == made.text


def test_distractors_name_no_value():
    for domain in world.DOMAINS.values():
        values = {value.lower() for attribute in domain.attributes for value in attribute.values}
        for sentence in domain.distractors:
            assert not values & set(sentence.lower().replace(".", "").replace(",", "").split())


def test_words_are_single_tokens_and_values_many():
    load = pytest.importorskip("ctxcompress_integrations.hf.load")
    if load.mini_folder() is None:
        pytest.skip("the extra 'offline' is not installed")
    tokenizer = load.load_tokenizer()
    for domain in world.DOMAINS.values():
        for attribute in domain.attributes:
            assert len(attribute.values) >= 20
            assert all(
                len(ids) == 1 for ids in tokenizer(list(attribute.values), add_special_tokens=False)["input_ids"]
            )
    lengths = [len(tokenizer(d.text)["input_ids"]) for d in world.documents(world.DOMAINS, "dev", 300)]
    assert min(lengths) > 40
    assert max(lengths) < 132


def test_what_is_written_reads_back(tmp_path):
    path = tmp_path / "world.jsonl"
    made = list(world.documents(world.HELD_OUT, "dev", 5))
    n = world.write(path, made)
    held = load_dataset(path)
    assert n == len(held.examples) == sum(len(one.facts) for one in made)
    assert not held.problems
    assert held.examples == tuple(example for one in made for example in one.examples)
