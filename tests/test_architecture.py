"""The house rules that a machine can hold: who owns which library, who may know whom, what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import catdb

HOME = Path(catdb.__file__).parent
MODULES = sorted(HOME.rglob("*.py"))

OWNERS = {
    "PIL": {"images"},
    "pillow_heif": {"images"},
    "xxhash": {"checksum"},
    "sqlite3": {"catalog"},
    "h5py": {"shard"},
    "numkong": {"search"},
    "filelock": {"lock"},
    "keras": {"backbones.keras"},
    "tensorflow": {"backbones.keras"},
    "openvino": {"backbones.openvino"},
    "cv2": {"backbones.classic"},
    "click": {"cli"},
    "tqdm": {"cli"},
    "matplotlib": {"cli.recalling"},
    "psutil": {"mounts"},
    "scipy": {"blocks"},
    "watchdog": {"watch"},
    "fastapi": {"web"},
    "starlette": {"web"},  # on which fastapi stands, and which it hands through
    "pydantic": {"web"},
    "uvicorn": {"web.server"},
    "h11": {"web.server"},
}
SHARED = {"numpy", "typing_extensions"}  # arrays flow through the whole house
EXEMPT = {("lookup", "PIL.Image.Image")}  # a class that stands in the union of what a query may be, and does nothing
HEAVY = (
    *("PIL", "cv2", "h5py", "keras", "matplotlib", "numkong", "numpy", "openvino", "psutil", "scipy", "sqlite3"),
    *("tensorflow", "tqdm", "watchdog", "xxhash", "fastapi", "starlette", "pydantic", "uvicorn", "h11"),
    "webbrowser",  # of the standard library; it takes several others along
)

FACADE = {"database", "asking", "curate", "inventory", "opening"}  # and the rooms behind it
INWARD = FACADE | {
    *("watch", "reconcile", "query", "why", "filters", "calibration", "quality", "store", "connections", "cache"),
    *("check", "backup", "browse", "duplicates", "roots", "export", "relocate", "web", "cli"),
}
SHOWING = {"cli", "web", "report"}
FORBIDDEN = {
    "images": INWARD | {"backbones", "catalog", "shard", "search"},
    "backbones": INWARD | {"images", "catalog", "shard", "search"},
    "catalog": INWARD | {"backbones", "shard", "search"},
    "shard": INWARD | {"images", "backbones", "catalog", "search"},
    "search": INWARD | {"images", "backbones", "catalog"},
    "threads": INWARD | {"images", "backbones", "catalog", "shard", "search", "errors"},
    "projection": INWARD | {"images", "backbones", "catalog", "shard", "search"},
    "lock": INWARD | {"images", "backbones", "catalog", "shard", "search"},
    "checksum": INWARD | {"images", "backbones", "catalog", "shard", "search", "errors"},
    "folding": INWARD | {"images", "backbones", "search"},
    "maps": INWARD | {"images", "backbones", "search"},
    "snapshot": INWARD - {"store"} | {"images", "backbones"},
    "cache": INWARD | {"images", "backbones", "shard"},
    "connections": INWARD - {"cache"} | {"images", "backbones", "shard", "search"},
    "store": INWARD - {"roots", "store", "connections", "cache"} | {"backbones"},
    "roots": INWARD - {"roots"} | {"backbones"},
    "check": INWARD - {"check", "store", "roots"} | {"backbones"},
    "backup": INWARD - {"backup", "store", "roots"} | {"backbones", "search", "images"},
    "blocks": INWARD | {"images", "backbones", "catalog", "shard", "search", "errors"},
    "recall": INWARD | {"images", "backbones", "catalog", "shard"},
    "export": INWARD - {"store", "roots", "export"} | {"backbones", "search", "images"},
    "relocate": INWARD - {"store", "roots", "relocate"} | {"backbones", "search"},
    "report": INWARD | {"backbones", "catalog", "shard", "search"},
    "whole": INWARD | {"images", "backbones", "catalog", "shard", "search"},
    "questions": INWARD | {"images", "catalog", "shard", "search"},
    "scores": INWARD | {"images", "backbones", "catalog", "shard", "search", "errors"},
    "filters": INWARD - {"store", "roots"} | {"images", "backbones", "catalog", "shard"},
    "calibration": INWARD - {"store"} | {"images", "backbones", "shard"},
    "lookup": FACADE
    | {"watch", "reconcile", "query", "why", "quality", "duplicates", "cli", "search", "catalog", "shard"},
    "reach": FACADE
    | {"watch", "reconcile", "query", "why", "quality", "duplicates", "cli", "images", "catalog", "shard"},
    "query": FACADE | {"watch", "reconcile", "why", "quality", "duplicates", "cli"},
    "browse": FACADE | {"watch", "reconcile", "quality", "duplicates", "cli"},
    "inventory": FACADE | {"watch", "reconcile", "query", "duplicates", "cli"},
    "opening": FACADE | {"watch", "reconcile", "query", "duplicates", "cli"},
    "curate": FACADE - {"opening"} | {"watch", "query", "duplicates", "cli"},
    "asking": FACADE - {"opening", "curate"} | {"watch", "duplicates", "cli"},
    "why": FACADE | {"watch", "reconcile", "duplicates", "cli"},
    "quality": FACADE | {"watch", "reconcile", "duplicates", "cli"},
    "ingest": FACADE | {"watch", "reconcile", "query", "duplicates", "cli"},
    "reconcile": FACADE | {"watch", "query", "duplicates", "cli"},
    "watch": FACADE | {"check", "backup", "duplicates", "shard", "search", "cli"},
    "duplicates": FACADE | {"watch", "reconcile", "query", "check", "backup", "backbones", "shard", "cli"},
    "duplicates.likeness": INWARD | {"images", "backbones", "catalog", "shard", "search"},
    "duplicates.groups": INWARD | {"images", "backbones", "catalog", "shard", "search"},
}


def name(module: Path) -> str:
    """Return a module's name below catdb: "catalog.survey", "catalog" for its __init__, "" for catdb's own."""
    return ".".join(module.relative_to(HOME).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def imports(module: Path) -> Iterator[str]:
    """Yield the full names of what a module imports anywhere, but not what only a type checker sees."""
    waiting: list[ast.AST] = [ast.parse(module.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            waiting += ast.iter_child_nodes(node)


def rooms(module: Path) -> set[str]:
    """Return the rooms of catdb that a module imports from."""
    return {words[1] for words in (full.split(".") for full in imports(module)) if words[0] == "catdb"}


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_every_library_stays_in_the_room_that_owns_it(module: Path) -> None:
    free = set(sys.stdlib_module_names) - {"sqlite3"} | SHARED | {"catdb"}
    libraries = {full.split(".")[0] for full in imports(module) if (name(module), full) not in EXEMPT} - free
    for library in libraries:
        assert library in OWNERS, f"{library} has no owner: it is imported in {name(module)}"
        assert any(within(name(module), room) for room in OWNERS[library]), f"{library} in {name(module)}"


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_room_knows_those_that_stand_on_it(room: str) -> None:
    for module in MODULES:
        if within(name(module), room):
            assert not rooms(module) & (FORBIDDEN[room] - {room}), name(module)


def test_only_the_program_knows_the_command_line() -> None:
    knowing = [name(module) for module in MODULES if "cli" in rooms(module) and not within(name(module), "cli")]
    assert knowing == ["__main__"]


def test_only_the_facade_knows_the_watch_and_only_when_it_is_asked_to() -> None:
    """Watchdog is loaded by nobody who searches; the command line sees the watch through the facade."""
    knowing = [name(module) for module in MODULES if "watch" in rooms(module) and not within(name(module), "watch")]
    assert knowing == ["database"]
    code = (
        "import catdb.database, catdb.cli.watching, sys\nprint('watchdog' in sys.modules, 'catdb.watch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False False\n", "")


def test_scipy_is_loaded_only_where_a_shard_is_divided() -> None:
    """It takes longer to import than all else that a search needs."""
    code = "import catdb.database, catdb.cli.searching, sys\nprint('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_the_web_knows_the_facade_alone_and_only_the_command_line_knows_the_web() -> None:
    """What it needs of a database, the facade gives; a database or a command that is not "serve" loads no server."""
    of_web = [module for module in MODULES if within(name(module), "web")]
    assert of_web
    for module in of_web:
        assert rooms(module) <= {"errors", "images", "shapes", "web"}, name(module)
    knowing = {name(module) for module in MODULES if "web" in rooms(module) and not within(name(module), "web")}
    assert knowing == {"cli.serving"}
    code = (
        "import catdb.database, catdb.cli.serving, sys\nprint([x for x in ('fastapi', 'uvicorn') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("module", ["errors", "shapes", "words"])
def test_what_everyone_may_know_knows_nothing(module: str) -> None:
    """Shapes and words are of values: what shows them needs no database for it, and no library."""
    assert {full.split(".")[0] for full in imports(HOME / f"{module}.py")} <= set(sys.stdlib_module_names)


def test_only_those_who_show_know_the_words_and_shapes() -> None:
    for module in MODULES:
        if rooms(module) & {"shapes", "words"}:
            assert name(module).split(".")[0] in SHOWING, name(module)


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_every_module_says_what_it_is_for(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))


# --- the surface ------------------------------------------------------------------------------------------------


def test_the_public_names_are_listed_in_order() -> None:
    assert catdb.__all__ == sorted(set(catdb.__all__))


@pytest.mark.parametrize("public", catdb.__all__)
def test_every_public_name_is_there_and_documented(public: str) -> None:
    assert getattr(catdb, public).__doc__


def test_a_name_that_is_not_there_says_so() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Databse'"):
        catdb.Databse  # noqa: B018


@pytest.mark.parametrize("package", ["catdb.catalog", "catdb.images"])
def test_packages_list_their_names(package: str) -> None:
    module = import_module(package)
    assert [public for public in module.__all__ if not hasattr(module, public)] == []


@pytest.mark.parametrize("code", ["import catdb", "import catdb.cli", "HELP"])
def test_what_is_light_loads_nothing_heavy(code: str) -> None:
    if code == "HELP":
        code = "import sys\nfrom catdb.cli import main\nsys.argv[1:] = ['--help']\ntry: main()\nexcept SystemExit: pass"
    code += f"\nimport sys\nprint('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("loaded: []", "")


def test_the_command_is_the_one_that_was_looked_at() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("catdb")), "--help"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: catdb ")
