"""The catalogue: which shard holds the summary of which text, in SQLite. What it commits is the store.

Knows no vectors and opens no shard.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ctxcompress_integrations.index.database import Database
from ctxcompress_integrations.index.layout import Layout, damaged, sync_directory, temporary_of, writing
from ctxcompress_integrations.index.summaries.shards import CODEBOOK

_SCHEMA = """
CREATE TABLE meta (index_id TEXT NOT NULL);
CREATE TABLE summarizers (number INTEGER PRIMARY KEY AUTOINCREMENT, fingerprint TEXT NOT NULL UNIQUE,
    identity TEXT NOT NULL, reader TEXT NOT NULL, codec TEXT NOT NULL, width INTEGER);
CREATE TABLE shards (number INTEGER PRIMARY KEY AUTOINCREMENT, summarizer INTEGER NOT NULL, codec TEXT NOT NULL,
    size INTEGER NOT NULL, sha256 TEXT NOT NULL, n_rows INTEGER NOT NULL, n_vectors INTEGER NOT NULL,
    relative_error REAL NOT NULL);
CREATE TABLE rows (summarizer INTEGER NOT NULL, text_sha256 BLOB NOT NULL, shard INTEGER NOT NULL,
    position INTEGER NOT NULL, PRIMARY KEY (summarizer, text_sha256)) WITHOUT ROWID;
