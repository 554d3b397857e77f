"""Tests of catdb.mounts, on this machine's mounts and on a table of mounts that was written for the purpose."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from conftest import Instant, save

from catdb import Database
from catdb.cli import cli
from catdb.errors import StorageError
from catdb.mounts import filesystem, is_remote


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A table of mounts, {mount point: type}, in place of the system's."""
    table = {"/": "ext4"}
    partition = psutil.disk_partitions()[0]

    def partitions(all: bool = False) -> list[object]:
        assert all  # else network mounts are not among them
        return [partition._replace(mountpoint=place, fstype=kind) for place, kind in table.items()]

    monkeypatch.setattr(psutil, "disk_partitions", partitions)
    yield table


def test_the_type_is_the_one_the_system_tells(tmp_path: Path) -> None:
    told = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    assert filesystem(str(tmp_path / "not" / "there"))[:3] == told.strip()[:3]
    assert filesystem("/proc/self") == "proc"


def test_the_innermost_mount_counts_and_of_two_in_one_place_the_later(mounts: dict[str, str], tmp_path: Path) -> None:
    mounts.update({str(tmp_path): "nfs4", str(tmp_path / "in"): "btrfs"})
    assert filesystem(str(tmp_path)) == filesystem(str(tmp_path / "a" / "b")) == "nfs4"
    assert filesystem(str(tmp_path / "in" / "x")) == "btrfs"
    assert filesystem(str(tmp_path / "inner")) == "nfs4"  # a name that only begins alike
    assert filesystem("/usr") == "ext4"
    os.symlink(tmp_path / "in", tmp_path / "link")
    assert filesystem(str(tmp_path / "link" / "x")) == "btrfs"


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "CIFS"])
def test_what_another_machine_serves_is_remote(kind: str) -> None:
    assert is_remote(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "apfs", "NTFS", "fuseblk", ""])
def test_what_lies_here_is_not(kind: str) -> None:
    assert not is_remote(kind)


def test_no_database_is_made_on_a_network_file_system(
    mounts: dict[str, str], tmp_path: Path, photos: Path, instant: Instant
) -> None:
    (tmp_path / "share").mkdir()
    mounts[str(tmp_path / "share")] = "nfs4"
    with pytest.raises(StorageError, match=r"on a network file system \(nfs4\).*name a folder on a local disk"):
        Database(tmp_path / "share" / "db", backbone=instant)
    assert os.listdir(tmp_path / "share") == []
    with Database(tmp_path / "db", backbone=instant) as database:  # the images may be there
        assert database.build(save(tmp_path / "share" / "a.png", 1).parent).added == 1


def test_the_command_says_it_in_one_line(mounts: dict[str, str], tmp_path: Path, photos: Path) -> None:
    mounts[str(tmp_path / "share")] = "nfs4"
    (tmp_path / "share").mkdir()
    build = ["build", str(photos), "--backbone", "classic", "--db"]
    done = CliRunner().invoke(cli, [*build, str(tmp_path / "share" / "db")], prog_name="catdb")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "on a network file system (nfs4), where a database is not safe: name a folder on a local" in done.stderr
    assert os.listdir(tmp_path / "share") == []
    assert CliRunner().invoke(cli, [*build, str(tmp_path / "db")], prog_name="catdb").exit_code == 0
    mounts[str(tmp_path / "db")] = "cifs"
    search = ["search", str(photos / "1.png"), "--db", str(tmp_path / "db"), "--json"]
    done = CliRunner().invoke(cli, search, prog_name="catdb")
    assert (done.exit_code, done.stderr.count("\n"), done.stdout.count("\n")) == (0, 1, 1)
    assert "on a network file system (cifs): beside other machines it is not safe there" in done.stderr


def test_one_that_is_there_already_opens_with_a_warning(
    mounts: dict[str, str], tmp_path: Path, photos: Path, instant: Instant
) -> None:
    heard: list[str] = []
    with Database(tmp_path / "db", backbone=instant, notice=heard.append) as database:
        database.build(photos)
    heard.clear()
    mounts[str(tmp_path / "db")] = "cifs"
    with Database(tmp_path / "db", mode="r", notice=heard.append) as database:
        assert len(database) == 12
    assert len(heard) == 1 and "(cifs)" in heard[0]
