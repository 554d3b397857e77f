"""List the pairs of images in a database that are nearly the same, without loading a network.

usage: python examples/near_copies.py DATABASE [SIMILARITY]
"""

import sys

from catdb import Database, Failure


def main(path: str, similarity: float = 0.98) -> None:
    with Database(path, mode="r") as db:
        for result in db.search_many(db, k=5):  # an indexed query is answered from its stored vector
            if isinstance(result, Failure):
                continue
            for match in result:
                if match.similarity >= similarity and match.path > (result.query or ""):
                    print(f"{match.similarity:.4f}  {result.query}  {match.path}")


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
