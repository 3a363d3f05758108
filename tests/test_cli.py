"The command line: quick to answer, strict about what it is asked, one sentence when it refuses"
import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def facecp(monkeypatch, capfd, store):
    "Run the command in this process; returns (exit code, standard output, standard error)."
    from facecp_nb import cli
    monkeypatch.chdir(ROOT)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["facecp", *words])
        try: code = cli.main() or 0
        except SystemExit as e: code = e.code or 0
        return code, *capfd.readouterr()
    return call


def test_help_imports_nothing_heavy():
    code = "import sys; import facecp_nb.cli; print([m for m in ('torch', 'fastai', 'pandas', 'papermill', 'altair') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_help_lists_the_commands(facecp):
    code, said, _ = facecp("--help")
    assert code == 0 and all(word in said for word in ("run", "rear", "study", "faces", "runs", "site", "check"))


@pytest.mark.parametrize("words,says", [
    (["run", "99"], "chapters fit '99'"),
    (["run", "--profile", "fast"], "smoke, quick, full"),
    (["run", "00", "--param", "epcohs=3"], "epochs"),
    (["run", "00", "--param", "late=75%", "--param", "early"], "has no value"),
    (["run", "--seed=-1"], "seed is -1"),
    (["rear", "mouht:3 > full"], "mouth"),
    (["rear", "mouth:3"], "takes no length"),
    (["rear", "mouth:30 > full"], "24 epochs"),
    (["rear", "full", "--set", "epochs=-3"], "epochs is -3"),
    (["rear", "full", "--set", "arch=resnet51"], "resnet50"),
    (["rear", "full", "--set", "epcohs=3"], "epochs"),
    (["rear", "full", "--set", "profile=quick"], "profile"),
    (["rear", "full", "--set", "rates=None"], "rates is None"),
    (["rear", "full", "--set", "epochs=1000000000000"], "at most 10000"),
    (["run", "00", "--param", "seed=None"], "must be a int"),
    (["run", "00", "--profile", "smoke", "--out", "/proc/nowhere"], "cannot be written"),
    (["runs", "show", "*"], "facecp runs ls"),
    (["rear", "full", "--data", "no/such/folder"], "no/such/folder"),
    (["study", "onsets"], "onset-curve"),
    (["runs", "show", "zzzz"], "facecp runs ls"),
    (["faces", "--people", "0", "--out", "x"], "people is 0"),
    (["faces", "--size", "4", "--out", "x"], "size is 4"),
    (["faces", "--format", "zip", "--out", "x"], "parquet, folder"),
    (["look", "--run", "zzzz"], "facecp runs ls"),
    (["look", "--run", "zzzz", "--method", "saliency"], "gradcam"),
    (["faces", "--bands", "child, teenager", "--out", "x"], "child, adult, elder"),
])
def test_refusals_are_one_sentence_and_exit_2(words, says, facecp):
    code, out, err = facecp(*words)
    assert code == 2 and says in err and "Traceback" not in err and out == "", err


@pytest.mark.slow
def test_a_refusal_inside_the_chapter_is_one_sentence_too(facecp):
    code, _, err = facecp("run", "00", "--profile", "smoke", "--param", "early=80%")
    assert code == 2 and "must come before the late one" in err and "Traceback" not in err, err


# --- chapters that are made up ---------------------------------------------------------------------------------------

PARAMETERS = 'profile = "quick"\nseed = 0\ndata = "rendered"\nout = None'

@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "A function that writes a checkout whose chapter 00 holds the given cell, and makes it the working folder."
    def write(cell: str) -> Path:
        parameters = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        chapter = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(cell)])
        chapter.metadata.kernelspec = dict(name="python3", language="python", display_name="python3")
        (tmp_path / "nbs" / "chapters").mkdir(parents=True)
        (tmp_path / "settings.ini").touch()
        nbformat.write(chapter, tmp_path / "nbs" / "chapters" / "00_made_up.ipynb")
        monkeypatch.chdir(tmp_path)
        return tmp_path
    return write


@pytest.mark.slow
def test_twenty_kernels_end_without_a_word(checkout, store, monkeypatch, capfd):
    "Whatever the threads of a dying kernel say to their own standard error, the reader sees one sentence."
    from facecp_nb import cli
    noisy = "import atexit, os; atexit.register(os.write, 2, b'zmq.error.ZMQError')\n"
    place = checkout(f"{noisy}from facecp_nb.core import ConfigError\nraise ConfigError('no')")
    for _ in range(20):
        monkeypatch.setattr(sys, "argv", ["facecp", "run", "--out", str(place / "out")])
        with pytest.raises(SystemExit): cli.main()
        out, err = capfd.readouterr()
        assert out == "" and [line for line in err.splitlines() if line.strip()][1:] == ["facecp: no"], err


def test_a_kernel_that_dies_is_told_in_a_sentence(checkout, facecp, monkeypatch):
    place = checkout("import os; os._exit(1)")
    monkeypatch.chdir(place)
    code, _, err = facecp("run", "--out", "out")
    assert code == 2 and "kernel ended without a result" in err and "Traceback" not in err, err


def alive(pid: int) -> bool:
    "Whether the process runs; one that has ended and waits for its parent does not."
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_control_c_says_what_is_kept_and_ends_the_kernel(checkout, store):
    place = checkout("import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(120)")
    said = place / "said"
    with open(said, "w") as log:
        command = [sys.executable, "-c", "from facecp_nb.cli import main; main()", "run"]
        # a shell's background job ignores Ctrl-C, and its children with it; a terminal's does not
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        program = subprocess.Popen(command, cwd=place, stderr=log, stdout=log, preexec_fn=heard)
    pid = place / "nbs" / "chapters" / "pid"
    wait_for(lambda: pid.exists() and pid.read_text(), 30)
    program.send_signal(signal.SIGINT)
    assert program.wait(20) == 130
    lines = [line for line in said.read_text().splitlines() if line.strip()]
    assert len(lines) == 2 and "stopped" in lines[1] and str(store) in lines[1], lines
    wait_for(lambda: not alive(int(pid.read_text())), 10)


def wait_for(condition, seconds: float):
    "Wait until `condition()` is true."
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(.1)


def test_workers_take_the_gpus_in_turn():
    from facecp_nb.cli import own_device
    assert [own_device(["3", "5"], worker) for worker in range(3)] == ["3", "5", "3"]
    assert own_device([], 0) is None


@pytest.mark.slow
def test_the_main_job_prints_one_json_object(facecp, tmp_path):
    words = "run", "--profile", "smoke", "--json", "--out", str(tmp_path / "out")
    code, out, err = facecp(*words)
    assert code == 0, err
    said = json.loads(out)
    assert [r["condition"] for r in said["rows"]] == [
        "full", "mouth", "early", "late", "untrained+late", "late+equal-clean", "full+equal-updates", "late+kd+at"]
    for row in said["rows"]:
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1 and row["seeds"] == [0, 1] and row["seconds"] > 0 and row["epochs"] > 0 and row["rearing"]
    assert {"notebook", "table", "figure"} <= set(said["paths"]) and all(Path(p).exists() for p in said["paths"].values())
    assert json.loads(facecp(*words)[1])["rows"] == said["rows"], "a second run reads the store"
