"""The catalog: the one commit point and the durable record of every image. The secret kept here is SQLite.

Format 2: ``catalog.sqlite``, WAL, ``synchronous=FULL``, ``application_id`` 0x63617464 ("catd"), ``user_version`` 2.
(Format 1 had one centroid a category, in float32; the next writer brings it up to date.)
Whatever is in it is acknowledged, whatever is not does not exist; the shards can be rebuilt from it at any time.

========= ==================================================================================================
meta      what the database is: backbone, weights' SHA-256, engine, dimension, next shard generation, ...
category  the backbone's categories by number (its class index): id, name
root      a folder that is kept in step (``whole``), or one of which only single files are known
image     one file: root, path below it (bytes), size, mtime, inode, content digest, size in pixels
vector    the image's float16 feature with its checksum
member    the image's categories by rank (0 is the most probable), with probabilities
pending   (category, image): a membership that is not in the category's shard yet
tombstone (category, image): a row of the category's shard whose image is gone
shard     the category's current file: generation, rows, size, checksum
centroid  the blocks of a category's shard: first row, how many, and their mean in float16
garbage   files that no snapshot newer than ``since`` refers to
failure   files that could not be read, with the stamp they had; a NULL stamp means "try again every time"
removed   paths (or folders) that were removed by hand and stay out until they are added again
exclude   globs of what is not to be found
distinct_pair  two content digests, the lesser first, that are no duplicates: said by hand, kept for good
========= ==================================================================================================

Image ids rise and are never used twice: a changed file is a new image, so that a row of an old shard can never be
taken for it. ``pending`` and ``tombstone`` are small tables of their own because as flags in ``member`` they would
rewrite pages all over it, for every image.

A connection opened by :meth:`Catalog.writer` is used only under the database's lock, and only it commits and
checkpoints; those by :meth:`Catalog.reader` can do neither (SQLite before 3.51.3 can lose a commit when several
connections checkpoint at once).
"""

from catdb.catalog.catalog import FORMAT, Catalog, clear_errors
from catdb.catalog.rules import MISTYPED, RESTORE
from catdb.catalog.survey import Survey, Todo
from catdb.catalog.values import Centroid, Image, Load, Pointer, Put, Root, is_forgotten, is_removed

__all__ = [
    "Catalog",
    "Centroid",
    "FORMAT",
    "Image",
    "Load",
    "MISTYPED",
    "Pointer",
    "Put",
    "RESTORE",
    "Root",
    "Survey",
    "Todo",
    "clear_errors",
    "is_forgotten",
    "is_removed",
]
