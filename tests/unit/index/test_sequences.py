"""Random sequences of changes, with the index closed and opened in between, against a dict."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.records import Passage

ids = st.sampled_from([str(n) for n in range(12)])
given_passages = st.lists(
    st.builds(
        Passage,
        id=ids,
        text=st.sampled_from(["red", "green", "blue", "dark blue", ""]).map(str),
        metadata=st.fixed_dictionaries({"year": st.integers(0, 3)}),
    ),
    max_size=8,
    unique_by=lambda passage: passage.id,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), given_passages, st.integers(1, 4)),
        st.tuples(st.just("delete"), st.lists(ids, max_size=5)),
        st.tuples(st.sampled_from(["flush", "compact", "reopen"])),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, ivf_from=st.sampled_from([6, 1_000]))
def test_index_equals_a_dict(steps, ivf_from, make_embedder):
    embedder, expected = make_embedder(), {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        index = CompressedIndex.create(path, embedder=embedder, ivf_from=ivf_from)
        reader = CompressedIndex.open(path, embedder=embedder, read_only=True)
        try:
            for step in steps:
                if step[0] == "add":
                    changed = [p for p in step[1] if expected.get(p.id) != p]
                    assert index.add(step[1], batch_size=step[2]) == len(changed)
                    expected |= {p.id: p for p in step[1]}
                elif step[0] == "delete":
                    assert index.delete(step[1]) == len(set(step[1]) & set(expected))
                    expected = {id_: p for id_, p in expected.items() if id_ not in step[1]}
                elif step[0] == "reopen":
                    index.close()
                    index = CompressedIndex.open(path, embedder=embedder)
                else:
                    getattr(index, step[0])()
                for handle in (index, reader):
                    compare(handle, expected, embedder)
            assert index.verify() == reader.verify() == []
        finally:
            reader.close()
            index.close()


def compare(index, expected, embedder):
    assert len(index) == len(expected)
    assert {p.id: p for p in index.get(list(expected))} == expected
    for where in (None, {"year": {"$lt": 2}}):
        found = index.search("light blue", k=20, where=where)
        scores = {p.id: cosine(embedder, p.text) for p in expected.values() if where is None or p.metadata["year"] < 2}
        assert {p.id for p in found} == set(scores)
        assert np.allclose([p.score for p in found], sorted(scores.values(), reverse=True), atol=1e-5)
        assert all(abs(p.score - scores[p.id]) < 1e-5 for p in found)


def cosine(embedder, text):
    a, b = embedder.vector("light blue"), embedder.vector(text)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
