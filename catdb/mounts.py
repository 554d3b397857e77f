"""On what kind of file system a path lies, and what that means; psutil knows the mounts of each operating system."""

from __future__ import annotations

import os

import psutil

# Served by another machine, or by the host of a virtual one: files there have no shared memory, and no events.
_REMOTE = {
    *("9p", "acfs", "afpfs", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "davfs", "drvfs", "glusterfs", "gpfs"),
    *("lustre", "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2", "smb2", "smb3"),
    *("smbfs", "vboxsf", "vmhgfs", "webdav"),
    *("fuse.beegfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.davfs", "fuse.gcsfuse", "fuse.glusterfs"),
    *("fuse.gvfsd-fuse", "fuse.rclone", "fuse.s3fs", "fuse.smbnetfs", "fuse.sshfs", "fuse.vmhgfs-fuse"),
}


def filesystem(path: str) -> str:
    """Return the type of the file system that holds a path, as the system calls it ("ext4", "nfs4"); "" if unknown.

    The path need not exist yet: then it is that of the folder in which it would be made.
    """
    real = os.path.realpath(path)
    found = ""
    longest = -1
    for mount in psutil.disk_partitions(all=True):
        inside = real == mount.mountpoint or real.startswith(os.path.join(mount.mountpoint, ""))
        if inside and len(mount.mountpoint) >= longest:  # of two mounts in one place the later one is seen
            found, longest = mount.fstype, len(mount.mountpoint)
    return found


def is_remote(kind: str) -> bool:
    """Say whether a type of file system is served by another machine."""
    return kind.lower() in _REMOTE
