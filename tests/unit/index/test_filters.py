import json
import sqlite3

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcompress_integrations.index.filters import MAX_CONDITIONS, where_sql

KEYS = ["year", "a.b", 'quo"te', "it's", "[0]", "back\\slash", "", "ключ", "two words", "$"]


def matching(where, *documents):
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE passages (metadata TEXT)")
    rows = [(json.dumps(document, ensure_ascii=False),) for document in documents]
    db.executemany("INSERT INTO passages VALUES (?)", rows)
    sql, parameters = where_sql(where)
    numbers = [row[0] - 1 for row in db.execute(f"SELECT rowid FROM passages WHERE {sql}", parameters)]
    db.close()
    return numbers


def kind(value):
    return "number" if type(value) in (int, float) else type(value).__name__


def oracle(where, document):
    """The documented meaning of ``where``, in plain Python."""
    return all(condition(key, operand, document) for key, operand in where.items())


def condition(key, operand, document):
    if key == "$and":
        return all(oracle(part, document) for part in operand)
    if key == "$or":
        return any(oracle(part, document) for part in operand)
    if key == "$not":
        return not oracle(operand, document)
    operators = operand if isinstance(operand, dict) else {"$eq": operand}
    return all(comparison(name, value, key, document) for name, value in operators.items())


def comparison(name, value, key, document):
    if name in ("$ne", "$nin"):
        return not comparison({"$ne": "$eq", "$nin": "$in"}[name], value, key, document)
    if name == "$in":
        return any(comparison("$eq", item, key, document) for item in value)
    if key not in document or kind(document[key]) != kind(value):
        return False
    stored = document[key]
    return {"$eq": stored == value, "$gt": name == "$gt" and stored > value, "$gte": name == "$gte" and stored >= value,
            "$lt": name == "$lt" and stored < value, "$lte": name == "$lte" and stored <= value}[name]  # fmt: skip


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3)
numbers = st.integers(-3, 3) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
ordered = texts | numbers
scalars = ordered | st.none() | st.booleans()
operators = (
    st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ordered, min_size=1, max_size=2)
    | st.dictionaries(st.sampled_from(["$eq", "$ne"]), scalars, min_size=1, max_size=2)
    | st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(scalars, max_size=3), min_size=1, max_size=1)
)
leaf = st.dictionaries(st.sampled_from(KEYS[:-1]), scalars | operators, max_size=2)
wheres = st.recursive(
    leaf,
    lambda inner: (
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"$not": inner})
    ),
    max_leaves=5,
)
documents = st.dictionaries(st.sampled_from(KEYS), scalars | st.lists(scalars, max_size=2), max_size=4)


@given(wheres, st.lists(documents, max_size=6))
def test_sql_means_what_is_documented(where, given_documents):
    expected = [n for n, document in enumerate(given_documents) if oracle(where, document)]
    assert matching(where, *given_documents) == expected


@pytest.mark.parametrize("key", KEYS[:-1])
def test_a_key_is_exact_and_top_level(key):
    assert matching({key: "x"}, {key: "x"}, {"a": {"b": "x"}}, {key + "?": "x"}, {}) == [0]


def test_true_is_not_one_and_one_is_one_point_zero():
    stored = [{"k": True}, {"k": 1}, {"k": 1.0}, {"k": "1"}, {"k": None}, {}]
    assert matching({"k": True}, *stored) == [0]
    assert matching({"k": 1}, *stored) == [1, 2]
    assert matching({"k": "1"}, *stored) == [3]
    assert matching({"k": None}, *stored) == [4]
    assert matching({"k": {"$in": [True, "1"]}}, *stored) == [0, 3]
    assert matching({"k": {"$ne": 1}}, *stored) == [0, 3, 4, 5]
    assert matching({"k": {"$nin": []}}, *stored) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", [0.1, 5e-324, 1.7976931348623157e308, 2**63, -(2**64), 123456789.123456789])
def test_extreme_numbers_equal_themselves(value):
    assert matching({"k": value}, {"k": value}) == [0]


@pytest.mark.parametrize(
    "where",
    [
        {"k": np.int64(3)},
        {"k": np.float32(3)},
        {"k": {"$lt": np.int32(4)}},
        {"k": {"$in": np.array([3, 5])}},
        {"k": {"$in": range(4)}},
        {"b": np.True_},
    ],
)
def test_numbers_of_numpy_are_numbers(where):
    assert matching(where, {"k": 3, "b": True}, {"k": 9, "b": 1}) == [0]


def test_values_are_never_sql():
    evil = "x' OR 1=1 --"
    assert matching({evil: evil, "k": {"$in": [evil]}}, {"k": 1}, {}) == []
    assert matching({"k": evil}, {"k": evil}) == [0]


def test_nothing_asked_matches_all():
    assert matching(None, {}, {}) == matching({}, {}, {}) == [0, 1]


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("lang = 'en'", "must be a mapping"),
        ({"k": {"$regex": "."}}, "'\\$regex'"),
        ({"k": {"plain": 1}}, "'plain'"),
        ({"$nor": []}, "'\\$nor'"),
        ({"k": {}}, "no operator for the key 'k'"),
        ({"$and": []}, "\\$and takes a list"),
        ({"$or": {"a": 1}}, "\\$or takes a list"),
        ({"$not": 3}, "must be a mapping"),
        ({"k": {"$in": "abc"}}, "\\$in on the key 'k'"),
        ({"k": {"$gt": None}}, "\\$gt on the key 'k'"),
        ({"k": {"$lt": True}}, "\\$lt on the key 'k'"),
        ({"k": [1]}, "\\$eq on the key 'k'"),
        ({"k": float("nan")}, "nan"),
        ({"k": "a\0b"}, "key 'k'"),
        ({"a\0b": 1}, "NUL"),
        ({3: 1}, "got 3"),
        ({"k": "\ud800"}, "valid Unicode"),
        ({"\ud800": 1}, "valid Unicode"),
    ],
)
def test_wrong_conditions_are_named(where, named):
    with pytest.raises(ValueError, match=named):
        where_sql(where)


def test_size_has_limits_that_sqlite_can_bear():
    most = {"$or": [{"k": n} for n in range(MAX_CONDITIONS)]}
    assert matching(most, {"k": MAX_CONDITIONS - 1}) == [0]
    assert matching({"k": {"$in": list(range(100_000))}}, {"k": 99_999}) == [0]
    with pytest.raises(ValueError, match="use|gather"):
        where_sql({"$or": [{"k": n} for n in range(MAX_CONDITIONS + 1)]})
    deep = {"k": 1}
    for _ in range(100):
        deep = {"$not": deep}
    with pytest.raises(ValueError, match="deep"):
        where_sql(deep)