CREATE INDEX rows_by_shard ON rows (shard);
"""


class Origin(NamedTuple):
    """Who made rows.

    Attributes:
        identity: of the summarizer, as JSON text with sorted keys.
        reader: digest of the reader's weights.
        codec: that its rows are to have.
        width: ``d``; None before the first row.
    """

    number: int
    fingerprint: str
    identity: str
    reader: str
    codec: str
    width: int | None


class Entry(NamedTuple):
    """What the catalogue knows of one shard, or of a codebook (``codec`` "codebook", no rows)."""

    number: int
    summarizer: int
    codec: str
    size: int
    sha256: str
    n_rows: int
    n_vectors: int
    relative_error: float


class Place(NamedTuple):
    """Where a row lies."""

    shard: int
    position: int


class Catalogue:
    """One connection to ``catalogue.sqlite``. Not locked: the owner lets one thread in at a time."""

    def __init__(self, layout: Layout, index_id: str, *, is_read_only: bool) -> None:
        self._path = layout.catalogue
        self._db = Database(self._path, is_read_only=is_read_only)
        try:
            if (found := self._db.rows("SELECT index_id FROM meta")) != [(index_id,)]:
                raise damaged(self._path, f"belongs to another index (id {found}, not {index_id!r})")
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def create(cls, layout: Layout, index_id: str) -> None:
        """Make an empty catalogue and its folder: complete or not at all."""
        with writing(layout.catalogue):
            layout.summaries.mkdir(exist_ok=True)
            sync_directory(layout.root)
            temporary = temporary_of(layout.catalogue)
            for leftover in layout.summaries.glob(f"{layout.catalogue.name}*"):
                leftover.unlink()  # above all a log that has lost its file: SQLite would replay it into the new one
            Database.create(temporary, f"{_SCHEMA} INSERT INTO meta VALUES ('{index_id}');")  # noqa: S608 - a UUID
            temporary.replace(layout.catalogue)
            sync_directory(layout.summaries)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    # -- reading

    def origin(self, fingerprint: str) -> Origin | None:
        """The summarizer with this fingerprint."""
        found = self._db.rows("SELECT * FROM summarizers WHERE fingerprint = ?", (fingerprint,))
        return Origin(*found[0]) if found else None

    def origins(self) -> list[Origin]:
        """All summarizers, oldest first."""
        return [Origin(*row) for row in self._db.rows("SELECT * FROM summarizers ORDER BY number")]

    def entry(self, number: int) -> Entry | None:
        """A shard, or a codebook."""
        found = self._db.rows("SELECT * FROM shards WHERE number = ?", (number,))
        return Entry(*found[0]) if found else None

    def entries(self) -> list[Entry]:
        """All shards and codebooks, oldest first."""
        return [Entry(*row) for row in self._db.rows("SELECT * FROM shards ORDER BY number")]

    def shards(self, origin: Origin) -> list[Entry]:
        """The shards of a summarizer, oldest first."""
        sql = "SELECT * FROM shards WHERE summarizer = ? AND codec <> ? ORDER BY number"
        return [Entry(*row) for row in self._db.rows(sql, (origin.number, CODEBOOK))]

    def codebook(self, origin: Origin) -> Entry | None:
        """The codebook of a summarizer; None before it is trained."""
        sql = "SELECT * FROM shards WHERE summarizer = ? AND codec = ?"
        found = self._db.rows(sql, (origin.number, CODEBOOK))
        return Entry(*found[0]) if found else None

    def places(self, origin: Origin, keys: Sequence[bytes]) -> dict[bytes, Place]:
        """Where the rows of texts are; those without one are left out."""
        sql = "SELECT text_sha256, shard, position FROM rows WHERE summarizer = ? AND text_sha256 IN"
        return {key: Place(*place) for key, *place in self._db.rows_among(sql, keys, [origin.number])}

    def rows_of(self, shard: int) -> dict[int, bytes]:
        """Hash of the text of each row of a shard, by position, ascending."""
        sql = "SELECT position, text_sha256 FROM rows WHERE shard = ? ORDER BY position"
        return dict(self._db.rows(sql, (shard,)))

    def keys(self, origin: Origin) -> set[bytes]:
        """Hashes of all texts that a summarizer has rows for."""
        return {row[0] for row in self._db.rows("SELECT text_sha256 FROM rows WHERE summarizer = ?", (origin.number,))}

    def next_number(self) -> int:
        """Number of the next shard; no number that was ever committed comes back."""
        sql = "SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'shards'"
        return int(self._db.rows(sql)[0][0])

    # -- changes

    def put_origin(self, fingerprint: str, identity: Mapping[str, Any], codec: str) -> None:
        """Enter a summarizer, or change the codec of one that is there."""
        with self._db.transaction() as db:
            db.execute(
                "INSERT INTO summarizers (fingerprint, identity, reader, codec) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (fingerprint) DO UPDATE SET codec = excluded.codec",
                (fingerprint, json.dumps(identity, sort_keys=True), identity["reader"], codec),
            )

    def put(self, entry: Entry, width: int | None, keys: Iterable[bytes] = (), removed: Iterable[int] = ()) -> None:
        """One transaction: a shard and its rows come, the shards ``removed`` and their rows go."""
        with self._db.transaction() as db:
            _remove(db, removed)
            db.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?, ?, ?)", entry)
            db.executemany(
                "INSERT INTO rows VALUES (?, ?, ?, ?)",
                ((entry.summarizer, key, entry.number, position) for position, key in enumerate(keys)),
            )
            db.execute("UPDATE summarizers SET width = ? WHERE number = ?", (width, entry.summarizer))

    def remove(self, shards: Iterable[int], origin: Origin | None = None) -> None:
        """One transaction: shards and their rows go, and with them a summarizer."""
        with self._db.transaction() as db:
            _remove(db, shards)
            if origin is not None:
                db.execute("DELETE FROM summarizers WHERE number = ?", (origin.number,))

    def vacuum(self) -> None:
        """Give the room of what was removed back to the disk."""
        self._db.rows("VACUUM")
        self._db.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    # -- checks

    def problems(self) -> list[str]:
        """What is wrong with the file itself, and with its tables against each other."""
        reports = [row[0] for row in self._db.rows("PRAGMA integrity_check(10)")]
        if reports != ["ok"]:
            return [str(damaged(self._path, f"fails SQLite's check ({report})")) for report in reports]
        homeless = self._db.rows(
            "SELECT count(*) FROM rows LEFT JOIN shards ON shards.number = rows.shard "
            "AND shards.summarizer = rows.summarizer WHERE shards.number IS NULL"
        )[0][0]
        return [str(damaged(self._path, f"has {homeless} rows without a shard"))] if homeless else []


def inode_of(path: Path) -> int | None:
    """Which file has a name now; None where there is none."""
    try:
        return path.stat().st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


def _remove(db: Any, shards: Iterable[int]) -> None:
    numbers = [(number,) for number in shards]
    db.executemany("DELETE FROM rows WHERE shard = ?", numbers)
    db.executemany("DELETE FROM shards WHERE number = ?", numbers)
