"""Summary vectors of the passages of an index: built once for each text, read by id.

Knows no model: a summarizer is whatever has a fingerprint, an identity and ``summarize``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from threading import RLock
from typing import Any

from ctxcompress_integrations._numbers import whole
from ctxcompress_integrations.errors import SummaryMissingError
from ctxcompress_integrations.index import building
from ctxcompress_integrations.index.building import Progress, Summarizes
from ctxcompress_integrations.index.layout import Layout
from ctxcompress_integrations.index.manifest import Adapter, Manifest
from ctxcompress_integrations.index.reading import ReadableIndex, checked_ids
from ctxcompress_integrations.index.summaries.info import SummaryInfo, summary_info
from ctxcompress_integrations.index.summaries.keeper import SummaryKeeper
from ctxcompress_integrations.records import SummaryVectors

_PART = 1000  # texts in memory at a time


class SummarizedIndex(ReadableIndex, ABC):
    """An index with summaries beside its vectors."""

    def __init__(self, layout: Layout, embedder: object | None, *, is_read_only: bool, memory_map: bool) -> None:
        super().__init__(layout, embedder, is_read_only=is_read_only, memory_map=memory_map)
        self._summaries = SummaryKeeper(layout, self._manifest.index_id, is_read_only=is_read_only)
        self._build_lock = RLock()  # taken before all others

    # -- reading

    def summaries(
        self, ids: Sequence[str], fingerprint: str, *, device: Any = None, skip_missing: bool = False
    ) -> list[SummaryVectors]:
        """The summary vectors of passages, in the order of ``ids``.

        Args:
            fingerprint: of the summarizer that made them.
            device: None for numpy arrays: read-only views of the mapped file for fp16, float32 for int8 and pq. A torch
                device for tensors that are already on it: float16 or float32, to be left unchanged, as the next caller
                may get the same ones.
            skip_missing: leave out passages that are no longer there, or have no summary for the text they have now.

        Raises:
            ValueError: an id is unknown.
            SummaryMismatchError: the summaries that there are were made by other summarizers.
            SummaryMissingError: some passages have none: new, changed or blank texts. It names them.
            IndexDamagedError: a file is missing, cut short, changed or another one; it names the file and the cure.
        """
        ids = checked_ids(ids)
        with self._view():
            stored = self._store.lookup(ids)
            if skip_missing:
                ids = [id_ for id_ in ids if id_ in stored]
            elif unknown := [id_ for id_ in ids if id_ not in stored]:
                raise ValueError(f"no passage has the id {unknown[0]!r}: leave it out, or add the passage first")
        keys = {id_: bytes.fromhex(stored[id_].text_sha256) for id_ in ids}
        reader, found = self._summaries.read(fingerprint, list(dict.fromkeys(keys.values())), device)
        missing = [id_ for id_ in ids if keys[id_] not in found]
        if missing and not skip_missing:
            raise SummaryMissingError(
                f"{len(missing)} passages have no summary by {fingerprint} for the text they have now "
                f"({', '.join(map(repr, missing[:5]))}{' ...' if len(missing) > 5 else ''}): run "
                "index.build_summaries with its summarizer, or read them as text; blank texts get none",
                missing,
            )
        adapter = self.adapters.get(fingerprint)
        read_by = (None, None) if adapter is None else (adapter.name, adapter.digest)
        return [
            SummaryVectors(id_, found[keys[id_]].vectors, fingerprint, reader, found[keys[id_]].n_tokens, *read_by)
            for id_ in ids
            if keys[id_] in found
        ]

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The LoRA adapter that reads the summaries of each fingerprint that has one."""
        return {adapter.fingerprint: adapter for adapter in Manifest.read(self._layout).adapters}

    def fingerprint_for(self, reader: str) -> str | None:
        """Fingerprint of the newest summarizer whose vectors are for the reader with this digest; None without one."""
        made_for = [origin.fingerprint for origin, _ in self._summaries.origins() if origin.reader == reader]
        return made_for[-1] if made_for else None

    def summary_info(self) -> list[SummaryInfo]:
        """What there is of each summarizer, oldest first. Walks through all texts."""
        live, adapters = self._texts_by_key().keys(), self.adapters
        return [
            summary_info(
                origin, entries, adapters.get(origin.fingerprint), live, self._summaries.known(origin.fingerprint)
            )
            for origin, entries in self._summaries.origins()
        ]

    def limit_summary_caches(self, *, host_bytes: int | None = None, device_bytes: int | None = None) -> None:
        """Set how many bytes of decoded rows (256 MiB at first) and of tensors on devices (1 GiB) are kept."""
        self._summaries.limit_caches(host_bytes=host_bytes, device_bytes=device_bytes)

    # -- changing

    def build_summaries(
        self,
        summarizer: Summarizes,
        *,
        codec: str | None = None,
        batch_size: int = 64,
        repair: bool = False,
        progress: Progress | bool | None = None,
    ) -> int:
        """Compute the summaries that are missing, one for each text that is not blank, whatever ids it has.

        Each batch is on disk before the next one begins; what is there is never computed again, and when nothing is
        missing ``summarizer`` is asked for its fingerprint and identity only. The index can be read and changed
        meanwhile.

        Args:
            codec: "fp16" (for a new summarizer), "int8" (half of it, and 4 bytes a vector) or "pq" (less than an eighth
                from width 128 on); None for what the rows have. Rows in fp16 are coded again to another codec, without
                the summarizer; others stay as they are. For pq they wait in fp16 until 8192 vectors are there to train
                the codebook on.
            batch_size: texts that are computed and committed together.
            repair: read all bytes first, and compute again what damaged or missing shards held.
            progress: called after each batch with the number of texts done and of all; True for a bar.

        Returns:
            How many were computed.

        Raises:
            SummaryValueError: vectors with values that are not finite, that fp16 cannot hold, or of another width than
                the rest; it names the passages. The other rows of the batch are stored.
            SummaryMismatchError: the fingerprint stands for another identity, or the summaries are of others.
            IndexDirectoryError: the disk is full. What was committed is safe; building again goes on from there.
        """
        batch_size = whole("batch_size", batch_size)
        building.check_codec(codec)
        fingerprint, identity = building.identity_of(summarizer)
        with self._build_lock, building.shown(progress) as show:
            with self._changing():
                self._summaries.prepare(fingerprint, identity, codec)
                if repair:
                    self._summaries.repair(fingerprint)
            known = self._summaries.known(fingerprint)
            todo = [internal for key, internal in self._texts_by_key().items() if key not in known]
            n_computed = 0
            for start in range(0, len(todo), batch_size):
                batch = todo[start : start + batch_size]
                n_computed += self._build_batch(summarizer, batch, fingerprint, identity["reader"])
                show(start + len(batch), len(todo))
            with self._changing():
                self._summaries.settle(fingerprint)
            return n_computed

    def drop_summaries(self, fingerprint: str | None = None) -> None:
        """Delete the summaries made by one summarizer, or all of them, whatever state their files are in."""
        with self._build_lock, self._changing():
            self._summaries.drop(fingerprint)

    def set_adapter(self, fingerprint: str, name: str | None, digest: str | None = None) -> None:
        """Say which LoRA adapter reads the summaries of a summarizer; None for the reader as it is.

        Args:
            fingerprint: of the summarizer.
            name: path or hub name of the adapter.
            digest: of its weights (:func:`~ctxcompress_integrations.hf.adapters.adapter_digest`): a reader with other
                ones under that name then refuses the vectors.
        """
        for what, value in (("fingerprint", fingerprint), ("name", name or "none"), ("digest", digest or "none")):
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"the {what} of an adapter must be a str that is not blank, got {value!r}")
        with self._changing():
            manifest = Manifest.read(self._layout)
            adapters = [adapter for adapter in manifest.adapters if adapter.fingerprint != fingerprint]
            if name is not None:
                adapters.append(Adapter(fingerprint, name, digest))
            replace(manifest, adapters=tuple(adapters)).write(self._layout)

    # -- below

    @abstractmethod
    def _changing(self) -> AbstractContextManager[None]:
        """Held while the directory is changed; ``IndexReadOnlyError`` where it must not be."""

    def _build_batch(self, summarizer: Summarizes, internals: list[int], fingerprint: str, reader: str) -> int:
        with self._view():
            found = self._store.by_internal(internals)
        passages = [found[internal] for internal in internals if internal in found]  # others went meanwhile
        if not passages:
            return 0
        made = summarizer.summarize(passages)
        rows = building.checked(passages, made, fingerprint=fingerprint, reader=reader)
        with self._changing():
            codec = self._summaries.codec_for(fingerprint, rows[0][1].shape[1])
            kept, refused = building.sorted_out(rows, codec)
            if kept:
                self._summaries.commit(fingerprint, kept)
                self._summaries.settle(fingerprint)
        building.raise_for(refused)
        return len(kept)

    def _texts_by_key(self) -> dict[bytes, int]:
        """Internal number of the first passage with each text that is not blank, by the text's hash."""
        found: dict[bytes, int] = {}
        last = 0
        while True:
            with self._view():  # for a part at a time: searches go on meanwhile
                part = self._store.texts(last, _PART)
            if not part:
                return found
            last = part[-1][0]
            for internal, text, sha256 in part:
                if text.strip():
                    found.setdefault(bytes.fromhex(sha256), internal)

    def _compact_summaries(self) -> None:
        live = self._texts_by_key().keys() if self._summaries.origins() else set[bytes]()
        self._summaries.compact(live)

    def _shut(self) -> None:
        self._summaries.close()
        super()._shut()
