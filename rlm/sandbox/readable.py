"""What a worker may read: Python, its packages and the libraries under both, wherever they lie, and `read_paths`.

Not granted, unless `read_paths` names them: the home directory, the current directory, the folder of the host's own
script, and the folders that `.pth` files and editable installs add, for those are working trees.
"""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from glob import glob
from typing import NamedTuple

from rlm.errors import UsageError
from rlm.sandbox.editable import NAMES, find_working_trees, list_modules

_PACKAGE_FOLDERS = ("site-packages", "dist-packages")
# Of the system: always granted, also to a host whose current directory lies in one of them.
_SYSTEM = ("/lib", "/lib64", "/lib32", "/usr/lib", "/usr/lib64", "/usr/lib32", "/usr/libx32")
_STORES = ("/nix/store", "/gnu/store")  # each library has a folder of its own there, and none is private
_NEVER = frozenset({"/", "/home", "/root", "/etc", "/proc", "/sys", "/dev", "/run", "/tmp", "/var", "/usr", "/opt"})
_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types")
# Libraries look whether these exist and then open them: their refusal would be an error in joblib.
_HOST_FILES = (
    "/sys/fs/cgroup/cpu.max",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us",
)
_INCLUDE_DEPTH = 4


class Readable(NamedTuple):
    """What the kernel is told to let a worker read. All paths are absolute and exist.

    directories: with all that lies below them, in the given spelling and as the real path. files: single ones.
    import_path: what follows the standard library on the worker's `sys.path`.
    withheld: module -> the working tree it lies in, which is not granted; at most 500.
    host_files: like `files`, but only of use to a worker that sees the host's own root.
    """

    directories: tuple[str, ...]
    files: tuple[str, ...]
    import_path: tuple[str, ...]
    withheld: dict[str, str]
    host_files: tuple[str, ...]


def readable(read_paths: Sequence[str | os.PathLike[str]] = ()) -> Readable:
    """What a worker may read. Costs some milliseconds once for the same paths, then microseconds.

    read_paths: further folders and files; relative ones count from the current directory. Raises `UsageError` for one
    that does not exist and for the root directory.
    """
    if isinstance(read_paths, (str, bytes, os.PathLike)):
        raise UsageError(f"read_paths={read_paths!r}: give a list of paths")
    given = tuple(_checked(path) for path in read_paths)
    host_path = tuple(path for path in sys.path if isinstance(path, str))
    return _compute(given, host_path, os.getcwd(), os.environ.get("LD_LIBRARY_PATH", ""))


def _checked(path: str | os.PathLike[str]) -> str:
    try:
        absolute = os.path.abspath(os.fspath(path))
    except TypeError:
        raise UsageError(f"read_paths holds {path!r}: give paths") from None
    if not isinstance(absolute, str):
        raise UsageError(f"read_paths holds {path!r}: give paths as str, not bytes")
    if not os.path.exists(absolute):
        raise UsageError(f"read_paths: {absolute} does not exist: create it first, or leave it out")
    if os.path.realpath(absolute) == "/":
        raise UsageError(f"read_paths: {path!r} is the root directory: name the folders below it that cells need")
    return absolute


@functools.lru_cache(maxsize=64)
def _compute(given: tuple[str, ...], host_path: tuple[str, ...], here: str, loader: str) -> Readable:
    packages = [*_package_folders(host_path)]
    own = [*_standard_library(), *_existing(packages), *_existing(_SYSTEM)]
    risky = {here, os.path.expanduser("~"), *_script_folder(host_path)}
    found = [path for path in own if not _is_never(path)]
    found += [path for path in _libraries(loader) if not _holds(path, risky)]
    folders = _with_real_paths([*found, *(path for path in given if os.path.isdir(path))])
    files = [*_FILES, os.path.join(sys.prefix, "pyvenv.cfg"), *_zips(host_path)]
    trees = find_working_trees([path for path in packages if os.path.isdir(path)])
    withheld, opened = _part(trees, folders)
    importable = [path for path in given if os.path.isdir(path) and list_modules(path, 1)]
    return Readable(
        directories=_without_nested(folders),
        files=_with_real_paths([*_existing(files), *(path for path in given if not os.path.isdir(path))]),
        import_path=tuple(dict.fromkeys([*_import_folders(host_path, folders), *opened, *importable])),
        withheld=withheld,
        host_files=tuple(_existing(_HOST_FILES)),
    )


def _standard_library() -> Iterator[str]:
    paths = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sysconfig.get_config_var("DESTSHARED")]
    paths.append(os.path.dirname(os.__file__))
    paths += [path for path in sys.path if isinstance(path, str) and os.path.basename(path) == "lib-dynload"]
    return _existing(paths)


