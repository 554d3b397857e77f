"""What the README shows runs, and its figures and names are those of the code."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from catdb import Database
from catdb.images.scenes import render

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the README's commands speak of, to be copied."""
    folder = tmp_path_factory.mktemp("rendered") / "Pictures"
    paths = render(folder, count=12)
    shutil.copy(paths[0], folder / "boat.jpg")
    (folder / "new").mkdir()
    shutil.copy(paths[1], folder / "new" / "one.jpg")
    return folder


@pytest.fixture
def pictures(rendered: Path) -> Path:
    """That folder, in the current folder."""
    return Path(shutil.copytree(rendered, "Pictures"))


def test_every_block_of_the_readme_is_of_a_kind_that_a_test_runs() -> None:
    kinds = re.findall(r"^```(\w+)$", README, re.MULTILINE)
    assert sorted(set(kinds)) == ["console", "python", "sh", "text"]


def test_links_of_the_readme_lead_somewhere_and_its_contents_name_every_section() -> None:
    headings = re.findall(r"^##+ (.+)$", README, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-"): heading for heading in headings}
    links = re.findall(r"\[([^\]]*)\]\(([^)]+)\)", README)
    assert [link for _, link in links if link not in anchors and not (ROOT / link).exists()] == []
    listed = [link for _, link in links[links.index(("Quickstart", "#quickstart")) :] if link in anchors]
    sections = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert [anchors[link] for link in listed[: len(sections) - 1]] == [one for one in sections if one != "Contents"]


def test_the_commands_of_the_readme_run(pictures: Path) -> None:
    *first, _watching, _serving, _asking = blocks("console")
    commands = [line.removeprefix("$ ") for block in first for line in block.splitlines()]
    assert len(commands) == 22
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[:2] == ["catdb", "build"]:
            words += ["--backbone", "classic"]  # the default's weights are not here; the database remembers it
        words[0] = str(Path(sys.executable).with_name("catdb"))
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stderr)
    assert Path("found.png").stat().st_size > 10_000
    assert len(Path("found.csv").read_text().splitlines()) > 1
    assert "data:image/jpeg" in Path("found.html").read_text()
    assert Path("copies.html").read_text().endswith("</html>\n")


def test_the_watching_of_the_readme_runs(pictures: Path) -> None:
    *_, block, _serving, _asking = blocks("console")
    lines = block.splitlines()
    assert len(lines) == 3
    for number, line in enumerate(lines):
        words = shlex.split(line.removeprefix("$ "), comments=True)
        words[0] = str(Path(sys.executable).with_name("catdb"))
        words += [] if number else ["--backbone", "classic"]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            assert any(said == "in step: 14 images; watching 1 folder\n" for said in process.stderr)
            process.terminate()
            assert process.wait(60) == 0


def test_the_serving_of_the_readme_runs(pictures: Path) -> None:
    *_, serve, ask = blocks("console")
    command, address = serve.splitlines()
    words = shlex.split(command.removeprefix("$ "), comments=True)
    words[0] = str(Path(sys.executable).with_name("catdb"))
    Database(".catdb", backbone="classic").build(pictures)
    with subprocess.Popen(
        [*words, "--port", "0"], stdout=subprocess.PIPE, text=True, env={**os.environ, "BROWSER": "true"}
    ) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        try:
            assert re.sub("[0-9]+/$", "8000/", url) == address
            curl, dash, header, binary, file, asked = shlex.split(ask.removeprefix("$ "))
            assert (curl, dash, binary, file[0]) == ("curl", "-H", "--data-binary", "@")
            headers = dict([header.split(": ")])
            found = httpx.post(
                asked.replace(address, url), headers=headers, content=Path(file[1:]).read_bytes(), timeout=120
            )
            assert found.json()["matches"][0]["path"].endswith("/boat.jpg")
        finally:
            process.terminate()
        assert process.wait(60) == 0


def test_the_watching_python_of_the_readme_runs(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Database("photos.catdb", backbone="classic") as db:
        db.build(pictures / "new")
    _, block = blocks("python")
    exec(compile(block, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert f"added {pictures.absolute()}/boat.jpg" in lines
    assert lines[-1] == "14"


def test_the_python_of_the_readme_runs(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Database("photos.catdb", backbone="classic") as db:
        db.build(pictures)
    block, _ = blocks("python")
    exec(compile(block, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("of 14")
    assert lines[1].startswith("1 1.0")
    assert lines[-1] == "14 True"


def test_the_examples_run(pictures: Path) -> None:
    def example(name: str, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, ROOT / "examples" / name, *words], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = example("build_and_search.py", "Pictures", "Pictures/boat.jpg", "classic")
    assert first.splitlines()[0] == "14 added, 0 unchanged, 0 failed"
    assert "boat.jpg" in first
    assert "boat.jpg" in example("near_copies.py", "example.catdb")
    Path("Pictures/boat.jpg").unlink()
    assert example("watch.py", "Pictures", "classic", "0").splitlines() == [
        f"removed {Path('Pictures/boat.jpg').absolute()}",
        "13 images in step with Pictures",
    ]


def test_the_two_commands_exist_and_ci_calls_the_second() -> None:
    [block] = blocks("sh")
    for line in block.splitlines():
        tool = ROOT / line.split()[0]
        assert tool.stat().st_mode & 0o111, f"{tool} is not executable"
    assert "exec tools/test" in (ROOT / ".ci" / "run").read_text()


def test_the_demo_command_sets_up_and_shows_the_round_trip() -> None:
    if not (ROOT / ".venv" / "installed").exists():
        pytest.skip("this checkout was not set up by tools/setup")
    done = subprocess.run([ROOT / "tools" / "demo"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sheet = re.search(r"^contact sheet: (.+)$", done.stdout, re.MULTILINE)
    assert sheet and Path(sheet[1]).read_bytes().startswith(b"\x89PNG")
    assert done.stdout.count("searched ") == 3
    assert "next:" in done.stdout
    shutil.rmtree(Path(sheet[1]).parent)


def test_the_table_of_dependencies_is_complete() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"].split("\n") + config["options.extras_require"]["heic"].split("\n")
    names = {re.split(r"[ >=]", line)[0] for line in wanted if line}
    table = README[README.index("## Dependencies") : README.index("## Limits")]
    rows = re.findall(r"^\| ([\w, ()`-]+) \|", table, re.MULTILINE)
    told = {re.sub(r"\(.*\)", "", name).strip() for row in rows for name in row.split(",")} - {"package"}
    assert told == names
    assert not re.search(r"==", "".join(wanted)), "lower bounds only"


def test_every_dependency_is_constrained_for_the_tools() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    wanted = "\n".join([config["options"]["install_requires"], *(extras[name] for name in extras)])
    names = {re.split(r"[ >=]", line)[0] for line in wanted.split("\n") if line}
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert names <= pinned
