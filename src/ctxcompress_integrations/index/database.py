"""One SQLite connection whose errors are ours.

Knows nothing of passages: how a file is opened for writing, for reading, or on a disk that cannot be written at all,
and what SQLite's error codes mean to the owner of an index.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctxcompress_integrations.errors import IndexDirectoryError, IndexLockedError, IndexReadOnlyError
from ctxcompress_integrations.index.layout import damaged

BUSY_SECONDS = 10.0
IMMUTABLE = "ro&immutable=1"
_SLICE = 900  # parameters per statement: SQLite before 3.32 takes 999


class Database:
    """A connection to an existing file. Not locked: the owner lets one thread in at a time."""

    def __init__(self, path: Path, *, is_read_only: bool) -> None:
        self._path, self._is_read_only = path, is_read_only
        self._connect()

    def _connect(self) -> None:
        if not self._path.exists():
            raise damaged(self._path, "is missing")
        if all(_is_cut_short(self._path) for _ in range(2)):  # twice: a writer may be shrinking it this very moment
            raise damaged(self._path, "is cut short")
        stamp = _stamp(self._path)  # before the mode: what is written in between shows as a change
        mode = _mode(self._path, is_read_only=self._is_read_only)
        self._frozen = stamp if mode == IMMUTABLE else None  # SQLite will not look whether it changed
        with self._guard():
            self._db = sqlite3.connect(
                f"{self._path.resolve().as_uri()}?mode={mode}",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            for setting in ("synchronous = FULL", "trusted_schema = OFF", *["query_only = ON"] * self._is_read_only):
                with self._guard():
                    self._db.execute(f"PRAGMA {setting}").fetchall()
        except BaseException:
            self.close()
            raise

    def _follow(self) -> None:
        """Connect again where the file has changed behind a connection that does not look."""
        if self._frozen is not None and not self._db.in_transaction and _stamp(self._path) != self._frozen:
            self.close()
            self._connect()

    @staticmethod
    def create(path: Path, script: str) -> None:
        """Make a file with a write-ahead log and run ``script`` in it as one transaction."""
        try:
            db = sqlite3.connect(path, isolation_level=None)
            try:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.executescript(f"BEGIN; {script} COMMIT;")
            finally:
                db.close()
        except sqlite3.Error as error:
            raise IndexDirectoryError(f"{path} could not be made ({error}): free space or fix permissions") from error

    def close(self) -> None:
        """Close the connection."""
        with self._guard():
            self._db.close()

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        """All rows of a query."""
        self._follow()
        with self._guard():
            return self._db.execute(sql, parameters).fetchall()

    def rows_among(self, sql: str, values: Sequence[object], parameters: Sequence[object] = ()) -> list[Any]:
        """All rows of a query that ends in "... IN": for each of ``values``, however many there are."""
        rows: list[Any] = []
        for start in range(0, len(values), _SLICE):
            part = values[start : start + _SLICE]
            rows += self.rows(f"{sql} ({', '.join('?' * len(part))})", (*parameters, *part))
        return rows

    def each(self, sql: str) -> Iterator[Any]:
        """The rows of a query, one at a time."""
        self._follow()
        with self._guard():
            yield from self._db.execute(sql)

    def begin(self) -> None:
        """Start a read that sees one state until ``rollback``."""
        self._follow()
        with self._guard():
            self._db.execute("BEGIN")

    def rollback(self) -> None:
        """End the open transaction, if there is one, and undo what it changed."""
        with self._guard():
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Changes that are committed together at the end of the block, or not at all."""
        with self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                self.rollback()  # a COMMIT that failed leaves the transaction open

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if self._frozen is not None and _stamp(self._path) != self._frozen:
                raise IndexLockedError(f"{self._path} was changed while it was read ({error}): try again") from error
            raise _translated(error, self._path) from error


def _stamp(path: Path) -> tuple[int, int, int, int]:
    """What differs once a file was written, or has changes waiting beside it."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return 0, 0, 0, 0
    return state.st_ino, state.st_size, state.st_mtime_ns, _wal_size(path)


def _is_cut_short(path: Path) -> bool:
    """SQLite itself reads what is missing at the end as zeros, and complains late or never."""
    if _wal_size(path):
        return False  # the file is only part of the truth
    try:
        with path.open("rb") as file:
            header = file.read(32)
    except OSError as error:
        raise IndexDirectoryError(f"{path} cannot be read ({error.strerror}): fix its permissions") from error
    page_size = int.from_bytes(header[16:18], "big")
    return path.stat().st_size < int.from_bytes(header[28:32], "big") * (65_536 if page_size == 1 else page_size)


def _wal_size(path: Path) -> int:
    try:
        return path.with_name(path.name + "-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _mode(path: Path, *, is_read_only: bool) -> str:
    if not is_read_only or os.access(path.parent, os.W_OK):
        return "rw"  # readers too: they share the -shm file, and the last one out leaves a tidy directory
    # A reader cannot make its -shm file here. "immutable" needs none, but overlooks changes, in a -wal file or at all.
    return "ro" if _wal_size(path) else IMMUTABLE


def _translated(error: sqlite3.Error, path: Path) -> Exception:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # the low byte: without the details
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return IndexLockedError(f"{path} is busy in another process ({error}): try again later")
    if code == sqlite3.SQLITE_READONLY:
        return IndexReadOnlyError(f"{path} cannot be written ({error}): fix its permissions")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM):
        return IndexDirectoryError(
            f"{path} could not be read or written ({error}): free space on the disk and try again; "
            "nothing that was committed is lost"
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return IndexDirectoryError(
            f"{path} cannot be opened ({error}): fix the permissions or, when changes wait in its -wal file, open the "
            "index once where its directory can be written"
        )
    if code == sqlite3.SQLITE_TOOBIG:
        return ValueError(f"a text or its metadata is too large for {path} ({error}): split the passage")
    return damaged(path, f"is damaged ({error})")
