"""Every error that catdb raises on purpose, and nothing else.

Each leaf also inherits the builtin that it resembles, so that ``except FileNotFoundError`` works as a Python
programmer expects. The message of each is one line: what is wrong, and what to do about it. A bad *image* is no
exception but a value, :class:`catdb.images.Failure`.
"""


class CatdbError(Exception):
    """Whatever catdb raises on purpose."""


class DatabaseNotFound(CatdbError, FileNotFoundError):
    """There is no database at the path that was given."""


class DatabaseBusy(CatdbError, TimeoutError):
    """Another process is writing and did not finish in the time that was allowed."""


class DatabaseDamaged(CatdbError, ValueError):
    """The catalog cannot be read, or it is not one that this version of catdb understands."""


class DatabaseReadOnly(CatdbError, PermissionError):
    """A write was asked of a database that was opened for reading, or lies where nothing can be written."""


class StorageError(CatdbError, OSError):
    """The operating system refused a write: the disk is full, or it failed."""


class ShardDamaged(CatdbError, ValueError):
    """A category's file is not the one that was written. Its rows are safe in the catalog."""


class BackboneUnknown(CatdbError, LookupError):
    """No backbone has this name."""


class BackboneMismatch(CatdbError, ValueError):
    """The database's vectors were made by another network, or by other weights, than the one asked for."""


class WeightsNotFound(CatdbError, FileNotFoundError):
    """The weights of a network are nowhere to be found and cannot be downloaded."""


class WeightsInvalid(CatdbError, ValueError):
    """A weights file does not fit its network, or is no weights file at all."""


class EngineFailed(CatdbError, RuntimeError):
    """A network cannot be run by the engine that was asked for."""


class EngineDrifted(CatdbError, ValueError):
    """The engine gives other vectors than those in the database, by more than the precision explains."""


class DecoderFailed(CatdbError, OSError):
    """No process can be started in which to decode images."""


class ImageUnreadable(CatdbError, ValueError):
    """A query image that cannot be read, for a ``reason``. (In a build that is a recorded failure, never an exception.)

    ``path`` is its file, where that is known to whoever raises it; else empty.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason, self.path = reason, path


class PathNotFound(CatdbError, FileNotFoundError):
    """A file or folder that was named does not exist, or is not known to the database."""


class ImageUnknown(CatdbError, LookupError):
    """The database holds no image of this number."""


class RelocationRefused(CatdbError, ValueError):
    """The images are not in the place to which they are said to have moved, or others of the database are there."""


class CategoryUnknown(CatdbError, LookupError):
    """No category has this id or name, or several share the name."""
