"""A root directory of the sandbox's own: a read-only tmpfs that shows nothing of the host but what is bound into it."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Sequence

from rlm.confine.namespaces import describe, keep_proc
from rlm.confine.syscalls import call, check, libc

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8  # as mount(2) and mount_setattr(2) have them alike
REMOUNT, BIND, REC, PRIVATE = 1 << 5, 1 << 12, 1 << 14, 1 << 18
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
LINKS_AT_MOST = 40

SKELETON = "size=4m,nr_inodes=4096,mode=755"
TEMPORARY = "size=64m,nr_inodes=4096,mode=1777"
SCRATCH, STORE = "/tmp", "/scratch"
FOLDERS = "own"
"""What STORE holds. Its names cannot be listed, only used: processes forked from one another know each its own.

Nothing else can keep them apart. They are one user, in one mount namespace, which a confined process cannot leave; a
Landlock layer binds all that is forked later and there are at most 16 of them, so that they would end after some forks.
"""
SCRATCH_FD = 200
"""In a process with a private root: its own folder of the store, which SCRATCH leads to."""
# Where the new root is put together: the first that is not seen inside, for what is mounted there is hidden by it.
BASES = ("/tmp", "/mnt", "/media", "/srv", "/run", "/var/tmp", "/home", "/boot", "/opt")
INODES_AT_MOST, BYTES_AN_INODE = 16384, 4096
PROC_OPTIONS = ("hidepid=ptraceable,subset=pid", "hidepid=2", "")  # the first since Linux 5.8

_getcwd = os.getcwd  # cells are told another one
_FLAG_NAMES = {"ro": RDONLY, "nosuid": NOSUID, "nodev": NODEV, "noexec": NOEXEC}


class Tree:
    """What of the host is seen inside. All paths are real ones, none below another one of `directories`.

    links: path -> text of each symbolic link that leads to one. passed: folders that such a text steps through.
    """

    def __init__(self) -> None:
        self.directories: list[str] = []
        self.files: list[str] = []
        self.links: dict[str, str] = {}
        self.passed: set[str] = set()

    def shows(self, path: str) -> bool:
        """Whether one of the directories is this one or above it."""
        return any(path == top or path.startswith(top + "/") for top in self.directories)

    def touches(self, place: str) -> bool:
        """Whether anything is this folder, above it or below it."""
        paths = (*self.directories, *self.files, *self.links, *self.passed)
        return self.shows(place) or any(path == place or path.startswith(place + "/") for path in paths)

    def below(self, place: str) -> Tree:
        """The part below a folder."""
        part = Tree()
        part.directories = [path for path in self.directories if path.startswith(place + "/")]
        part.files = [path for path in self.files if path.startswith(place + "/")]
        part.links = {path: text for path, text in self.links.items() if path.startswith(place + "/")}
        part.passed = {path for path in self.passed if path.startswith(place + "/")}
        return part


tree = Tree()
identity: tuple[int, int] | None = None
"""Device and inode of this process's private root; None without one. A forked worker has its zygote's."""


linked = False
"""Whether SCRATCH is a link that leads each process to a folder of its own, so that a forked one can get another."""


def build(*, read: Sequence[str], files: Sequence[str], devices: Sequence[str], base: str = "/tmp") -> str:
    """Make a private root and move this process, the first of its process namespace, into it; takes about 1.6 ms.

    read: directories seen inside, with all that is mounted below, read-only; symbolic links on the way to them are
    there too. files, devices: single ones. base: the folder to build in. Paths that do not exist are left out.
    Returns '' or why there is no /proc inside. Raises OSError naming the step.
    """
    global tree, identity, linked
    _mount(None, "/", None, REC | PRIVATE)
    tree = plan([*read, *files, *devices])
    sources = dict(_open_sources(tree))  # before anything is mounted over them
    base = _base(base)
    _mount("tmpfs", base, "tmpfs", NOSUID | NODEV, SKELETON)
    without_proc = _mount_proc(base + "/proc")
    linked = not without_proc and not tree.touches(SCRATCH)  # the link leads through /proc
    store = base + (STORE if linked else SCRATCH)
    if not tree.shows(SCRATCH):
        os.mkdir(store)
        _mount("tmpfs", store, "tmpfs", NOSUID | NODEV | NOEXEC, TEMPORARY)
    _fill(base, tree, sources)
    for path in tree.directories:
        _restrict(base + path, RDONLY | NOSUID | NODEV)
    for path in tree.files:  # devices among them, which stay writable: read-only is their node
        _restrict(base + path, RDONLY | NOSUID)
    if linked:
        os.symlink(f"/proc/self/fd/{SCRATCH_FD}", base + SCRATCH)
    os.chdir(base)
    call("pivot_root", b".", b".")
    check(libc.umount2(b".", MNT_DETACH), "umount of the old root")  # it lies over the new one
    os.chdir("/")
    _mount(None, "/", None, REMOUNT | BIND | RDONLY | NOSUID | NODEV | NOEXEC)
    place = os.stat("/")
    identity = place.st_dev, place.st_ino
    if linked:
        _make_folders()
        _enter_store()
    return without_proc


def mount_scratch(size_bytes: int) -> str:
    """Give this worker, which has mount namespaces of its own, an empty scratch directory; returns what it may write.

    A tmpfs of this user only, for at most `size_bytes` and a number of files to match. Nothing in it can be executed.
    It is seen as SCRATCH. Raises OSError.
    """
    place = STORE if linked else SCRATCH
    _mount_over(place, size_bytes)
    if linked:
        _make_folders()
        os.chmod(STORE, 0o500)
        _enter_store()
    return place


def _make_folders() -> None:
    folders = f"{STORE}/{FOLDERS}"
    os.mkdir(folders)
    os.chmod(folders, 0o300)


def _new_name() -> str:
    return f"{STORE}/{FOLDERS}/{os.getpid()}-{os.urandom(16).hex()}"


def _enter_store() -> None:
    own, mask = _new_name(), os.umask(0o077)
    try:
        os.mkdir(own, 0o700)
    finally:
        os.umask(mask)
    folder = os.open(own, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.dup2(folder, SCRATCH_FD, inheritable=False)
    os.close(folder)


def find_scratch() -> str:
    """The name of this process's own folder of the store, until `move_scratch`. Raises OSError."""
    return os.readlink(f"/proc/self/fd/{SCRATCH_FD}")


