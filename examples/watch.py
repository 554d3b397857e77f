"""Keep a database in step with a folder, print each change, and say which images a new one resembles.

usage: python examples/watch.py FOLDER [BACKBONE [SECONDS]]       (it ends after that many seconds, or with Ctrl-C)
"""

import sys
import time

from catdb import CatdbError, Database, Notice


def tell(notice: Notice) -> None:
    """Print a change; called in the thread of the watch, once a search can find it."""
    print(f"{notice.event.kind} {notice.event.path}")
    for path, similarity in notice.resembles:
        print(f"  resembles {path} ({similarity:.3f})")


def main(folder: str, backbone: str = "inception_resnet_v2", seconds: float = 1e6) -> None:
    with (
        Database("example.catdb", backbone=backbone, notice=print) as db,
        db.watch(folder, announce=tell, alert=0.95) as watch,
    ):
        watch.wait_idle()  # until all that is in the folder is in the database; raises what went wrong in the thread
        print(f"{len(db)} images in step with {folder}")
        time.sleep(seconds)  # do anything else here


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3], *map(float, sys.argv[3:]))
    except CatdbError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
