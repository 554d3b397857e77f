"""The tables: how they are made, told from those of others, and brought up to date from an older format."""

from __future__ import annotations

import sqlite3

import numpy as np

from catdb.errors import DatabaseDamaged

FORMAT = 3
_APPLICATION = 0x63617464
_NEW_IN_2 = ("TABLE centroid", "INDEX image_inode", "TABLE distinct_pair")

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE category(number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL);
CREATE TABLE root(
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, relative BLOB NOT NULL, whole INTEGER NOT NULL,
    device INTEGER, offline INTEGER NOT NULL DEFAULT 0, reconciled REAL);
CREATE TABLE image(
    id INTEGER PRIMARY KEY AUTOINCREMENT, root INTEGER NOT NULL, path BLOB NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, digest BLOB NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, UNIQUE(root, path));
CREATE INDEX image_digest ON image(digest);
CREATE INDEX image_inode ON image(inode);
CREATE TABLE vector(image INTEGER PRIMARY KEY, data BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE member(
    image INTEGER, rank INTEGER, category INTEGER NOT NULL, probability REAL NOT NULL,
    PRIMARY KEY(image, rank)) WITHOUT ROWID;
CREATE TABLE pending(category INTEGER, image INTEGER, PRIMARY KEY(category, image)) WITHOUT ROWID;
CREATE TABLE tombstone(category INTEGER, image INTEGER, PRIMARY KEY(category, image)) WITHOUT ROWID;
CREATE TABLE shard(
    category INTEGER PRIMARY KEY, generation INTEGER NOT NULL, rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL, checksum INTEGER NOT NULL,
    features INTEGER NOT NULL DEFAULT 0, stride INTEGER NOT NULL DEFAULT 0, rest INTEGER NOT NULL DEFAULT 0);
CREATE TABLE centroid(
    category INTEGER, block INTEGER, first INTEGER NOT NULL, rows INTEGER NOT NULL, data BLOB NOT NULL,
    checksum INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(category, block));
CREATE TABLE garbage(category INTEGER, generation INTEGER, since REAL, PRIMARY KEY(category, generation)) WITHOUT ROWID;
CREATE TABLE failure(
    root INTEGER, path BLOB, size INTEGER, mtime_ns INTEGER, inode INTEGER, reason TEXT NOT NULL,
    PRIMARY KEY(root, path)) WITHOUT ROWID;
CREATE TABLE removed(root INTEGER, path BLOB, back INTEGER NOT NULL, PRIMARY KEY(root, path)) WITHOUT ROWID;
CREATE TABLE exclude(glob BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE distinct_pair(one BLOB, other BLOB, PRIMARY KEY(one, other)) WITHOUT ROWID;
"""
_STATEMENTS = [text.strip() for text in _SCHEMA.split(";") if text.strip()]


def make(sql: sqlite3.Connection) -> None:
    """Make the empty tables in the running transaction."""
    for statement in _STATEMENTS:
        sql.execute(statement)
    sql.execute(f"PRAGMA application_id={_APPLICATION}")
    sql.execute(f"PRAGMA user_version={FORMAT}")


def read_format(sql: sqlite3.Connection, path: str) -> int:
    """Return the format's number, 0 for an empty file. DatabaseDamaged where it is none that we know."""
    try:
        if not _number(sql, "SELECT count(*) FROM sqlite_schema"):
            return 0
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname == "SQLITE_READONLY_ROLLBACK":
            return 0  # its very making was cut off: only then is there another journal than the log
        raise
    if _number(sql, "PRAGMA application_id") != _APPLICATION:
        raise DatabaseDamaged(f"{path}: an SQLite file, but not a catdb catalog; use another directory")
    found = _number(sql, "PRAGMA user_version")
    if found > FORMAT:
        raise DatabaseDamaged(f"{path}: format {found}, this catdb reads {FORMAT}; install a newer catdb")
    return found


def upgrade(sql: sqlite3.Connection, found: int) -> None:
    """Bring the tables of an older format up to date in the running transaction.

    In format 1 a shard was one block with a float32 mean. Before format 3 only whole files had a checksum: of their
    parts nothing is known until they are made anew.
    """
    if found == 1:
        _upgrade_blocks(sql)
    else:
        sql.execute("ALTER TABLE centroid ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0")
    for column in ("features", "stride", "rest"):
        sql.execute(f"ALTER TABLE shard ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")
    sql.execute(f"PRAGMA user_version={FORMAT}")


def _upgrade_blocks(sql: sqlite3.Connection) -> None:
    rows = sql.execute("SELECT category, rows, data FROM centroid JOIN shard USING (category)").fetchall()
    sql.execute("DROP TABLE centroid")
    for statement in _STATEMENTS:
        if any(name in statement for name in _NEW_IN_2):
            sql.execute(statement)
    for category, count, data in rows:
        mean = np.frombuffer(data, "<f4").astype("<f2").tobytes()
        sql.execute("INSERT INTO centroid VALUES(?, ?, ?, ?, ?, 0)", (category, 0, 0, count, mean))


def not_as_made(sql: sqlite3.Connection) -> list[str]:
    """Return the statements of tables and indexes that are missing, or were made by another statement."""
    there = {_plain(text) for (text,) in sql.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")}
    return sorted(text for text in _STATEMENTS if _plain(text) not in there)


def _plain(statement: str) -> str:
    """Return a statement without its line breaks, of which a column that was added later knows nothing."""
    return " ".join(statement.split())


def _number(sql: sqlite3.Connection, statement: str) -> int:
    return int(sql.execute(statement).fetchone()[0])
