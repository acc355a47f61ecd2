"""Files and folders -> passages: text in chunks, JSON lines as they are."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.text.segment import segment

TEXT = {".txt", ".md", ".rst"}


@dataclass
class Reading:
    """Passages of the files named, and the files that gave none, with the reason."""

    chunk_chars: int
    passages: dict[str, Passage] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def read(self, paths: Sequence[Path]) -> None:
        """Read files, and folders with all that is below them.

        Raises:
            ValueError: a path that does not exist.
        """
        for path in paths:
            if not path.exists():
                raise ValueError(f"{path} does not exist")
            for file in [path] if path.is_file() else sorted(_below(path)):
                self._read(file, is_named=path.is_file())

    def _read(self, file: Path, *, is_named: bool) -> None:
        suffixes = "".join(file.suffixes[-2:] if file.suffix == ".gz" else file.suffixes[-1:]).lower()
        is_rows = suffixes in (".jsonl", ".jsonl.gz", ".ndjson")
        if not is_rows and suffixes not in TEXT and not is_named:
            self.skipped.append((str(file), "no text file by its name"))
            return
        try:
            data = file.read_bytes()
            text = (gzip.decompress(data) if suffixes.endswith(".gz") else data).decode("utf-8-sig")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            self.skipped.append((str(file), type(error).__name__))
            return
        if "\x00" in text or not text.strip():
            self.skipped.append((str(file), "binary" if "\x00" in text else "empty"))
            return
        found = list(self._rows(file, text) if is_rows else self._chunks(file, text))
        self.passages.update((passage.id, passage) for passage in found)

    def _rows(self, file: Path, text: str) -> Iterator[Passage]:
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                row: Any = json.loads(line)
            except json.JSONDecodeError:
                row = None
            content = (row.get("text") or row.get("context")) if isinstance(row, dict) else None
            if not isinstance(content, str) or not content.strip():
                self.skipped.append((f"{file}:{number}", "no JSON object with a 'text' or 'context'"))
                continue
            metadata = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
            title = {"title": row["title"]} if isinstance(row.get("title"), str) else {}
            id_ = row.get("id") if "text" in row else None  # a 'context' repeats under the ids of its questions
            yield Passage(str(id_ or f"{file}#{number}"), content, metadata={**title, **metadata, "source": str(file)})

    def _chunks(self, file: Path, text: str) -> Iterator[Passage]:
        """Whole sentences up to ``chunk_chars`` characters; a blank line ends a chunk that is half full."""
        words, first_words = segment(text)
        starts = [*words[first_words, 0].tolist(), len(text)]
        begin, number = starts[0], 0
        for sentence, following in pairwise(starts):
            is_full = following - begin > self.chunk_chars and sentence > begin
            is_paragraph = (
                sentence - begin > self.chunk_chars / 2 and "\n\n" in text[max(begin, sentence - 3) : sentence]
            )
            if is_full or is_paragraph:
                yield self._chunk(file, text, number, begin, sentence)
                begin, number = sentence, number + 1
        yield self._chunk(file, text, number, begin, len(text))

    def _chunk(self, file: Path, text: str, number: int, start: int, end: int) -> Passage:
        kept = text[start:end].rstrip()
        place = {"source": str(file), "start": start, "end": start + len(kept)}
        return Passage(f"{file}#{number}", kept, metadata=place)


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path
