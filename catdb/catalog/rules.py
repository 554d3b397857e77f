"""What must hold between the rows of a catalog, rule by rule, and what is done about the rows that break it.

SQLite keeps its own structure whole, and nothing beyond that: a row that a bug, another program or a bad sector has
changed is a sound row to it. Nothing here depends on the shards.
"""

from __future__ import annotations

from dataclasses import dataclass

FORGET = "forget"  # these rows' images leave the database, and the next build takes them in again
DELETE = "delete"  # these rows go
RESTORE = "restore it from a backup, or build the database anew"


@dataclass(frozen=True, slots=True)
class Rule:
    """``where`` holds for the rows of ``table`` that are wrong; ``cure`` is FORGET, DELETE, RESTORE, or a statement.

    ``since``: the format of the catalog that first had all columns that are asked about.
    """

    what: str
    table: str
    where: str
    cure: str
    since: int = 2

    @property
    def count(self) -> str:
        return f"SELECT count(*) FROM {self.table} WHERE {self.where}"

    @property
    def images(self) -> str:
        """The ids of the images that are to be forgotten."""
        return f"SELECT id FROM {self.table} WHERE {self.where}"

    @property
    def statement(self) -> str:
        """The statement that cures, where it is neither FORGET nor RESTORE."""
        return f"DELETE FROM {self.table} WHERE {self.where}" if self.cure == DELETE else self.cure


def _mistyped(**kinds: str) -> str:
    """Return the condition that one of the columns holds no value of its kind, which SQLite does not prevent."""
    return " OR ".join(
        f"typeof({column}) NOT IN ({', '.join(repr(kind) for kind in kinds[column].split())})" for column in kinds
    )


def _unknown(column: str, table: str, key: str = "id") -> str:
    return f"{column} NOT IN (SELECT {key} FROM {table})"


_CATEGORY = _unknown("category", "category", "number")
_INTEGERS = {"category": "integer", "image": "integer"}
_STAMP = dict.fromkeys(("root", "size", "mtime_ns", "inode"), "integer")
_OLDEST = "(SELECT max(generation) FROM (SELECT generation FROM shard UNION ALL SELECT generation FROM garbage))"
_RANKED = (
    "id IN (SELECT image FROM member GROUP BY image HAVING min(rank) != 0 OR max(rank) != count(*) - 1"
    " OR count(*) > 4 OR count(DISTINCT category) != count(*))"
)
_LIKELY = (
    "id IN (SELECT m.image FROM member m LEFT JOIN member n ON n.image = m.image AND n.rank = m.rank + 1"
    " WHERE typeof(m.probability) != 'real' OR m.probability NOT BETWEEN 0 AND 1.0001"
    " OR n.probability > m.probability)"
)

# In the order in which they are cured: what is no value at all first, for every other rule compares values.
MISTYPED = (
    Rule("roots of no known form", "root", _mistyped(path="blob", relative="blob"), RESTORE),
    Rule(
        "images of no known form",
        "image",
        _mistyped(**_STAMP, path="blob", digest="blob", width="integer", height="integer"),
        FORGET,
    ),
    Rule(
        "vectors of no known form",
        "vector",
        _mistyped(data="blob", checksum="integer"),
        f"UPDATE vector SET data = x'', checksum = 0 WHERE {_mistyped(data='blob', checksum='integer')}",
    ),
    Rule("memberships of no known form", "member", _mistyped(**_INTEGERS, rank="integer"), DELETE),
    Rule("waiting rows of no known form", "pending", _mistyped(**_INTEGERS), DELETE),
    Rule("dead rows of no known form", "tombstone", _mistyped(**_INTEGERS), DELETE),
    Rule(
        "shards of no known form",
        "shard",
        _mistyped(**dict.fromkeys(("generation", "rows", "bytes", "checksum"), "integer")),
        DELETE,
    ),
    Rule(
        "shards with checksums of no known form",
        "shard",
        _mistyped(**dict.fromkeys(("features", "stride", "rest"), "integer")),
        DELETE,
        since=3,
    ),
    Rule(
        "centroids of no known form",
        "centroid",
        _mistyped(**dict.fromkeys(("category", "block", "first", "rows"), "integer"), data="blob"),
        DELETE,
    ),
    Rule("centroids with checksums of no known form", "centroid", _mistyped(checksum="integer"), DELETE, since=3),
    Rule(
        "replaced shards of no known form",
        "garbage",
        _mistyped(category="integer", generation="integer", since="real integer"),
        DELETE,
    ),
    Rule("distinct pairs of no known form", "distinct_pair", _mistyped(one="blob", other="blob"), DELETE),
)

RULES = (
    *MISTYPED,
    Rule(
        "category numbers that others are missing before",
        "category",
        "number >= (SELECT count(*) FROM category)",
        RESTORE,
    ),
    Rule("images without a vector", "image", _unknown("id", "vector", "image"), FORGET),
    Rule("images without a category", "image", _unknown("id", "member", "image"), FORGET),
    Rule("images without a root", "image", _unknown("root", "root"), FORGET),
    Rule("images of an unknown category", "image", f"id IN (SELECT image FROM member WHERE {_CATEGORY})", FORGET),
    Rule("images whose categories are not ranked from 0, distinct and at most four", "image", _RANKED, FORGET),
    Rule("images whose probabilities are not falling and between 0 and 1", "image", _LIKELY, FORGET),
    Rule("vectors without an image", "vector", _unknown("image", "image"), DELETE),
    Rule("memberships without an image", "member", _unknown("image", "image"), DELETE),
    Rule(
        "waiting rows without a membership",
        "pending",
        "NOT EXISTS (SELECT 1 FROM member m WHERE m.image = pending.image AND m.category = pending.category)",
        DELETE,
    ),
    Rule(
        "dead rows of a living membership",
        "tombstone",
        "EXISTS (SELECT 1 FROM member m WHERE m.image = tombstone.image AND m.category = tombstone.category)",
        DELETE,
    ),
    Rule("dead rows without a shard", "tombstone", _unknown("category", "shard", "category"), DELETE),
    Rule("shards of an unknown category", "shard", _CATEGORY, DELETE),
    Rule("replaced shards of an unknown category", "garbage", _CATEGORY, DELETE),
    Rule(
        "replaced shards that are still in use",
        "garbage",
        "(category, generation) IN (SELECT category, generation FROM shard)",
        DELETE,
    ),
    Rule("centroids without a shard", "centroid", _unknown("category", "shard", "category"), DELETE),
    Rule("failures without a root", "failure", _unknown("root", "root"), DELETE),
    Rule("removed paths without a root", "removed", _unknown("root", "root"), DELETE),
    Rule("distinct pairs that are not in order", "distinct_pair", "one > other", DELETE),
    Rule(
        "next generation that was used before",
        "meta",
        f"key = 'generation' AND (typeof(value) != 'integer' OR value <= {_OLDEST})",
        f"UPDATE meta SET value = 1 + ifnull({_OLDEST}, 0) WHERE key = 'generation'",
    ),
    Rule(
        "dimension that is no number",
        "meta",
        "key = 'dimension' AND (typeof(value) != 'integer' OR value < 1)",
        RESTORE,
    ),
)
