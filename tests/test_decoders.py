"""What decodes in another process gives the same pixels and reasons, and its death costs one image."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import Instant, child, picture, save
from PIL import Image
from test_hostile import write_bad, write_good

from catdb import Database
from catdb.errors import DecoderFailed, ImageUnreadable
from catdb.images import Decoders, Failure, Picture, decode, decoders, find, fingerprint, read
from catdb.images.find import Content

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
TESTS = str(Path(__file__).parent)
Open = Callable[..., Database]


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that do what a file's name says, within narrow limits."""
    monkeypatch.setattr(decoders, "_MODULE", "deadly")
    monkeypatch.setattr(
        decoders, "SECONDS", 1.0
    )  # a good one needs a hundredth of it, and no more than a tenth at first
    monkeypatch.setattr(decoders, "MEGABYTES", 400)
    monkeypatch.setattr(decoders, "PATIENCE", 100.0)  # a busy machine needs long for little computing


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every worker that is started, in order."""
    seen: list[subprocess.Popen[bytes]] = []
    real = decoders._Worker.__init__

    def start(worker: decoders._Worker) -> None:
        real(worker)
        seen.append(worker._process)

    monkeypatch.setattr(decoders._Worker, "__init__", start)
    return seen


def outcome(path: str, by: Callable[..., object]) -> object:
    try:
        pixels, width, height = by(path, (40, 60))  # type: ignore[misc]
    except ImageUnreadable as error:
        return type(error), str(error)
    return pixels.tolist(), width, height


# --- the same as in the process -------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_what_it_gives_in_the_process(tmp_path: Path) -> None:
    write_good(tmp_path)
    reasons = write_bad(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8)).save(tmp_path / "large.jpg")
    picture(7, (640, 480)).save(tmp_path / "wide.tif", compression="tiff_lzw")
    paths = [found.path for found in find(str(tmp_path))]
    assert len(paths) > 60
    with Decoders() as workers:
        found = [outcome(path, workers.decode) for path in paths]
    assert found == [outcome(path, decode) for path in paths]
    assert sum(isinstance(one, tuple) and len(one) == 2 for one in found) >= len(reasons) - 1  # root may read all
    assert sum(isinstance(one, tuple) and len(one) == 3 for one in found) >= 32


def test_content_gives_what_the_file_gives_and_a_thumbnail_is_whole_and_upright(tmp_path: Path) -> None:
    """The worker is handed the bytes, and opens nothing."""
    write_good(tmp_path)
    write_bad(tmp_path)
    paths = [path for path in sorted(tmp_path.rglob("*")) if path.is_file() and path.stat().st_size < 1 << 20]
    with Decoders() as workers:
        for path in paths:
            with open(path, "rb") as content:
                there = outcome(str(path), lambda _, size: workers.decode_content(content, size))
                with open(path, "rb") as again:
                    here = outcome(str(path), lambda _, size: decode(again, size))
                assert there == here, path
                if isinstance(here, tuple) and len(here) == 3:
                    for box in (1, 33, 160):
                        shown = Image.open(BytesIO(workers.thumbnail(content, box)))
                        _, width, height = here
                        assert (shown.format, max(shown.size)) == ("JPEG", min(box, max(width, height)))
                        ratio = min(1.0, box / max(width, height))
                        assert shown.size == (max(1, round(width * ratio)), max(1, round(height * ratio))), path


def test_a_file_that_is_cut_short_while_it_is_handed_on_is_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)).save(path)

    class Short(BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            return b"" if self.tell() else super().read(count)

    with Decoders() as workers:
        with pytest.raises(ImageUnreadable, match="PNG"):
            workers.decode_content(Short(path.read_bytes()), (16, 16))
        assert workers.decode_content(BytesIO(path.read_bytes()), (16, 16))[1:] == (900, 900)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (299, 299), (331, 250), (600, 600)])
def test_pixels_of_any_size_come_whole(tmp_path: Path, size: tuple[int, int]) -> None:
    path = str(save(tmp_path / "a.png", 1))
    with Decoders() as workers:
        pixels, width, height = workers.decode(path, size)
    assert (width, height) == (40, 30) and pixels.flags.writeable
    np.testing.assert_array_equal(pixels, decode(path, size)[0])


def test_many_threads_share_few_workers(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    paths = [str(save(tmp_path / f"{seed}.png", seed)) for seed in range(60)]
    with Decoders() as workers, ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda path: workers.decode(path, (16, 16))[0], paths))
    for path, pixels in zip(paths, found, strict=True):
        np.testing.assert_array_equal(pixels, decode(path, (16, 16))[0])
    assert 1 <= len(started) <= 3
    assert all(process.returncode is not None for process in started)


def test_a_half_file_is_waited_for_through_a_worker_too(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 1)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    content, waited = fingerprint(str(path)), list[float]()
    assert isinstance(content, Content)

    def write_on(seconds: float) -> None:
        waited.append(seconds)
        path.write_bytes(data if len(waited) == 2 else data[: len(data) // 2])

    with Decoders() as workers:
        assert isinstance(read(content, (16, 16), workers.decode, wait=write_on), Picture)
    assert waited == [0.2, 0.5]


def test_nothing_is_started_where_nothing_is_decoded(
    photos: Path, open_db: Open, instant: Instant, started: list[subprocess.Popen[bytes]]
) -> None:
    database = open_db(backbone=instant)
    database.build(photos, jobs=2)
    assert 1 <= len(started) <= 2
    assert [process.returncode for process in started] == [-signal.SIGKILL] * len(started)
    database.build(photos)
    assert len(started) <= 2


# --- deaths ---------------------------------------------------------------------------------------------------------


def test_each_death_costs_one_image(tmp_path: Path, deadly: None, open_db: Open, instant: Instant) -> None:
    folder = tmp_path / "p"
    reasons = {
        "segfault": "damaged: crashes its decoder (SIGSEGV)",
        "abort": "damaged: crashes its decoder (SIGABRT)",
        "exit": "damaged: crashes its decoder (exit code 7)",
        "spin": "damaged: takes more than 1 s to decode",
        "eat": "damaged, or too large: takes more than 400 MB to decode",
        "killed": "its decoder was ended (SIGKILL): not enough memory?",
    }
    for seed in range(40):
        save(folder / f"{seed:02}.png", seed)
    for place, name in enumerate(reasons):
        save(folder / f"{5 * place:02} {name}.png", 100 + place)
    save(folder / "20 once.png", 200)  # whose decoder dies for another reason: the second one reads it
    save(folder / "21 noise.png", 201)
    database = open_db(backbone=instant)
    report = database.build(folder, jobs=2)
    assert {os.path.basename(failed.path)[3:-4]: failed.reason for failed in report.failed} == reasons
    assert (report.added, report.total) == (42, 42)


@pytest.mark.parametrize("name", ["segfault", "abort", "spin", "eat", "exit"])
def test_what_is_the_files_fault_is_a_lasting_failure(tmp_path: Path, deadly: None, name: str) -> None:
    content = fingerprint(str(save(tmp_path / f"{name}.png", 1)))
    assert isinstance(content, Content)
    with Decoders() as workers:
        failure = read(content, (16, 16), workers.decode)
        assert isinstance(failure, Failure) and failure.stamp == content.stamp
        assert isinstance(read(_good(tmp_path), (16, 16), workers.decode), Picture)


@pytest.mark.parametrize(
    ("name", "patience", "reason"),
    [("sleep", 0.5, "not decoded in 0.5 s: the disk, or the machine, is too slow"),
     ("killed", 100.0, "its decoder was ended (SIGKILL): not enough memory?")],
)  # fmt: skip
def test_what_may_not_be_the_files_fault_is_tried_again(
    tmp_path: Path, deadly: None, name: str, patience: float, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "PATIENCE", patience)
    content = fingerprint(str(save(tmp_path / f"{name}.png", 1)))
    assert isinstance(content, Content)
    with Decoders() as workers:
        failure = read(content, (16, 16), workers.decode)
    assert failure == Failure(content.path, reason)


def _good(folder: Path) -> Content:
    content = fingerprint(str(save(folder / "good.png", 5)))
    assert isinstance(content, Content)
    return content


def test_an_idle_worker_that_was_killed_costs_no_image(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    path = str(save(tmp_path / "a.png", 1))
    with Decoders() as workers:
        workers.decode(path, (16, 16))
        started[0].kill()
        os.waitid(os.P_PID, started[0].pid, os.WEXITED | os.WNOWAIT)
        assert workers.decode(path, (16, 16))[1:] == (40, 30)
    assert len(started) == 2


def test_a_large_image_in_little_memory_is_a_failure_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[bytes]]
) -> None:
    monkeypatch.setattr(decoders, "MEGABYTES", 240)
    Image.new("RGB", (7000, 7000)).save(tmp_path / "large.png", compress_level=1)
    with Decoders() as workers:
        with pytest.raises(ImageUnreadable, match="^damaged, or too large: takes more than 240 MB to decode$"):
            workers.decode(str(tmp_path / "large.png"), (16, 16))
        assert workers.decode(str(save(tmp_path / "a.png", 1)), (16, 16))[1:] == (40, 30)
    assert len(started) == 3
    monkeypatch.undo()
    with Decoders() as workers:
        assert workers.decode(str(tmp_path / "large.png"), (16, 16))[1:] == (7000, 7000)


# --- starts and ends ------------------------------------------------------------------------------------------------


def test_what_lies_in_the_current_folder_is_not_run(tmp_path: Path) -> None:
    for name in ("numpy", "PIL", "struct", "catdb"):
        Path(f"{name}.py").write_text("import os; os._exit(66)")
    with Decoders() as workers:
        assert workers.decode(str(save(tmp_path / "a.png", 1)), (16, 16))[1:] == (40, 30)


def test_a_worker_that_cannot_start_is_one_clear_error(
    photos: Path, open_db: Open, instant: Instant, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_db(backbone=instant)
    monkeypatch.setattr(decoders, "_MODULE", "catdb.nowhere")
    wanted = f"ended at once, with exit code 1; to see why, run {sys.executable} -m catdb.nowhere"
    with pytest.raises(DecoderFailed, match=wanted):
        database.build(photos)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(
            DecoderFailed, match="no process can be started .*: no such file or directory; fewer --jobs"
        ):
            database.build(photos)
        patch.setattr(sys, "frozen", True, raising=False)
        with pytest.raises(DecoderFailed, match="set sys.executable"):
            database.build(photos)
    monkeypatch.undo()
    assert database.build(photos).added == 12


def test_workers_are_as_nice_as_their_parent(tmp_path: Path) -> None:
    script = """
