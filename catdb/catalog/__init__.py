"""The catalog: the one commit point and the durable record of every image. The secret kept here is SQLite.

Format 3: ``catalog.sqlite``, WAL, ``synchronous=FULL``, ``application_id`` 0x63617464 ("catd"), ``user_version`` 3.
(Format 1 had one centroid a category, in float32, and format 2 no checksums of a shard's parts: 0 stands for all that
concerns those until the shard is made anew. The next writer brings the tables up to date.)
Whatever is in it is acknowledged, whatever is not does not exist; the shards can be rebuilt from it at any time.

============= =========== ============================================================================================
meta          meta        what the database is: backbone, weights' SHA-256, engine, dimension, next generation, ...
category      meta        the backbone's categories by number (its class index): id, name
root          roots       a folder that is kept in step (``whole``), or one of which only single files are known
exclude       roots       globs of what is not to be found
image         images      one file: root, path below it (bytes), size, mtime, inode, content digest, size in pixels
vector        images      the image's float16 feature with its checksum
distinct_pair images      two content digests, the lesser first, that are no duplicates: said by hand, kept for good
failure       paths       files that could not be read, with the stamp they had; NULL means "try again every time"
removed       paths       paths (or folders) that were removed by hand and stay out until they are added again
member        memberships the image's categories by rank (0 is the most probable), with probabilities
pending       memberships (category, image): a membership that is not in the category's shard yet
tombstone     memberships (category, image): a row of the category's shard whose image is gone
shard         shards      the category's current file: generation, rows, size, checksum; where its features begin, the
                          bytes of each row of them, and a checksum of the rest of the file
centroid      shards      the blocks of a category's shard: first row, how many, their mean in float16, and a checksum
                          of their features
garbage       shards      files that no snapshot newer than ``since`` refers to
============= =========== ============================================================================================

The second column names the module that reads and writes the table. ``connection`` opens, commits and reads at one
moment; ``schema`` makes the tables, ``integrity`` holds them against ``rules``, ``survey`` sets folders against them,
and ``ahead`` has a whole table read from the disk many pages at a time.

Image ids rise and are never used twice: a changed file is a new image, so that a row of an old shard can never be
taken for it. ``pending`` and ``tombstone`` are small tables of their own because as flags in ``member`` they would
rewrite pages all over it, for every image.

A connection opened by :meth:`Catalog.writer` is used only under the database's lock, and only it commits and
checkpoints; those by :meth:`Catalog.reader` can do neither (SQLite before 3.51.3 can lose a commit when several
connections checkpoint at once).
"""

from catdb.catalog.catalog import Catalog
from catdb.catalog.connection import clear_errors
from catdb.catalog.rules import MISTYPED, RESTORE
from catdb.catalog.schema import FORMAT
from catdb.catalog.survey import Survey, Todo
from catdb.catalog.values import Centroid, Image, Load, Maker, Pointer, Put, Root, is_forgotten, is_removed

__all__ = [
    "Catalog",
    "Centroid",
    "FORMAT",
    "Image",
    "Load",
    "MISTYPED",
    "Maker",
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