def place_in_scratch() -> str | None:
    """Before a fork: where in the scratch directory the current one lies ('' at its top); None elsewhere."""
    if not linked:
        return None
    own, here = find_scratch(), _getcwd()
    return here[len(own) :] if f"{here}/".startswith(f"{own}/") else None


def move_scratch() -> None:
    """In a worker that has been forked: another name for its folder, which the new process does not know.

    Raises OSError. All that leads there by the descriptor or the current directory goes on doing so.
    """
    if linked:
        os.rename(find_scratch(), _new_name())


def copy_scratch(place: str | None) -> None:
    """In a process forked from a worker: a scratch directory of its own, with what its parent's holds. Raises OSError.

    place: what `place_in_scratch` said before the fork; there the current directory will be. What an ended process left
    there its zygote removes. Never learns the name that its parent's folder has by now.
    """
    if not linked:
        return
    import shutil

    parents = os.dup(SCRATCH_FD)
    try:
        _enter_store()
        shutil.copytree(f"/proc/self/fd/{parents}", f"/proc/self/fd/{SCRATCH_FD}", symlinks=True, dirs_exist_ok=True)
    except shutil.Error as error:  # of many files, and without a number
        full = os.strerror(errno.ENOSPC)
        raise OSError(errno.ENOSPC if full in str(error) else errno.EIO, "the scratch directory's copy") from error
    finally:
        os.close(parents)
    if place is not None:
        os.chdir(f"/proc/self/fd/{SCRATCH_FD}{place}")


