"""Summaries by id: computed once for each text, read as what was computed, named when they are not there."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctxcompress_integrations.errors import (
    IndexReadOnlyError,
    SummaryMismatchError,
    SummaryMissingError,
    SummaryValueError,
)
from ctxcompress_integrations.index import CompressedIndex
from ctxcompress_integrations.index.summaries import codecs, keeper
from ctxcompress_integrations.records import Passage


def passages(*texts, start=0):
    return [Passage(str(n), text) for n, text in enumerate(texts, start)]


def check(index, summarizer, ids, tolerance=1e-3):
    """Each summary is the one of the text that the id has now."""
    found = index.summaries(ids, summarizer.fingerprint)
    assert [summary.id for summary in found] == list(ids)
    for passage, summary in zip(index.get(ids), found, strict=True):
        exact = summarizer.vectors(passage.text)
        assert summary.vectors.shape == exact.shape
        assert summary.n_tokens == len(passage.text)
        assert np.linalg.norm(summary.vectors - exact) <= tolerance * np.linalg.norm(exact)
    return found


def test_one_summary_for_each_text(index, summarizer):
    index.add(passages("one", "two", "one", "three"))
    assert index.build_summaries(summarizer) == 3
    assert sorted(summarizer.computed) == ["one", "three", "two"]
    first, second = check(index, summarizer, ["0", "2"])
    assert np.shares_memory(first.vectors, second.vectors)
    assert (first.fingerprint, first.reader, first.adapter) == (summarizer.fingerprint, "digest of the reader", None)
    assert first.vectors.dtype == np.float16
    assert not first.vectors.flags.writeable
    assert index.summaries([], summarizer.fingerprint) == []


def test_what_is_there_is_not_computed_again(index, path, embedder, summarizer, make_summarizer):
    index.add(passages(*(f"text {n}" for n in range(10))))
    calls = []
    assert index.build_summaries(summarizer, batch_size=4, progress=lambda *call: calls.append(call)) == 10
    assert calls == [(4, 10), (8, 10), (10, 10)]
    index.close()

    class Unloaded(make_summarizer):
        def summarize(self, _):
            raise AssertionError("the model was asked for")

    with CompressedIndex.open(path, embedder=embedder) as again:
        assert again.build_summaries(Unloaded()) == 0
        again.add([Passage("11", "text 3"), Passage("0", "text 7")])
        assert again.build_summaries(Unloaded()) == 0
        check(again, summarizer, ["11", "0", "3"])


def test_a_changed_text_has_no_stale_summary(index, summarizer):
    index.add(passages("one", "two", "three"))
    index.build_summaries(summarizer)
    index.add(passages("new", "two", "newer"))
    with pytest.raises(SummaryMissingError, match=r"'0', '2'.*build_summaries") as caught:
        index.summaries(["0", "1", "2"], summarizer.fingerprint)
    assert caught.value.ids == ("0", "2")
    check(index, summarizer, ["1"])
    assert index.build_summaries(summarizer) == 2
    check(index, summarizer, ["2", "0", "1"])
    (info,) = index.summary_info()
    assert (sum(info.rows.values()), info.n_missing, info.n_unused) == (5, 0, 2)
    index.compact()
    (info,) = index.summary_info()
    assert (sum(info.rows.values()), info.n_missing, info.n_unused) == (3, 0, 0)
    check(index, summarizer, ["2", "0", "1"])
    assert index.verify() == []


def test_a_text_that_comes_back_finds_its_summary_until_it_is_compacted_away(index, summarizer):
    index.add(passages("one", "two"))
    index.build_summaries(summarizer)
    index.delete(["0"])
    index.add(passages("one"))
    check(index, summarizer, ["0", "1"])
    index.delete(["0", "1"])
    index.compact()
    assert index.summary_info()[0].rows == {}
    index.add(passages("one"))
    assert index.build_summaries(summarizer) == 1


def test_nothing_to_read(index, summarizer):
    index.add(passages("one", " \n\u3000"))
    with pytest.raises(SummaryMissingError, match="build_summaries"):
        index.summaries(["0"], summarizer.fingerprint)
    assert index.build_summaries(summarizer) == 1  # the blank text gets none
    with pytest.raises(SummaryMissingError, match="blank"):
        index.summaries(["0", "1"], summarizer.fingerprint)
    with pytest.raises(ValueError, match="'nobody'"):
        index.summaries(["0", "nobody"], summarizer.fingerprint)
    with pytest.raises(ValueError, match="list"):
        index.summaries("0", summarizer.fingerprint)


def test_another_summarizer_is_named(index, summarizer, make_summarizer):
    index.add(passages("one"))
    index.build_summaries(summarizer)
    other = make_summarizer("other", width=8)
    with pytest.raises(SummaryMismatchError, match=f"{summarizer.fingerprint}.*{other.fingerprint}.*build_summaries"):
        index.summaries(["0"], other.fingerprint)
    assert index.build_summaries(other, codec="int8") == 1
    check(index, other, ["0"], 0.01)
    check(index, summarizer, ["0"])
    assert [(i.width, i.codec, i.rows) for i in index.summary_info()] == [
        (16, "fp16", {"fp16": 1}),
        (8, "int8", {"int8": 1}),
    ]
    index.drop_summaries(summarizer.fingerprint)
    with pytest.raises(SummaryMismatchError):
        index.summaries(["0"], summarizer.fingerprint)
    check(index, other, ["0"], 0.01)
    other.identity["name"] = "an impostor"
    with pytest.raises(SummaryMismatchError, match="impostor"):
        index.build_summaries(other)


@pytest.mark.parametrize("change", [{"fingerprint": "x"}, {"reader": "x"}, {"id": "x"}, None])
def test_a_summarizer_that_answers_another_question_is_named(index, summarizer, change):
    index.add(passages("one", "two"))
    real = summarizer.summarize
    summarizer.summarize = lambda asked: [real(asked)[0], *([replace(real(asked)[1], **change)] if change else [])]
    with pytest.raises(SummaryMismatchError, match=summarizer.fingerprint):
        index.build_summaries(summarizer)
    assert index.summary_info()[0].rows == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, 70_000.0, "width"])
def test_vectors_that_cannot_be_stored_are_named_and_the_others_kept(index, make_summarizer, value):
    bad = np.ones((2, 17)) if value == "width" else np.full((2, 16), value)
    summarizer = make_summarizer(values={"bad": bad})
    index.add(passages("one", "bad", "three"))
    with pytest.raises(SummaryValueError, match="'1'"):
        index.build_summaries(summarizer)
    check(index, summarizer, ["0", "2"])
    with pytest.raises(SummaryMissingError):
        index.summaries(["1"], summarizer.fingerprint)
    summarizer.values.clear()
    assert index.build_summaries(summarizer) == 1
    check(index, summarizer, ["0", "1", "2"])


def test_what_fp16_cannot_hold_int8_can(index, make_summarizer):
    summarizer = make_summarizer(values={"large": np.full((2, 16), 1e6)})
    index.add(passages("large"))
    assert index.build_summaries(summarizer, codec="int8") == 1
    check(index, summarizer, ["0"], 0.01)


def test_bad_arguments_are_named_before_anything_runs(index, summarizer, make_summarizer):
    index.add(passages("one"))
    for options, name in (({"codec": "zip"}, "zip"), ({"batch_size": 0}, "batch_size")):
        with pytest.raises(ValueError, match=name):
            index.build_summaries(summarizer, **options)
    summarizer.identity = {"method": "hash"}
    with pytest.raises(ValueError, match="reader"):
        index.build_summaries(summarizer)
    with pytest.raises(ValueError, match="6"):
        index.build_summaries(make_summarizer(width=6), codec="pq")
    for limits in ({"host_bytes": -1}, {"device_bytes": 1.5}):
        with pytest.raises(ValueError, match="bytes"):
            index.limit_summary_caches(**limits)
    assert summarizer.computed == []


def test_pq_waits_for_its_codebook_and_says_so(index, make_summarizer, monkeypatch):
    monkeypatch.setattr(codecs, "TRAIN_FROM", 300)
    summarizer = make_summarizer(m=10, width=128)
    index.add(passages(*(f"text {n}" for n in range(29))))
    index.build_summaries(summarizer, codec="pq", batch_size=8)
    (info,) = index.summary_info()
    assert (info.codec, info.rows) == ("pq", {"fp16": 29})
    check(index, summarizer, index.ids())
    in_half = info.n_bytes
    index.add(passages("text 29", "text 30", start=29))
    assert index.build_summaries(summarizer) == 2
    (info,) = index.summary_info()
    assert (info.rows, info.n_vectors, info.n_missing) == ({"pq": 31}, 310, 0)
    assert info.n_bytes < in_half / 4  # small rows: hashes and headers count
    found = check(index, summarizer, index.ids(), 0.7)
    off = [
        np.linalg.norm(s.vectors - summarizer.vectors(p.text), axis=1)
        / np.linalg.norm(summarizer.vectors(p.text), axis=1)
        for s, p in zip(found, index.get(index.ids()), strict=True)
    ]
    assert info.relative_error == pytest.approx(np.concatenate(off).mean(), abs=1e-3)
    index.add(passages("text 31", start=31))
    index.build_summaries(summarizer)
    assert index.summary_info()[0].rows == {"pq": 32}
    index.compact()
    assert index.verify() == []
    check(index, summarizer, index.ids(), 0.7)


def test_another_codec_needs_no_summarizer(index, summarizer):
    index.add(passages(*(f"text {n}" for n in range(20))))
    index.build_summaries(summarizer, batch_size=3)
    before = index.summary_info()[0]
    assert index.build_summaries(summarizer, codec="int8") == 0
    assert len(summarizer.computed) == 20
    after = index.summary_info()[0]
    assert (after.codec, after.rows, after.n_vectors) == ("int8", {"int8": 20}, before.n_vectors)
    assert 5 * before.relative_error < after.relative_error < 0.01
    check(index, summarizer, index.ids(), 0.01)
    index.add(passages("text 20", start=20))
    index.build_summaries(summarizer, codec="fp16")  # what was int8 cannot become exact again
    assert index.summary_info()[0].rows == {"int8": 20, "fp16": 1}
    assert index.verify() == []


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_small_shards_are_merged(index, path, summarizer, codec, monkeypatch):
    monkeypatch.setattr(keeper, "TARGET_BYTES", 3000)
    monkeypatch.setattr(keeper, "MAX_SMALL", 5)
    index.add(passages(*(f"text {n}" for n in range(60))))
    index.build_summaries(summarizer, codec=codec, batch_size=3)
    sizes = [file.stat().st_size for file in (path / "summaries").glob("*.safetensors")]
    assert sum(size < 3000 for size in sizes) <= 5
    assert 1 < len(sizes) < 15
    check(index, summarizer, index.ids(), 0.01)
    assert index.verify() == []


def test_arrays_outlive_the_shards_that_they_lie_in(index, path, embedder, summarizer):
    index.add(passages(*(f"text {n}" for n in range(20))))
    index.build_summaries(summarizer, batch_size=5)
    with CompressedIndex.open(path, embedder=embedder, read_only=True) as reader:
        held = check(reader, summarizer, ["3", "12"])
        copies = [summary.vectors.copy() for summary in held]
        index.delete([str(n) for n in range(10)])
        index.compact()
        assert len(list((path / "summaries").glob("*.safetensors"))) == 1
        check(reader, summarizer, ["12", "17"])
    index.drop_summaries()
    assert not list((path / "summaries").glob("*.safetensors"))
    assert index.summary_info() == []
    assert all(np.array_equal(summary.vectors, copy) for summary, copy in zip(held, copies, strict=True))


def test_readers_go_on_while_a_writer_builds_compacts_and_starts_over(index, path, embedder, summarizer, monkeypatch):
    monkeypatch.setattr(keeper, "TARGET_BYTES", 3000)
    monkeypatch.setattr(keeper, "MAX_SMALL", 3)
    index.add(passages(*(f"text {n}" for n in range(60))))
    stop, failures, n_read = threading.Event(), [], [0]

    def read():
        try:
            with CompressedIndex.open(path, embedder=embedder, read_only=True) as reader:
                while not stop.is_set():
                    try:
                        check(reader, summarizer, [str(n) for n in range(30, 60)], 0.01)
                        n_read[0] += 1
                    except SummaryMissingError:
                        pass
                    assert reader.verify() == []
        except BaseException as error:  # noqa: BLE001 - a thread's error would be lost
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(4):
        index.build_summaries(summarizer, batch_size=4, codec=("fp16", "int8")[turn % 2])
        index.delete([str(turn)])
        index.compact()
        if turn == 2:
            index.drop_summaries()
    while n_read[0] < 5 and not failures:
        stop.wait(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_index_can_be_changed_while_summaries_are_computed(index, summarizer):
    index.add(passages(*(f"text {n}" for n in range(6))))
    real = summarizer.summarize

    def summarize(asked):
        worker = threading.Thread(target=lambda: (index.add(passages("new", start=9)), index.delete(["5"])))
        worker.start()
        worker.join()
        return real(asked)

    summarizer.summarize = summarize
    assert index.build_summaries(summarizer, batch_size=2) == 5
    assert index.build_summaries(summarizer) == 1
    check(index, summarizer, ["0", "4", "9"])


def test_a_reader_refuses_to_change(index, path, embedder, summarizer):
    index.add(passages("one"))
    index.build_summaries(summarizer)
    with CompressedIndex.open(path, embedder=embedder, read_only=True) as reader:
        check(reader, summarizer, ["0"])
        assert reader.summary_info() == index.summary_info()
        for change in (
            lambda: reader.build_summaries(summarizer),
            reader.drop_summaries,
            lambda: reader.set_adapter("f", "name"),
            reader.compact,
        ):
            with pytest.raises(IndexReadOnlyError, match="read_only"):
                change()
    with pytest.raises(ValueError, match="closed"):
        reader.summaries(["0"], summarizer.fingerprint)


def test_an_adapter_for_each_fingerprint(index, path, embedder, summarizer, make_summarizer):
    other = make_summarizer("other")
    index.add(passages("one"))
    index.build_summaries(summarizer)
    index.build_summaries(other)
    with CompressedIndex.open(path, embedder=embedder, read_only=True) as reader:
        index.set_adapter(summarizer.fingerprint, "adapters/law", "digest")
        index.set_adapter(other.fingerprint, "adapters/old")
        index.set_adapter(other.fingerprint, "adapters/new")
        index.flush()
        assert check(reader, summarizer, ["0"])[0].adapter == "adapters/law"
        assert check(reader, summarizer, ["0"])[0].adapter_digest == "digest"
        assert check(reader, other, ["0"])[0].adapter_digest is None
        assert check(reader, other, ["0"])[0].adapter == "adapters/new"
        assert reader.adapters[summarizer.fingerprint].digest == "digest"
        index.set_adapter(other.fingerprint, None)
        assert check(reader, other, ["0"])[0].adapter is None
    index.add(passages("two"))
    index.close()
    with CompressedIndex.open(path, embedder=embedder) as again:
        assert again.summary_info()[0].adapter.name == "adapters/law"
    with pytest.raises(ValueError, match="fingerprint"):
        index.set_adapter(" ", "name")


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_tensors_on_a_device_are_the_arrays(index, summarizer, codec):
    index.add(passages(*(f"text {n}" for n in range(8))))
    index.build_summaries(summarizer, codec=codec)
    arrays = index.summaries(index.ids(), summarizer.fingerprint)
    tensors = index.summaries(index.ids(), summarizer.fingerprint, device="cpu")
    for array, tensor in zip(arrays, tensors, strict=True):
        assert tensor.vectors.dtype == (torch.float16 if codec == "fp16" else torch.float32)
        assert np.array_equal(tensor.vectors.numpy(), array.vectors)
        assert (tensor.id, tensor.n_tokens, tensor.reader) == (array.id, array.n_tokens, array.reader)
    again = index.summaries(["3"], summarizer.fingerprint, device=torch.device("cpu"))[0]
    assert again.vectors is tensors[3].vectors
    index.limit_summary_caches(host_bytes=0, device_bytes=0)
    again = index.summaries(["3"], summarizer.fingerprint, device="cpu")[0]
    assert again.vectors is not tensors[3].vectors
    assert torch.equal(again.vectors, tensors[3].vectors)
    with pytest.raises(ValueError, match="nowhere"):
        index.summaries(["3"], summarizer.fingerprint, device="nowhere")


def test_summarizers_may_give_tensors(index, make_summarizer):
    summarizer = make_summarizer()
    real = summarizer.summarize
    summarizer.summarize = lambda asked: [replace(s, vectors=torch.tensor(s.vectors).bfloat16()) for s in real(asked)]
    index.add(passages("one"))
    index.build_summaries(summarizer)
    check(index, summarizer, ["0"], 0.01)


def test_a_bar(index, summarizer, capsys):
    index.add(passages("one"))
    index.build_summaries(summarizer, progress=True)
    assert "summaries" in capsys.readouterr().err