import os, sys
before = os.getpriority(os.PRIO_PROCESS, 0)
os.nice(7)
from catdb.images import Decoders
with Decoders() as workers:
    workers.decode(sys.argv[1], (16, 16))
    [worker] = workers._all
    print(os.getpriority(os.PRIO_PROCESS, worker._process.pid) - os.getpriority(os.PRIO_PROCESS, 0))
    print(os.getpriority(os.PRIO_PROCESS, 0) == min(19, before + 7) != before)
"""
    with child(script, save(tmp_path / "a.png", 1)) as nice:
        assert nice.communicate(timeout=120) == ("0\nTrue\n", "")


BUILD = """
import sys
sys.path.insert(0, {tests!r})
from catdb.cli import main
from catdb.images import decoders

decoders._MODULE, decoders.PATIENCE = "deadly", float(sys.argv.pop(1))
sys.argv[0] = "catdb"
main()
"""


def test_ctrl_c_ends_a_build_and_its_workers_at_once(photos: Path) -> None:
    fifo = save(photos / "sleep.png", 99).with_suffix(".png.fifo")
    os.mkfifo(fifo)
    command = [sys.executable, "-c", BUILD.format(tests=TESTS), "1000", "build", str(photos), "--backbone", "classic"]
    pipe, heard = subprocess.PIPE, "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command[2] = heard + command[2]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            worker = os.pidfd_open(int(fifo.read_text()))
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            out, err = process.communicate(timeout=60)  # the image would take 1000 s
        finally:
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert err == "catdb: interrupted; what was committed is safe, the same command goes on from there\n"
    assert ends(worker)


@pytest.mark.parametrize(
    ("name", "limits"), [("sleep", ("99", "1")), ("spin", ("0.5", "999")), ("good", ("99", "999"))]
)
def test_no_worker_outlives_a_parent_that_is_killed(tmp_path: Path, name: str, limits: tuple[str, str]) -> None:
    path = save(tmp_path / "p" / f"{name}.png", 1)
    script = """
import os, sys
sys.path.insert(0, {tests!r})
from catdb.images import Decoders, decoders
decoders._MODULE, decoders.SECONDS, decoders.PATIENCE = "deadly", float(sys.argv[2]), float(sys.argv[3])
with Decoders() as workers:
    workers.decode(sys.argv[1], (16, 16))
    sys.stdin.read()
"""
    os.mkfifo(f"{path}.fifo")
    with child(script.format(tests=TESTS), path, *limits) as parent:
        worker = os.pidfd_open(int(Path(f"{path}.fifo").read_text()))
        parent.kill()
        parent.wait()
        assert ends(worker)


def ends(process: int) -> bool:
    """Wait for a process, by its descriptor, to end."""
    try:
        return bool(select.select([process], [], [], 60)[0])
    finally:
        os.close(process)
