"The package as pip sees it, and what make does in a fresh clone, in a half-made one and where Python is too old"
import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import facecp_nb
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from repository import NBS, PACKAGE, ROOT, code, modules, parsed, read

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    copy = tmp_path_factory.mktemp("source")
    for folder in ("facecp_nb", "data"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"): shutil.copy(ROOT / file, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next((copy / "dist").glob("*.whl"))

def test_wheel_carries_code_data_and_licence(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    ours = list(PACKAGE.rglob("*.py"))
    ours += [p for p in (ROOT / "data").rglob("*") if p.is_file() and p.name[0] != "."]
    def place(path: Path) -> str:
        inside = path.relative_to(ROOT)
        return ("facecp_nb/shipped" / inside.relative_to("data") if inside.parts[0] == "data" else inside).as_posix()
    assert {place(p) for p in ours} - held == set()
    assert any(n.endswith("licenses/LICENSE") for n in held)
    assert not any(n.startswith(("nbs", "tests", "tools", "runs")) for n in held)

def test_installed_wheel_finds_its_data(wheel, tmp_path):
    "From an empty folder, with nothing of the repository in reach, `shipped` names the file inside the package."
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    shipped = tmp_path / "installed" / "facecp_nb" / "shipped"
    shipped.mkdir(exist_ok=True)
    (shipped / "sample.txt").write_text("here")
    (tmp_path / "empty").mkdir()
    ask = f"{IMPORT_ALL}\nprint(shipped('sample.txt').read_text(), facecp_nb.__version__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path / "empty", env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["here", settings("version")], done.stderr

IMPORT_ALL = """import importlib, facecp_nb
from facecp_nb.core import shipped
from facecp_nb.packages import PACKAGES
for package, modules in PACKAGES.items():
    for name in (package, *(f"{package}.{module}" for module in modules)): importlib.import_module(f"facecp_nb.{name}")
"""

def settings(key: str) -> str:
    parser = ConfigParser()
    parser.read(ROOT / "settings.ini")
    return parser["DEFAULT"][key]

def test_one_version_everywhere():
    cited = next(line.split()[1] for line in (ROOT / "CITATION.cff").read_text().splitlines() if line.startswith("version:"))
    assert settings("version") == facecp_nb.__version__ == cited
    assert PROJECT["requires-python"] == f">={settings('min_python')}"

def pins() -> dict[str, str]:
    "The pinned version of each package in constraints.txt."
    lines = (line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    return {canonicalize_name(name): version for name, version in lines}

def wanted() -> list[Requirement]:
    "What pyproject.toml asks for, extras included."
    groups = PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()
    return [Requirement(r) for group in groups for r in group]

def test_constraints_pin_every_requirement():
    pinned = pins()
    assert [r.name for r in wanted() if canonicalize_name(r.name) not in pinned] == []
    unfit = [str(r) for r in wanted() if not r.specifier.contains(pinned[canonicalize_name(r.name)], prereleases=True)]
    assert unfit == []

def needed(requirement: Requirement) -> list[Requirement]:
    "What an installed package asks for in its turn."
    try: asked = [Requirement(r) for r in requires(requirement.name) or []]
    except PackageNotFoundError: return []
    extras = requirement.extras or {""}
    return [r for r in asked if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]

def test_constraints_pin_nothing_else():
    "Every pinned package is asked for by pyproject.toml, or by one that is."
    todo, met = wanted(), set()
    while todo:
        one = todo.pop()
        key = canonicalize_name(one.name), frozenset(one.extras)
        if key in met: continue
        met.add(key)
        todo += needed(one)
    assert set(pins()) - {name for name, _ in met} == set(), "run make constraints"

def imported_names() -> set[str]:
    "The packages that modules, tools, tests and notebooks import."
    files = [*modules(), *(ROOT / "tools").glob("*.py"), *(ROOT / "tests").glob("*.py")]
    trees = [ast.parse(f.read_text(encoding="utf-8")) for f in files]
    trees += [ast.Module(parsed(c), []) for f in NBS.rglob("*.ipynb") for c in code(read(f))]
    found = set()
    for node in (n for tree in trees for n in ast.walk(tree)):
        if isinstance(node, ast.Import): found |= {a.name.split(".")[0] for a in node.names}
        if isinstance(node, ast.ImportFrom) and not node.level: found.add(node.module.split(".")[0])
    return found

# asked for because a program of theirs is run, or because another package needs them installed
PROGRAMS = {"jupyterlab", "smalldocs", "ruff", "pytest-xdist", "cryptography", "pyarrow", "pycocotools"}

def test_nothing_is_asked_for_that_nobody_imports():
    providers = packages_distributions()
    used = {canonicalize_name(d) for name in imported_names() for d in providers.get(name, [])}
    assert sorted({canonicalize_name(r.name) for r in wanted()} - used - PROGRAMS) == []


# --- make ------------------------------------------------------------------------------------------------------------

FAKE = """#!/bin/sh
# stands for a Python: notes what it is asked, and `-m venv FOLDER` puts a copy of it in FOLDER
echo "$@" >> "$NOTES"
case "$*" in
  -c*) exit {too_old} ;;
  --version) echo "Python 3.{minor}" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip install"*) [ ! -e "$FAIL" ] ;;
esac
"""

class Clone:
    "A fresh clone with a Python that only pretends, so that make's own decisions show."
    def __init__(self, folder: Path, too_old: bool = False):
        self.folder, self.notes, self.fail, self.bin = folder, folder / "notes", folder / "fail", folder / "bin"
        self.bin.mkdir()
        for file in ("Makefile", "pyproject.toml", "constraints.txt"): shutil.copy(ROOT / file, folder)
        for tool in ("make", "sh", "rm", "mkdir", "cp", "touch", "echo"): (self.bin / tool).symlink_to(shutil.which(tool))
        (self.bin / "python3").write_text(FAKE.format(too_old=int(too_old), minor=8 if too_old else 11))
        (self.bin / "python3").chmod(0o755)
        self.installed, self.installing = folder / ".venv" / ".installed", folder / ".venv" / ".installing"

    def make(self, target: str = "install"):
        "What make said, and what the Python was asked."
        self.notes.write_text("")
        environment = {"PATH": str(self.bin), "NOTES": str(self.notes), "FAIL": str(self.fail)}
        done = subprocess.run(["make", target], cwd=self.folder, env=environment, capture_output=True, text=True)
        kinds = "-m venv", "-m pip install", "-m pytest"
        return done, [line for line in self.notes.read_text().splitlines() if line.startswith(kinds)]

@pytest.fixture
def clone(tmp_path): return Clone(tmp_path)

def kinds(asked: list[str]) -> list[str]:
    return [line.split()[1] for line in asked]

def test_make_installs_once(clone):
    done, asked = clone.make()
    assert done.returncode == 0 and kinds(asked) == ["venv", "pip"], done.stderr
    assert "-c constraints.txt" in asked[1] and "[render,cluster,look,brain,dev]" in asked[1]
    assert clone.installed.exists() and not clone.installing.exists()
    assert clone.make()[1] == []

def test_make_mends_a_half_made_environment(clone):
    clone.fail.touch()
    done, _ = clone.make()
    assert done.returncode != 0 and clone.installing.exists() and not clone.installed.exists()
    (clone.folder / ".venv" / "leftover").touch()
    clone.fail.unlink()
    done, asked = clone.make()
    assert done.returncode == 0 and kinds(asked) == ["venv", "pip"]
    assert clone.installed.exists() and not (clone.folder / ".venv" / "leftover").exists()

def test_make_follows_a_change_of_constraints(clone):
    clone.make()
    later = clone.installed.stat().st_mtime + 5
    os.utime(clone.folder / "constraints.txt", (later, later))
    assert kinds(clone.make()[1]) == ["pip"]

def test_make_test_installs_first(clone):
    assert kinds(clone.make("test")[1]) == ["venv", "pip", "pytest"]

def test_make_refuses_an_old_python(tmp_path):
    done, asked = Clone(tmp_path, too_old=True).make("run")
    assert done.returncode != 0 and asked == [] and not (tmp_path / ".venv").exists()
    assert "needs Python 3.11 or newer" in done.stderr and "Python 3.8" in done.stderr

def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and "make test" in script.read_text()
