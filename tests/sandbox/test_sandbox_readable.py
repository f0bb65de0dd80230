"""What a worker may read is Python and its packages wherever they lie, and no working tree that nobody named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import rlm
from rlm.errors import UsageError
from rlm.sandbox.editable import NAMES, list_modules
from rlm.sandbox.readable import Readable, _loader_folders, _without_nested, readable

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = textwrap.dedent(
    """
    import json, os, sys
    sys.path.append(os.environ["RLM_HOME"])
    from rlm.sandbox.readable import readable
    sys.path.remove(os.environ["RLM_HOME"])
    if len(sys.argv) > 2:
        exec(sys.argv[2])
    found = readable(json.loads(sys.argv[1]))
    import sysconfig
    print(json.dumps({**found._asdict(), "stdlib": os.path.realpath(os.path.dirname(os.__file__)),
                      "dynload": sysconfig.get_config_var("DESTSHARED"), "version": sys.version_info[:2]}))
    """
)


class Elsewhere:
    """A venv with a package, a working tree that a .pth file adds, and a home directory; nothing installed."""

    def __init__(self, folder: Path) -> None:
        self.venv, self.tree, self.home = folder / "venv", folder / "tree", folder / "home"
        self.cwd, self.renamed = folder / "cwd", folder / "renamed"
        for path in (self.tree / "pkg", self.tree / "space", self.home, self.cwd, self.renamed):
            path.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.venv)], check=True, timeout=50)
        for name in ("mod.py", "pkg/__init__.py", "space/part.py", "no-module.py", "data.csv"):
            (self.tree / name).touch()
        (self.tree / "data").mkdir()
        self.site = next(self.venv.glob("lib/python3*/site-packages"))
        (self.site / "tree.pth").write_text(
            f"# told by an installer\nimport sys\n\n{self.tree}\n{folder / 'gone'}\negg\n"
        )
        (self.site / "egg").mkdir()

    def ask(
        self, read_paths: tuple[str, ...] = (), *, first: str = "", environment: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        done = subprocess.run(
            [self.venv / "bin" / "python", "-c", PROGRAM, json.dumps(read_paths), first],
            env={"HOME": str(self.home), "RLM_HOME": str(REPOSITORY), **(environment or {})},
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    return Elsewhere(tmp_path_factory.mktemp("elsewhere"))


def is_covered(path: str | Path, found: Readable | dict[str, Any]) -> bool:
    folders = found["directories"] if isinstance(found, dict) else found.directories
    return any(f"{path}/".startswith(f"{folder}/") for folder in folders)


def test_a_venv_brings_its_packages_and_the_standard_library_of_the_python_under_it(elsewhere: Elsewhere) -> None:
    found = elsewhere.ask()
    assert is_covered(elsewhere.site, found) and is_covered(found["stdlib"], found)
    assert found["import_path"][0] == str(elsewhere.site)
    assert str(elsewhere.venv / "pyvenv.cfg") in found["files"]


def test_neither_home_nor_the_current_directory_nor_the_tree_around_a_venv_is_readable(elsewhere: Elsewhere) -> None:
    found = elsewhere.ask()
    for path in (elsewhere.home, elsewhere.cwd, elsewhere.venv, elsewhere.tree, "/", "/home", "/etc", REPOSITORY / "x"):
        assert not is_covered(path, found), path


def test_the_modules_of_a_folder_that_a_pth_file_adds_are_withheld_by_name(elsewhere: Elsewhere) -> None:
    found = elsewhere.ask()
    tree = str(elsewhere.tree)
    assert found["withheld"] == {"mod": tree, "pkg": tree, "space": tree}
    assert tree not in found["import_path"]


def test_a_folder_that_a_pth_file_adds_among_the_packages_is_one_of_them(elsewhere: Elsewhere) -> None:
    assert str(elsewhere.site / "egg") in elsewhere.ask()["import_path"]


def test_what_a_pth_file_adds_is_imported_from_once_read_paths_grants_it_or_a_folder_around_it(
    elsewhere: Elsewhere,
) -> None:
    for given in (elsewhere.tree, elsewhere.tree.parent):
        found = elsewhere.ask((str(given),))
        assert found["withheld"] == {} and is_covered(elsewhere.tree, found)
        assert str(elsewhere.tree) in found["import_path"]


def test_an_editable_installs_finder_tells_where_its_modules_lie(elsewhere: Elsewhere) -> None:
    mapping = {"pkg2": f"{elsewhere.home}/src/pkg2", "single": f"{elsewhere.home}/single.py", "other": "/srv/renamed"}
    first = (
        "import types; finder = types.ModuleType('__editable___thing_1_0_finder'); "
        f"finder.MAPPING = {mapping!r}; sys.modules[finder.__name__] = finder"
    )
    withheld = elsewhere.ask(first=first)["withheld"]
    assert withheld["pkg2"] == f"{elsewhere.home}/src" and withheld["single"] == str(elsewhere.home)
    assert withheld["other"] == "/srv/renamed"
    granted = elsewhere.ask((str(elsewhere.home),), first=first)
    assert granted["withheld"].keys() & mapping.keys() == {"other"}
    assert {f"{elsewhere.home}/src", str(elsewhere.home)} <= set(granted["import_path"])


def test_the_loaders_variable_is_kept_to_unless_it_names_a_folder_with_the_callers_own_things(
    elsewhere: Elsewhere,
) -> None:
    library = elsewhere.renamed
    value = f"{library}:{elsewhere.home}:{elsewhere.home.parent}:{elsewhere.cwd}:/:relative:"
    found = elsewhere.ask(environment={"LD_LIBRARY_PATH": value})
    assert is_covered(library, found)
    assert not is_covered(elsewhere.home, found) and not is_covered(elsewhere.cwd, found)
    assert not is_covered(elsewhere.cwd / "relative", found)


def test_the_folder_of_the_hosts_own_script_and_pythonpath_are_not_granted(elsewhere: Elsewhere) -> None:
    script = elsewhere.renamed
    found = elsewhere.ask(
        first=f"sys.path.insert(0, {str(script)!r})",
        environment={"LD_LIBRARY_PATH": str(script), "PYTHONPATH": str(elsewhere.tree)},
    )
    assert not is_covered(script, found) and not is_covered(elsewhere.tree, found)
    assert not {str(script), str(elsewhere.tree)} & set(found["import_path"])


def test_a_folder_on_the_hosts_path_is_imported_from_once_read_paths_grants_one_around_it(elsewhere: Elsewhere) -> None:
    tree = elsewhere.tree
    found = elsewhere.ask((str(tree.parent),), environment={"PYTHONPATH": str(tree / "pkg")})
    assert str(tree / "pkg") in found["import_path"]


def test_a_package_folder_that_is_a_link_to_too_much_is_left_out(elsewhere: Elsewhere) -> None:
    link = elsewhere.renamed / "site-packages"
    link.symlink_to("/")
    found = elsewhere.ask(first=f"sys.path.append({str(link)!r})")
    link.unlink()
    assert not is_covered("/", found) and not is_covered(link, found)


def test_a_standard_library_in_an_archive_is_readable(elsewhere: Elsewhere) -> None:
    archive = elsewhere.renamed / "python{}{}.zip".format(*sys.version_info)
    archive.touch()
    found = elsewhere.ask(first=f"sys.path.append({str(archive)!r})")
    archive.unlink()
    assert str(archive) in found["files"]


def test_libraries_of_an_unusual_build_are_found_by_its_configuration(elsewhere: Elsewhere) -> None:
    first = f"import sysconfig; sysconfig.get_config_vars()['LIBDIR'] = {str(elsewhere.renamed)!r}"
    assert is_covered(elsewhere.renamed, elsewhere.ask(first=first))


def test_the_withheld_modules_of_many_folders_are_told_of_only_so_far(elsewhere: Elsewhere) -> None:
    first = (
        "import types; finder = types.ModuleType('__editable___many_finder'); "
        f"finder.MAPPING = {{f'm{{n}}': f'/srv/m{{n}}' for n in range({NAMES})}}; sys.modules[finder.__name__] = finder"
    )
    assert len(elsewhere.ask(first=first)["withheld"]) == NAMES


def test_a_symbolic_link_is_granted_in_both_spellings(elsewhere: Elsewhere) -> None:
    link = elsewhere.cwd.parent / "link"
    link.symlink_to(elsewhere.renamed)
    found = elsewhere.ask((str(link),))
    assert {str(link), str(elsewhere.renamed)} <= set(found["directories"])
    link.unlink()


def pythons() -> list[str]:
    versions = Path(sys.base_prefix).parent
    found = [sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"]
    found += [str(path) for path in sorted(versions.glob("*/bin/python3.1[1-9]"))]
    return [path for path in dict.fromkeys(found) if os.access(path, os.X_OK)]


def is_supported(python: str) -> bool:
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([python, "-c", code], check=False, timeout=50).returncode == 0


def test_every_python_of_this_machine_gets_its_own_libraries_and_nothing_of_its_users(tmp_path: Path) -> None:
    asked = [python for python in pythons() if is_supported(python)]
    for python in asked:
        environment = {"RLM_HOME": str(REPOSITORY), "HOME": str(tmp_path)}
        done = subprocess.run(
            [python, "-c", PROGRAM, "[]"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=50
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert is_covered(found["stdlib"], found) and is_covered(found["dynload"], found), python
        assert is_covered("/usr/lib", found) and not is_covered(tmp_path, found), python
        assert all(is_covered(path, found) for path in found["import_path"]), python
    assert asked


def test_every_library_that_this_process_has_loaded_for_python_itself_is_readable() -> None:
    maps = Path("/proc/self/maps").read_text().splitlines()
    loaded = {line.split(maxsplit=5)[5] for line in maps if ".so" in line}
    wanted = [path for path in loaded if any(part in path for part in ("libpython", "lib-dynload", "libc.so", "ld-"))]
    assert wanted
    assert [path for path in wanted if not is_covered(os.path.realpath(path), readable())] == []


def test_the_folders_of_the_dynamic_loader_are_read_from_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "ld.so.conf").write_text("# the loader's\ninclude parts/*.conf\n/opt/first/lib\nhwcap 0 nosegneg\n")
    (tmp_path / "parts" / "a.conf").write_text("/opt/second/lib # ours\n\nrelative\ninclude ../ld.so.conf\n")
    found = list(_loader_folders(str(tmp_path / "ld.so.conf"), 1))
    assert found == ["/opt/second/lib", "/opt/first/lib"]
    configured = [path for path in _loader_folders("/etc/ld.so.conf", 4) if os.path.exists(path)]
    assert [path for path in configured if not is_covered(path, readable())] == []


def test_read_paths_may_be_relative_and_may_name_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "one.txt").touch()
    monkeypatch.chdir(tmp_path)
    found = readable(["data", tmp_path / "one.txt"])
    assert str(tmp_path / "data") in found.directories and str(tmp_path / "one.txt") in found.files
    assert not is_covered(tmp_path, found)


def test_of_read_paths_only_folders_with_modules_are_imported_from(tmp_path: Path) -> None:
    code, data = tmp_path / "code", tmp_path / "data"
    for path in (code, data):
        path.mkdir()
    (code / "mine.py").touch()
    (data / "table.csv").touch()
    found = readable([code, data])
    assert str(code) in found.import_path and str(data) not in found.import_path


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["/"], "the root directory"),
        (["/usr/.."], "the root directory"),
        (["/proc/self/root"], "the root directory"),
        (["no/such/place"], "no/such/place does not exist"),
        ([b"/usr"], "bytes"),
        ([3], "holds 3"),
        ("/usr", "give a list"),
        (Path("/usr"), "give a list"),
    ],
)
def test_read_paths_that_cannot_be_granted_are_refused_by_name(given: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        readable(given)


def test_the_same_question_is_computed_once() -> None:
    assert readable() is readable([])
    assert readable(["/usr/share"]) is readable(("/usr/share/",))


def test_no_folder_is_listed_twice_nor_with_one_around_it_on_the_same_file_system() -> None:
    folders = readable().directories
    assert len(set(folders)) == len(folders)
    for folder in folders:
        around = [f for f in folders if f != folder and f"{folder}/".startswith(f"{f}/")]
        assert all(os.stat(f).st_dev != os.stat(folder).st_dev for f in around), folder


def test_very_many_folders_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # in one look at each pair of them it would take minutes, and end at the test's time limit
    top = [f"/top-{n}" for n in range(30_000)]
    nested = [f"{path}/a/b" for path in top[::2]]
    mounted = [f"{path}/a/mounted" for path in top[::3]]
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda path: os.stat_result((0, 0, len(path.partition("mounted")[1]), *[0] * 7)))
        found = _without_nested([*nested, *top, *mounted])
    assert found == (*top, *mounted)


@pytest.mark.parametrize("name", ["meminfo", "cpuinfo", "stat", "loadavg", "uptime", "self/status"])
def test_of_proc_python_says_what_the_kernel_says(name: str) -> None:
    code = f"import ctypes, os\nctypes.CDLL(None).open(b'/proc/{name}', os.O_RDONLY) < 0"
    with rlm.RLMReplEnvironment(lambda prompt: prompt) as env:
        assert env.execute("1").ok
        refused = env.execute(code).value
        result = env.execute(f"open('/proc/{name}').close()")
        assert refused == str(name != "self/status") == str(not result.ok)
        fallback = f"try: open('/proc/{name}').close()\nexcept FileNotFoundError: pass"
        # libraries that look for it and find none go on without
        assert env.execute(fallback).ok or not env.enforced["scratch"].held


def test_a_folder_with_very_many_modules_is_read_only_so_far(tmp_path: Path) -> None:
    for number in range(NAMES + 20):
        (tmp_path / f"m{number}.py").touch()
    assert len(list_modules(str(tmp_path), NAMES)) == NAMES
    assert list_modules(str(tmp_path / "gone"), NAMES) == []
