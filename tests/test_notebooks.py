"Every notebook runs as nbdev's tests run it (IN_TEST=1: profile smoke), and every exercise can be failed and solved"
import subprocess
import sys

import pytest
from execnb.shell import CaptureShell
from fastcore.xtras import working_directory
from nbdev.config import get_config
from repository import ROOT, code, exercises, name, notebooks, read, solution, source, tags, wrong_answers

# nbdev's own test of one notebook, in a process of its own: what one notebook imports or registers
# is not there for the next
RUN = """import sys; from pathlib import Path; from nbdev.test import test_nb
path, root, flags = sys.argv[1:]
sys.exit(not test_nb(Path(path), skip_flags=flags.split(), basepath=root)[0])"""

@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    "One run store for the notebooks of this module: never the reader's own."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IN_TEST", "1")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        patch.setenv("FACECP_HOME", str(tmp_path_factory.mktemp("runs")))
        yield

# benchmarks hold bars of time, which no test may assert
LIBRARY = [p for p in notebooks() if "library" in p.parts]
CHAPTERS = notebooks("chapters")
INDEX = notebooks(recursive=False)

def nbdev_test(path):
    "What nbdev's test says about the notebook at `path`; fails unless it passes."
    flags = get_config(path=ROOT).tst_flags
    command = [sys.executable, "-c", RUN, path, ROOT, flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

@pytest.mark.slow
@pytest.mark.parametrize("path", LIBRARY + CHAPTERS + INDEX, ids=name)
def test_notebook(path):
    "It runs to its end, chapters with every exercise unanswered."
    nbdev_test(path)


# --- exercises -------------------------------------------------------------------------------------------------------

WITH_EXERCISES = [p for p in CHAPTERS if exercises(read(p))]

def failure(shell: CaptureShell, text: str) -> BaseException | None:
    "Run `text`; the exception it ended with, or None."
    shell.run(text)
    return shell.exc

class DoesNotRun(Exception):
    "An answer that does not get as far as its check."

def refusal(shell: CaptureShell, answer: str, check: str) -> BaseException | None:
    "What `check` ended with after `answer`; `DoesNotRun` where the answer itself failed."
    error = failure(shell, answer)
    return DoesNotRun(f"does not run: {error!r}") if error else failure(shell, check)

# a wrong answer that fails with one of these fails for a slip of ours
SLIPS = DoesNotRun, NameError, SyntaxError, ImportError

def try_exercise(shell: CaptureShell, exercise: dict) -> list[str]:
    "What is wrong with one exercise; the shell is left with the solution."
    found, stub, check = [], source(exercise["exercise"]), source(exercise["check"])
    if error := failure(shell, stub): found.append(f"the stub stops the notebook: {error!r}\n{stub}")
    if failure(shell, check) is None: found.append(f"the check passes on the stub\n{stub}")
    for answer in wrong_answers(exercise["solution"]):
        error = refusal(shell, answer, check)
        if error is None: found.append(f"the check passes on a wrong answer\n{answer}")
        if isinstance(error, SLIPS): found.append(f"a wrong answer fails for another reason: {error!r}\n{answer}")
    answer = solution(exercise["solution"])
    if error := refusal(shell, answer, check): found.append(f"the check fails on the solution: {error!r}\n{answer}")
    return found

def try_exercises(nb: dict) -> list[str]:
    "What is wrong with the exercises of `nb`: stubs or wrong answers that pass, solutions that fail."
    found, shell = [], CaptureShell()
    at_stub = {id(e["exercise"]): e for e in exercises(nb)}
    for cell in code(nb):
        if "check" in tags(cell): continue
        if id(cell) in at_stub: found += try_exercise(shell, at_stub[id(cell)])
        elif error := failure(shell, source(cell)):
            return [*found, f"a cell outside the exercises failed: {error!r}\n{source(cell)}"]
    return found

def incomplete(nb: dict) -> list[str]:
    "What the exercises of `nb` lack."
    found = [f"a code cell is tagged solution\n{source(c)}" for c in code(nb) if "solution" in tags(c)]
    for exercise in exercises(nb):
        stub, missing = source(exercise["exercise"]), {"exercise", "check", "solution"} - set(exercise)
        if missing: found.append(f"no {' and no '.join(sorted(missing))}\n{stub}")
        if "check" in exercise and "with answer(" not in source(exercise["check"]):
            found.append(f"the check would stop Run All: write it inside `with answer(...):`\n{stub}")
        if "solution" not in exercise: continue
        if solution(exercise["solution"]) is None: found.append(f"the solution holds no folded Python\n{stub}")
        if not wrong_answers(exercise["solution"]): found.append(f"the solution holds no wrong answer\n{stub}")
    return found

@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_exercises_are_whole(path):
    assert incomplete(read(path)) == []

@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_EXERCISES, ids=name)
def test_exercises(path, monkeypatch):
    monkeypatch.setenv("FACECP_EXERCISES", "strict")
    with working_directory(path.parent): assert try_exercises(read(path)) == []

SOLUTION = """<details>
<summary>A solution</summary>

```python
y = x + 1
```

</details>
<!-- wrong
```python
y = x
```
-->
"""

def exercise_notebook(stub="y = ...", check="with answer(1, y): assert y == 3", solution=SOLUTION) -> dict:
    "A notebook with one exercise."
    def cell(kind, text, *tags): return dict(cell_type=kind, metadata={"tags": list(tags)}, source=text, outputs=[])
    begin = cell("code", "from facecp_nb.exercises import answer\nx = 2")
    parts = cell("code", stub, "exercise"), cell("code", check, "check"), cell("markdown", solution, "solution")
    return {"cells": [begin, *parts]}

@pytest.mark.parametrize("change,says", [
    (dict(), None),
    (dict(check="with answer(1): assert x == 2"), "passes on the stub"),
    (dict(check="with answer(1): assert y is not ..."), "passes on a wrong answer"),
    (dict(check="with answer(1): assert y == 4"), "fails on the solution"),
    (dict(stub="raise ValueError('write me')"), "stops the notebook"),
    (dict(solution=SOLUTION.replace("y = x\n", "y = z\n")), "does not run"),
    (dict(solution=SOLUTION.replace("y = x + 1", "y = (")), "does not run"),
])
def test_exercises_can_be_found_wanting(change, says, monkeypatch):
    monkeypatch.setenv("FACECP_EXERCISES", "strict")
    found = try_exercises(exercise_notebook(**change))
    assert found == [] if says is None else any(says in text for text in found), found

@pytest.mark.parametrize("change,says", [
    (dict(), None),
    (dict(check="assert y == 3"), "would stop Run All"),
    (dict(solution=SOLUTION.partition("<!--")[0]), "no wrong answer"),
    (dict(solution="Just add one."), "no folded Python"),
])
def test_incomplete_exercises_are_seen(change, says):
    found = incomplete(exercise_notebook(**change))
    assert found == [] if says is None else any(says in text for text in found), found

def test_a_lone_stub_is_incomplete():
    nb = exercise_notebook()
    assert "no check and no solution" in incomplete({"cells": nb["cells"][:2]})[0]

def test_run_all_goes_on_after_an_open_exercise():
    "What a student sees: the check says so, and the next cell runs."
    shell, nb = CaptureShell(), exercise_notebook()
    said = [shell.run(source(c)) for c in code(nb)]
    assert shell.exc is None and "not answered yet" in str(said[-1])
