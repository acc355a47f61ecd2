"""Files and folders -> passages: text in chunks, JSON lines as they are."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ctxcompress_integrations.cli.lines import numbered, parsed
from ctxcompress_integrations.host_figures import KEY
from ctxcompress_integrations.records import Passage
from ctxcompress_integrations.text.segment import segment

TEXT = (".txt", ".md", ".rst")
ROWS = (".jsonl", ".jsonl.gz", ".ndjson")
FILE = "file"
"""Under the package's key of a passage's metadata: the file that it was read from, whatever else it names."""


@dataclass
class Reading:
    """Passages of the files named, and the files that gave none, with the reason.

    Args:
        chunk_chars: characters of a passage of a text file; a sentence is not cut for them.
        globs: patterns of the files to take from folders, whatever their names end in; empty for all that are text by
            their names.
        left_out: a folder that is never read: the index itself may lie among the documents.
        prunes: passages go whose files are gone from the folders that are read.

    Attributes:
        files: that were read.
        unsure: those of them with rows that cannot be read, which may be any passage's.
        gone: those that were passages' once, when :meth:`outdated` was asked.
    """

    chunk_chars: int
    globs: Sequence[str] = ()
    left_out: Path | None = None
    prunes: bool = False
    files: set[str] = field(default_factory=set)
    passages: dict[str, Passage] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    unsure: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)

    def read(self, paths: Sequence[Path]) -> None:
        """Read files, and folders with all that is below them.

        Raises:
            FileNotFoundError: a path that does not exist.
        """
        for path in paths:
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist: name a file or a folder that does")
        self.folders += [path for path in paths if path.is_dir()]
        for path in paths:
            for file in [path] if path.is_file() else sorted(self._below(path)):
                if str(file) not in self.files:
                    self._read(file, is_asked_for=path.is_file() or bool(self.globs))

    def outdated(self, passages: Iterable[Passage]) -> list[str]:
        """Ids of the passages that their files no longer hold."""
        return [p.id for p in passages if p.id not in self.passages and self._is_lost(p)]

    def _is_lost(self, passage: Passage) -> bool:
        ours = passage.metadata.get(KEY)
        name = ours.get(FILE) if isinstance(ours, Mapping) else None
        if not isinstance(name, str):
            return False  # not of this command
        if name not in self.files and name not in self.gone and self._is_gone(name):
            self.gone.add(name)
        return (name in self.files and name not in self.unsure) or (self.prunes and name in self.gone)

    def _is_gone(self, name: str) -> bool:
        """True when there surely is no such file any more, below a folder that was named."""
        file = Path(name)
        below = [file.relative_to(folder) for folder in self.folders if file.is_relative_to(folder)]
        if not any(".." not in path.parts for path in below):
            return False  # .. leads out of the folder .
        try:
            file.stat()
        except (OSError, ValueError) as error:  # what cannot be looked at may be there
            return isinstance(error, FileNotFoundError | NotADirectoryError)
        return False

    def _below(self, folder: Path) -> Iterator[Path]:
        left_out = None if self.left_out is None else self.left_out.resolve()
        for path in folder.rglob("*"):
            if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
                continue
            if self.globs and not any(path.match(glob) for glob in self.globs):
                continue
            if left_out is None or left_out not in path.resolve().parents:
                yield path

    def _read(self, file: Path, *, is_asked_for: bool) -> None:
        name = file.name.lower()
        is_rows = name.endswith(ROWS)
        if not is_rows and not name.endswith(TEXT) and not is_asked_for:
            self.skipped.append((str(file), "no text file by its name"))
            return
        try:
            str(file).encode()
            data = file.read_bytes()
            text = (gzip.decompress(data) if name.endswith(".gz") else data).decode("utf-8-sig")
        except (OSError, EOFError, zlib.error) as error:
            self.skipped.append((str(file), f"cannot be read: {error}"))
            return
        except UnicodeError:
            self.skipped.append((str(file), "its text or its name is no UTF-8"))
            return
        self.files.add(str(file))
        if "\x00" in text or not text.strip():
            self.skipped.append((str(file), "binary" if "\x00" in text else "empty"))
            return
        for passage in self._rows(file, text) if is_rows else self._chunks(file, text):
            self.passages[passage.id] = passage

    def _rows(self, file: Path, text: str) -> Iterator[Passage]:
        contexts: set[str] = set()
        for number, line in numbered(text):
            try:
                row = _row(line)
                if row.get("text"):
                    passage = _passage(row, row["text"], file, number, row.get("id"))
                else:  # a context: it repeats under the ids of its questions
                    passage = _passage(row, row.get("context"), file, number, None)
                    if passage.text in contexts:
                        continue
                    contexts.add(passage.text)
                if passage.id in self.passages:
                    raise ValueError(f"the id {passage.id!r} occurs a second time")
            except (ValueError, RecursionError) as error:
                self.skipped.append((f"{file}:{number}", str(error)))
                self.unsure.add(str(file))
                continue
            yield passage

    def _chunks(self, file: Path, text: str) -> Iterator[Passage]:
        """Whole sentences up to ``chunk_chars`` characters; a blank line ends a chunk that is half full."""
        words, first_words = segment(text)
        starts = [*words[first_words, 0].tolist(), len(text)]
        begin, number = starts[0], 0
        for sentence, following in pairwise(starts):
            is_full = following - begin > self.chunk_chars and sentence > begin
            is_paragraph = sentence - begin > self.chunk_chars / 2 and _ends_blank(text[begin:sentence])
            if is_full or is_paragraph:
                yield _chunk(file, text, number, begin, sentence)
                begin, number = sentence, number + 1
        yield _chunk(file, text, number, begin, len(text))


def _ends_blank(text: str) -> bool:
    """True when ``text`` ends with a blank line, of either kind of line ends."""
    return text[len(text.rstrip()) :].count("\n") > 1


def _chunk(file: Path, text: str, number: int, start: int, end: int) -> Passage:
    kept = text[start:end].rstrip()
    place = {"source": str(file), "start": start, "end": start + len(kept), KEY: {FILE: str(file)}}
    return Passage(f"{file}#{number}", kept, metadata=place)


def _row(line: str) -> dict[str, Any]:
    try:
        row = parsed(line)
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair") from error
    except ValueError as error:
        raise ValueError(f"no JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    return row


def _passage(row: dict[str, Any], text: object, file: Path, number: int, id_: object) -> Passage:
    if not isinstance(text, str) or not text.strip():
        raise ValueError("no JSON object with a 'text' or 'context'")
    metadata = row["metadata"] if isinstance(row.get("metadata"), dict) else {}
    title = {"title": row["title"]} if isinstance(row.get("title"), str) else {}
    name = f"{file}#{number}" if id_ is None or id_ == "" else str(id_)
    return Passage(name, text, metadata={"source": str(file), **title, **metadata, KEY: {FILE: str(file)}})