def _mount_over(path: str, size_bytes: int) -> None:
    """Mount the tmpfs. What the private root shows below that folder stays visible."""
    part = tree.below(path)
    sources = dict(_open_sources(part))
    size = max(size_bytes, BYTES_AN_INODE)  # 0 would be: no limit
    inodes = min(INODES_AT_MOST, 64 + size // BYTES_AN_INODE)
    _mount("tmpfs", path, "tmpfs", NOSUID | NODEV | NOEXEC, f"size={size},nr_inodes={inodes},mode=700")
    if sources:
        _fill("", part, sources)  # bound anew, they are as read-only as they were
        os.chdir("/")


def plan(paths: Sequence[str]) -> Tree:
    """What has to be bound and linked so that these paths can be opened; raises OSError."""
    found, real = Tree(), set()
    for path in paths:
        try:
            real.add(_resolve(os.path.join(os.getcwd(), path), found))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
    for path in sorted(real):
        if found.shows(path):
            continue
        if os.path.isdir(path):
            found.directories.append(path)
        else:
            found.files.append(path)
    if "/" in found.directories:
        raise OSError(errno.EINVAL, f"private root: {os.strerror(errno.EINVAL)}", "/")
    return found


def _resolve(path: str, found: Tree) -> str:
    """The real path, with the links on the way noted in `found`. Raises OSError where it does not exist."""
    done, rest, links = "", path.split("/")[::-1], 0
    while rest:
        part = rest.pop()
        if part == "..":
            found.passed.add(done)
            done = done.rpartition("/")[0]
        elif part not in ("", "."):
            step = f"{done}/{part}"
            try:
                text = os.readlink(step)
            except OSError as error:
                if error.errno != errno.EINVAL:  # it is no link
                    raise
                done = step
                continue
            links += 1
            if links > LINKS_AT_MOST:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            found.links[step] = text
            done = "" if text.startswith("/") else done
            rest += text.split("/")[::-1]
    return done or "/"


def _base(wanted: str) -> str:
    for path in (wanted, *BASES):
        real = os.path.realpath(path)
        if os.path.isdir(real) and not tree.shows(real):
            return real
    raise OSError(errno.ENOENT, "private root: no folder to build in")


def _open_sources(part: Tree) -> Iterator[tuple[str, tuple[int, str]]]:
    """(path, (descriptor of a folder, name in it)) of each thing to bind: to be reached when it is mounted over.

    A path through /proc/self/fd would do as well, but not every worker has a /proc.
    """
    for path in part.directories:
        yield path, (os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), ".")
    for path in part.files:
        folder, _, name = path.rpartition("/")
        yield path, (os.open(folder or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), name)


def _fill(base: str, part: Tree, sources: dict[str, tuple[int, str]]) -> None:
    """Bind and link a tree into a folder, and close the sources. Changes the working directory."""
    for path, (folder, name) in sources.items():
        target = base + path
        os.makedirs(target if name == "." else os.path.dirname(target), exist_ok=True)
        if name != ".":
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
        os.fchdir(folder)
        _mount(name, target, None, BIND | REC)  # what is mounted below cannot be left out: it is locked together
        os.close(folder)
    for path in part.passed:
        if not part.shows(path):
            os.makedirs(base + path, exist_ok=True)
    for path, text in part.links.items():
        if not part.shows(path) and not os.path.lexists(base + path):
            os.makedirs(os.path.dirname(base + path), exist_ok=True)
            os.symlink(text, base + path)


def _restrict(path: str, flags: int) -> None:
    """Add mount flags to a mount and all below it."""
    try:
        call("mount_setattr", AT_FDCWD, path.encode(), AT_RECURSIVE, struct.pack("QQQQ", flags, 0, 0, 0), 32)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise OSError(error.errno, f"mount_setattr {path}: {os.strerror(error.errno or 0)}") from None
        for place, has in _mounts(path):
            # Flags that an outer user namespace has set are locked: a remount must name them all, but for those on
            # access times, which stay as they are where none of them is named.
            _mount(None, place, None, REMOUNT | BIND | has | flags)


def _mounts(top: str) -> Iterator[tuple[str, int]]:
    """(path, flags) of the mounts at and below a path."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().splitlines()
    for line in lines:
        path, options = line.split(" ")[4:6]
        for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            path = path.replace(code, character)
        if path == top or path.startswith(top + "/"):
            yield path, sum(_FLAG_NAMES.get(option, 0) for option in options.split(","))


def _mount_proc(target: str) -> str:
    """Mount a read-only /proc that shows a process little but itself; returns '' or why there is none.

    The id maps of workers are written through one that is not read-only and that no path leads to. Where /proc cannot
    be mounted, as in a container that covers parts of its own, it is the outer one.
    """
    os.mkdir(target)
    why = ""
    for options in PROC_OPTIONS:
        try:
            _mount("proc", target, "proc", NOSUID | NODEV | NOEXEC, options)
        except OSError as error:
            why = describe(error)
            continue
        keep_proc(target)
        _mount(target, target, None, BIND)
        _mount(None, target, None, REMOUNT | BIND | RDONLY | NOSUID | NODEV | NOEXEC)
        return ""
    keep_proc("/proc")
    os.rmdir(target)
    return why


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    check(libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(options)), f"mount {target}")
