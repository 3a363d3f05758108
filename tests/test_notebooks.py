"Every notebook runs as nbdev's tests run it (IN_TEST=1: profile smoke), and every exercise can be failed and solved"
import subprocess, sys

import pytest
from execnb.shell import CaptureShell
from fastcore.xtras import working_directory
from nbdev.config import get_config
from repository import ROOT, code, name, notebooks, read, source, tags

# nbdev's own test of one notebook, in a process of its own: what one notebook imports or registers is not there for the next
RUN = """import sys; from pathlib import Path; from nbdev.test import test_nb
path, root, flags = sys.argv[1:]
sys.exit(not test_nb(Path(path), skip_flags=flags.split(), basepath=root)[0])"""

@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    "One run store for the notebooks of this module: never the reader's own."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IN_TEST", "1")
        patch.setenv("FACECP_HOME", str(tmp_path_factory.mktemp("runs")))
        yield

# benchmarks hold bars of time, which no test may assert
COURSE = [p for p in notebooks() if p.parent.name != "benchmarks"]

@pytest.mark.parametrize("path", COURSE, ids=name)
def test_notebook(path):
    flags = get_config(path=ROOT).tst_flags
    done = subprocess.run([sys.executable, "-c", RUN, path, ROOT, flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# --- exercises -------------------------------------------------------------------------------------------------------

KINDS = ("exercise", "solution", "check")

def kind(cell: dict) -> str | None:
    return next((k for k in KINDS if k in tags(cell)), None)

def exercises(nb: dict) -> list[dict[str, dict]]:
    "The exercises of a notebook: an `exercise` cell (the stub) opens one; its `solution` and `check` follow in any order."
    found = []
    for cell in code(nb):
        if kind(cell) == "exercise": found.append({})
        if kind(cell) and found: found[-1][kind(cell)] = cell
    return found

WITH_EXERCISES = [p for p in notebooks("chapters") if exercises(read(p))]

def failure(shell: CaptureShell, cell: dict) -> BaseException | None:
    "Run `cell`; the exception it ended with, or None."
    shell.run(source(cell))
    return shell.exc

def try_exercises(nb: dict) -> list[str]:
    "What is wrong with the exercises of `nb`: a stub that passes or stops the notebook, a solution that fails."
    wrong, group = [], {}
    shell = CaptureShell()
    for cell in code(nb):
        if kind(cell) is None:
            error = failure(shell, cell)
            if error: return [*wrong, f"a cell before the exercises are over failed: {error!r}\n{source(cell)}"]
            continue
        if kind(cell) == "exercise": group = {}
        group[kind(cell)] = cell
        if len(group) < len(KINDS): continue
        stub = source(group["exercise"])
        error = failure(shell, group["exercise"])
        if error: wrong.append(f"the stub stops the notebook: {error!r}\n{stub}")
        if failure(shell, group["check"]) is None: wrong.append(f"the check passes on the stub\n{stub}")
        for part in ("solution", "check"):
            error = failure(shell, group[part])
            if error: wrong.append(f"with the solution, the {part} fails: {error!r}\n{source(group[part])}")
    return wrong

@pytest.mark.parametrize("path", WITH_EXERCISES, ids=name)
def test_exercises_are_whole(path):
    for exercise in exercises(read(path)):
        assert set(exercise) == set(KINDS), source(exercise.get("exercise", {"source": "a check without an exercise"}))

@pytest.mark.parametrize("path", WITH_EXERCISES, ids=name)
def test_exercises(path):
    with working_directory(path.parent): assert try_exercises(read(path)) == []

def test_exercises_can_be_found_wanting():
    def cells(**parts):
        tagged = [dict(cell_type="code", metadata={"tags": [k]}, source=parts[k]) for k in KINDS]
        return {"cells": [dict(cell_type="code", metadata={}, source="x = 2"), *tagged]}
    good = dict(exercise="y = None", solution="y = x + 1", check="assert y == 3")
    assert try_exercises(cells(**good)) == []
    assert "passes on the stub" in try_exercises(cells(**{**good, "check": "assert x == 2"}))[0]
    assert "the check fails" in try_exercises(cells(**{**good, "solution": "y = 4"}))[0]
    assert "stops the notebook" in try_exercises(cells(**{**good, "exercise": "raise ValueError('write me')"}))[0]
