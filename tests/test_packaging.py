"""The package as its users get it: a wheel, installed in an empty environment, far from the source tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
API = ROOT / "tests" / "typing" / "api.py"
pytestmark = pytest.mark.timeout(180)  # the first test waits for pip


@dataclass(frozen=True)
class Installed:
    """An environment that holds the wheel and what it depends on, and a directory to work in."""

    python: Path
    home: Path

    def run(self, *command: str | Path, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        variables = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        return subprocess.run(
            [str(part) for part in command],
            cwd=self.home,
            env=variables,
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )

    @property
    def rlm(self) -> Path:
        return self.python.parent / "rlm"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=target)
    (made,) = target.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    home = tmp_path_factory.mktemp("away")
    subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True, capture_output=True)
    python = home / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True, cwd=home, timeout=120)
    assert done.returncode == 0, done.stderr
    return Installed(python, home)


def test_the_wheel_holds_the_package_its_types_its_licence_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = {str(file.relative_to(ROOT)) for file in (ROOT / "rlm").rglob("*") if file.suffix in (".py", ".typed")}
    assert {name for name in names if ".dist-info/" not in name} == source
    assert "rlm/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_installed_package_is_imported_from_its_own_place(installed: Installed) -> None:
    done = installed.run(installed.python, "-c", "import rlm; print(rlm.__file__); print(rlm.__version__)")
    assert done.stderr == ""
    place, version = done.stdout.split()
    assert Path(place).is_relative_to(installed.home)
    assert version in installed.run(installed.python, "-m", "pip", "show", "rlm-repl").stdout


def test_only_the_declared_dependencies_are_needed_to_import_every_public_name(installed: Installed) -> None:
    done = installed.run(installed.python, "-W", "error", "-c", "import rlm; [getattr(rlm, n) for n in rlm.__all__]")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("door", ["rlm", "python -m rlm"])
def test_both_doors_tell_the_version(installed: Installed, door: str) -> None:
    command = [installed.rlm] if door == "rlm" else [installed.python, "-m", "rlm"]
    done = installed.run(*command, "--version")
    version = installed.run(installed.python, "-c", "import rlm; print(rlm.__version__)").stdout.strip()
    assert (done.returncode, done.stderr) == (0, "")
    assert version in done.stdout


def test_a_cell_runs_and_queries_from_the_installed_package(installed: Installed) -> None:
    program = (
        "import rlm\n"
        "with rlm.RLMReplEnvironment(model=str.upper) as env:\n"
        "    print(env.execute(\"print(llm_query('hello'))\").stdout)\n"
    )
    done = installed.run(installed.python, "-W", "error", "-c", program)
    assert (done.stdout.strip(), done.stderr) == ("HELLO", "")


def test_the_demo_runs_from_the_installed_package(installed: Installed) -> None:
    done = installed.run(installed.rlm, "demo", "--json", "--orphans", "24", seconds=120)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["identical"] is True and len(data["sides"]) == 4


def test_a_callers_file_is_well_typed_against_the_installed_package(installed: Installed) -> None:
    caller = installed.home / "caller.py"
    caller.write_bytes(API.read_bytes())
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", installed.home / "cache"]
    done = installed.run(*mypy, "--python-executable", installed.python, caller, seconds=120)
    assert done.stdout == "Success: no issues found in 1 source file\n", done.stdout + done.stderr
