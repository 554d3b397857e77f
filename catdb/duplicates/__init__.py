"""Which images are copies of one another, and which of them to keep. Nothing is ever deleted here.

    catalog ─ equal digests ─▶ "bytes": no file is read
    shards ─ cosine, a category at a time ─▶ candidates ─ glances ─▶ few ─ equal pixels ─▶ "pixels"
                                                                         ─ likeness ─────▶ "near"

How groups are formed: images stand in one order, the most pixels first, then the oldest file, then the name. The first
is the keeper of its group, and every other member is itself confirmed to be a copy of the keeper (``groups``).

The tiers follow one another, the strongest first. The keeper of a group stands for all of it in the later tiers, the
others are seen no more. So an image is a copy to be rid of at most once; and where the keeper of one group is a copy in
a later one, getting rid of every copy still leaves one of each.

Two files are equal in pixels where they are so when decoded to their full size, and near as ``likeness`` says. What is
seen of an image is computed anew each time: a decoding at a reduced size, of candidates only, costs milliseconds, and
a reader may not write.

Memory: about 200 bytes per image of the database, 2 KB per candidate, 128 MB of sketches, and four images at their full
size; of a category a copy of its rows.
"""

from __future__ import annotations

from catdb.duplicates.find import NEAR, Duplicate, Duplicates, Group, find

__all__ = ["NEAR", "Duplicate", "Duplicates", "Group", "find"]
