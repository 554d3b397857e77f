"""Build a database from a folder, then print the images that look most like one image.

usage: python examples/build_and_search.py FOLDER IMAGE [BACKBONE]
"""

import sys

from catdb import CatdbError, Database


def main(folder: str, image: str, backbone: str = "inception_resnet_v2") -> None:
    with Database("example.catdb", backbone=backbone, notice=print) as db:
        report = db.build(folder)
        print(f"{report.added} added, {report.unchanged} unchanged, {len(report.failed)} failed")
        for failure in report.failed:
            print(f"  {failure.path}: {failure.reason}")
        result = db.search(image, k=5)
        print(f"searched {result.scanned} of {result.total} images")
        for match in result:
            print(f"{match.rank}  {match.similarity:.3f}  {match.path}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except CatdbError as error:
        sys.exit(str(error))