def _package_folders(host_path: Iterable[str]) -> Iterator[str]:
    """Folders that only installers write to. A folder of another name on the host's path is a working tree."""
    yield from (path for path in host_path if os.path.basename(path.rstrip("/")) in _PACKAGE_FOLDERS)
    yield from (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    if site.ENABLE_USER_SITE:
        yield site.getusersitepackages()


def _import_folders(host_path: Iterable[str], granted: Sequence[str]) -> Iterator[str]:
    """The host's path without the standard library, as far as it leads to what may be read, in its order."""
    standard = set(_standard_library())
    for path in host_path:
        if os.path.isabs(path) and path not in standard and os.path.exists(path) and _is_below(path, granted):
            yield path


def _libraries(loader: str) -> Iterator[str]:
    """Where shared libraries lie: the interpreter's own, and what the loader is told."""
    prefixes = (sys.base_prefix, sys.base_exec_prefix, os.path.dirname(os.path.dirname(_interpreter())))
    paths = [os.path.join(prefix, name) for prefix in prefixes for name in ("lib", "lib64")]
    paths.append(sysconfig.get_config_var("LIBDIR"))
    paths += [path for path in loader.replace(";", ":").split(":") if os.path.isabs(path)]
    paths += _loader_folders("/etc/ld.so.conf", _INCLUDE_DEPTH)
    for config in glob("/etc/ld-musl-*.path"):
        paths += _lines(config, ":")
    if glob("/lib/ld-musl-*"):
        paths.append("/usr/local/lib")  # musl's default, besides /lib and /usr/lib
    paths += (sysconfig.get_config_var("TZPATH") or "/usr/share/zoneinfo").split(os.pathsep)
    paths += [store for store in _STORES if _is_below(os.path.realpath(sys.base_prefix), [store])]
    return _existing(paths)


def _interpreter() -> str:
    return os.path.realpath(sys.executable or "/")


def _loader_folders(config: str, depth: int) -> Iterator[str]:
    for line in _lines(config, "\n"):
        word, _, rest = line.partition(" ")
        if word == "include" and depth:
            for name in sorted(glob(os.path.join(os.path.dirname(config), rest.strip()))):
                yield from _loader_folders(name, depth - 1)
        elif os.path.isabs(line):
            yield line.partition("=")[0].strip()


def _lines(path: str, separator: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [line.partition("#")[0].strip() for part in file for line in part.split(separator)]
    except OSError:
        return []


def _zips(host_path: Iterable[str]) -> Iterator[str]:
    name = "python{}{}.zip".format(*sys.version_info)
    return (path for path in host_path if os.path.basename(path) == name and os.path.isfile(path))


def _script_folder(host_path: Sequence[str]) -> list[str]:
    # The rule keeps out a folder that holds it; a script that lies in a package folder takes nothing from that.
    first = host_path[0] if host_path else ""
    return [first] if os.path.isabs(first) and os.path.basename(first) not in _PACKAGE_FOLDERS else []


def _existing(paths: Iterable[str | None]) -> Iterator[str]:
    return (os.path.normpath(path) for path in dict.fromkeys(paths) if path and os.path.exists(path))


def _is_never(path: str) -> bool:
    return path in _NEVER or os.path.realpath(path) in _NEVER


def _holds(path: str, risky: Iterable[str]) -> bool:
    """Whether granting `path` would grant a folder that must not be; the system's own library folders never do."""
    if path in _SYSTEM or os.path.realpath(path) in _SYSTEM:
        return False
    real = os.path.realpath(path)
    return _is_never(path) or any(_is_below(r, [path]) or _is_below(os.path.realpath(r), [real]) for r in risky)


def _is_below(path: str, folders: Iterable[str]) -> bool:
    """Whether a path is one of the folders or lies in one, by its text alone."""
    return any(f"{path}/".startswith(f"{folder.rstrip('/')}/") for folder in folders)


def _with_real_paths(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(spelling for path in paths for spelling in (path, os.path.realpath(path))))


def _without_nested(folders: Sequence[str]) -> tuple[str, ...]:
    """Without those that another brings along; one on a file system of its own has to be mounted by itself."""
    nested: set[str] = set()
    above: list[tuple[str, str, int]] = []  # the folders around the last one, outermost first: text, path, file system
    for text, path in sorted((f"{path.rstrip('/')}/", path) for path in folders):  # each before what lies in it
        while above and not text.startswith(above[-1][0]):
            above.pop()
        device = os.stat(path).st_dev
        if any(path != by and device == other for _, by, other in above):
            nested.add(path)
        above.append((text, path, device))
    return tuple(path for path in folders if path not in nested)


def _part(trees: Iterable[tuple[str, str, bool]], granted: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split working trees into those still withheld, by module, and the folders to import from that were granted."""
    withheld: dict[str, str] = {}
    opened = []
    for module, folder, importable in trees:
        if not _is_below(os.path.realpath(folder), granted):
            if len(withheld) < NAMES:
                withheld.setdefault(module, folder)
        elif importable:
            opened.append(folder)
    return withheld, list(dict.fromkeys(opened))
