"""The tables of a store, and how older ones become today's.

    rows      what was taught; `turn` is the change that made a row the current one of its key
    vectors   float16, one a row
    postings  the inverted index: (space, term) -> blocks of row ids with counts; current rows only
    facets    (space, name, JSON value) -> row ids, for filters on metadata
    spaces    names, and the totals that BM25 needs
    changes   what could be found from when; each process replays it into its own vector index
    erasures  forgotten rows whose bytes may still be in a file
    settings  the encoder's fingerprint and width

Full text is an inverted index of our own and not FTS5: FTS5 keeps the words of a deleted row until its segments are
merged, which takes tens of seconds at a million rows (docs/memory/store.md has the figures), and it counts all
spaces together, so that a row of one space changes the scores of another.
"""

import sqlite3
from collections.abc import Sequence

from rhapsode.errors import StateError

APPLICATION_ID = 0x52485053
"""`RHPS`, in the header of the file."""

_VERSION_1 = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE spaces (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    num_rows INTEGER NOT NULL DEFAULT 0,
    num_terms INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE rows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    space INTEGER NOT NULL REFERENCES spaces(id),
    key TEXT,
    text TEXT NOT NULL,
    source TEXT,
    metadata TEXT NOT NULL,
    provenance TEXT NOT NULL,
    created_at REAL NOT NULL,
    version INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    superseded_by INTEGER,
    key_hash INTEGER NOT NULL,
    text_hash INTEGER NOT NULL
);
CREATE INDEX rows_by_hash ON rows(space, key_hash, text_hash);
CREATE INDEX rows_current ON rows(space) WHERE superseded_by IS NULL;
CREATE TABLE vectors (id INTEGER PRIMARY KEY REFERENCES rows(id) ON DELETE CASCADE, vector BLOB NOT NULL);
CREATE TABLE postings (
    space INTEGER NOT NULL,
    term TEXT NOT NULL,
    first INTEGER NOT NULL,
    block BLOB NOT NULL,
    PRIMARY KEY (space, term, first)
) WITHOUT ROWID;
CREATE TABLE facets (
    space INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (space, name, value, id)
) WITHOUT ROWID;
CREATE TABLE changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    op TEXT NOT NULL CHECK (op IN ('add', 'drop')),
    id INTEGER NOT NULL,
    space INTEGER NOT NULL
);
CREATE TABLE erasures (id INTEGER PRIMARY KEY);
INSERT INTO spaces (name) VALUES ('default');
"""
MIGRATIONS: tuple[str, ...] = (_VERSION_1,)
"""Entry i takes a store from version i to i + 1; a version once released is never edited."""


def schema_version(connection: sqlite3.Connection) -> int:
    """Return the version a store was written with; 0 for an empty file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def check_version(connection: sqlite3.Connection, where: object, newest: int = len(MIGRATIONS)) -> None:
    """Refuse what is not a store, or a newer one.

    Raises:
        StateError: naming both versions.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    version = schema_version(connection)
    if version and application != APPLICATION_ID:
        raise StateError(f"{where} must be a memory of rhapsode; got another SQLite database. Choose another folder.")
    if version > newest:
        raise StateError(
            f"{where} has schema version {version}, and this rhapsode reads up to {newest}. Install a newer rhapsode."
        )


def migrate(connection: sqlite3.Connection, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring a store to the newest version, all or nothing; the caller holds a write transaction."""
    for number in range(schema_version(connection), len(migrations)):
        # executescript would commit first.
        for statement in filter(str.strip, migrations[number].split(";")):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(migrations)}")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
