"""The passage store: texts, metadata and the change log of the vectors, in SQLite. What it commits is the index.

Knows nothing of FAISS: vectors pass through it as bytes, under internal numbers that are never given out twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ctxcompress_integrations.index.database import Database
from ctxcompress_integrations.index.filters import where_sql
from ctxcompress_integrations.index.layout import damaged
from ctxcompress_integrations.index.rows import Row, Stored, text_sha256
from ctxcompress_integrations.records import Passage

_SCHEMA = """
CREATE TABLE passages (internal INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL,
    text_sha256 TEXT NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE pending (sequence INTEGER PRIMARY KEY AUTOINCREMENT, internal INTEGER NOT NULL, vector BLOB);
CREATE TABLE meta (index_id TEXT NOT NULL, generation INTEGER NOT NULL, flushed INTEGER NOT NULL);
"""


class State(NamedTuple):
    """Where a store stands.

    Attributes:
        generation: commits that changed passages, ever.
        sequence: number of the last change of a vector.
        flushed: changes up to this number are no longer in the log, only in ``index.faiss``.
    """

    index_id: str
    generation: int
    sequence: int
    flushed: int


class PassageStore:
    """One connection to ``passages.sqlite``. Not locked: the owner lets one thread in at a time.

    Reads belong between ``begin`` and ``end``, so that several of them see one state.
    """

    def __init__(self, path: Path, *, is_read_only: bool) -> None:
        self._path = path
        self._db = Database(path, is_read_only=is_read_only)
        try:
            self.state()
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def create(cls, path: Path, index_id: str) -> None:
        """Make an empty store."""
        Database.create(path, f"{_SCHEMA} INSERT INTO meta VALUES ('{index_id}', 0, 0);")  # noqa: S608 - a UUID

    def close(self) -> None:
        """Close the connection; the last one to close folds SQLite's log into the file."""
        self._db.close()

    # -- one consistent view

    def begin(self) -> None:
        """Start a read; it sees one state until ``end``."""
        self._db.begin()

    def end(self) -> None:
        """End the read, if one is open."""
        self._db.rollback()

    def state(self) -> State:
        """Where the store stands now; one cheap query."""
        rows = self._db.rows(
            "SELECT index_id, generation, (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'pending'),"
            " flushed FROM meta"
        )
        if len(rows) != 1:
            raise damaged(self._path, "has lost its meta row")
        return State(*rows[0])

    def pending_after(self, sequence: int) -> list[tuple[int, bytes | None]]:
        """Changes after ``sequence``, oldest first: (internal, vector), or (internal, None) where one was removed."""
        return self._db.rows("SELECT internal, vector FROM pending WHERE sequence > ? ORDER BY sequence", (sequence,))

    def n_pending(self) -> int:
        """Number of changes in the log."""
        return int(self._db.rows("SELECT count(*) FROM pending")[0][0])

    def lookup(self, ids: Iterable[str]) -> dict[str, Stored]:
        """What is stored under these ids; unknown ones are left out."""
        found = self._by("id", list(ids), "id, internal, text_sha256, metadata")
        return {row[0]: Stored(*row[1:]) for row in found}

    def get(self, ids: Sequence[str]) -> list[Passage]:
        """Passages in the order of ``ids``; unknown ones are left out."""
        found = {row[0]: row for row in self._by("id", ids, "id, text, metadata")}
        return [self._passage(found[id_]) for id_ in ids if id_ in found]

    def by_internal(self, internals: Sequence[int]) -> dict[int, Passage]:
        """Passages by internal number."""
        found = self._by("internal", internals, "id, text, metadata, internal")
        return {row[3]: self._passage(row) for row in found}

    def internals(self, where: Mapping[str, Any] | None = None) -> list[int]:
        """Internal numbers, ascending, of the passages that match."""
        return [row[0] for row in self._matching(where)]

    def ids(self, where: Mapping[str, Any] | None = None) -> list[str]:
        """Ids of the passages that match, in the order in which their texts came in."""
        return [row[1] for row in self._matching(where)]

    def texts(self, after: int, limit: int) -> list[tuple[int, str, str]]:
        """(internal, text, its SHA-256) of the next passages after an internal number, to walk through all of them."""
        sql = "SELECT internal, text, text_sha256 FROM passages WHERE internal > ? ORDER BY internal LIMIT ?"
        return self._db.rows(sql, (after, limit))

    def __len__(self) -> int:
        return int(self._db.rows("SELECT count(*) FROM passages")[0][0])

    # -- changes

    def commit(
        self, rows: Sequence[Row], vectors: Sequence[bytes], metadata: Mapping[str, str], removed: Sequence[int]
    ) -> None:
        """One transaction: ``removed`` internals go, ``rows`` and their vectors come, ``metadata`` by id changes."""
        with self._db.transaction() as db:
            first = 1 + int(
                self._db.rows("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'passages'")[0][0]
            )
            db.executemany("INSERT INTO pending (internal) VALUES (?)", ((internal,) for internal in removed))
            db.executemany("DELETE FROM passages WHERE internal = ?", ((internal,) for internal in removed))
            db.executemany("INSERT INTO passages VALUES (?, ?, ?, ?, ?)", ((first + i, *r) for i, r in enumerate(rows)))
            db.executemany(
                "INSERT INTO pending (internal, vector) VALUES (?, ?)", ((first + i, v) for i, v in enumerate(vectors))
            )
            db.executemany("UPDATE passages SET metadata = ? WHERE id = ?", ((v, k) for k, v in metadata.items()))
            db.execute("UPDATE meta SET generation = generation + 1")

    def forget_pending(self, sequence: int) -> None:
        """Drop the changes up to ``sequence`` from the log: ``index.faiss`` holds them now."""
        with self._db.transaction() as db:
            db.execute("DELETE FROM pending WHERE sequence <= ?", (sequence,))
            db.execute("UPDATE meta SET flushed = max(flushed, ?)", (sequence,))

    def vacuum(self) -> None:
        """Give the room of what was deleted back to the disk."""
        self._db.rows("VACUUM")
        self._db.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    # -- checks

    def problems(self) -> list[str]:
        """What is wrong with the file: SQLite's own check, then every text against its hash."""
        reports = [row[0] for row in self._db.rows("PRAGMA integrity_check(10)")]
        if reports != ["ok"]:
            return [str(damaged(self._path, f"fails SQLite's check ({report})")) for report in reports]
        found = []
        for id_, text, sha256, metadata in self._db.each("SELECT id, text, text_sha256, metadata FROM passages"):
            if text_sha256(text) != sha256:
                found.append(str(damaged(self._path, f"holds a changed text for the id {id_!r}")))
            elif not _is_object(metadata):
                found.append(str(damaged(self._path, f"holds unreadable metadata for the id {id_!r}")))
        return found

    # -- below

    def _passage(self, row: tuple[Any, ...]) -> Passage:
        try:
            return Passage(id=row[0], text=row[1], metadata=json.loads(row[2]))
        except ValueError as error:
            raise damaged(self._path, f"holds unreadable metadata for the id {row[0]!r}") from error

    def _matching(self, where: Mapping[str, Any] | None) -> list[tuple[int, str]]:
        condition, parameters = where_sql(where)
        sql = f"SELECT internal, id FROM passages WHERE {condition} ORDER BY internal"  # noqa: S608 - values are bound
        return self._db.rows(sql, parameters)

    def _by(self, key: str, values: Sequence[object], columns: str) -> list[tuple[Any, ...]]:
        return self._db.rows_among(f"SELECT {columns} FROM passages WHERE {key} IN", values)  # noqa: S608 - names of columns


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
