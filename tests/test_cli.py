"The command line: quick to answer, strict about what it is asked, one sentence when it refuses"
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FACECP = [sys.executable, "-c", "from facecp_nb.cli import main; main()"]


def facecp(*words, store=None, **kwargs):
    import os
    env = os.environ | ({"FACECP_HOME": str(store)} if store else {})
    return subprocess.run([*FACECP, *words], capture_output=True, text=True, cwd=kwargs.pop("cwd", ROOT), env=env, **kwargs)


def test_help_imports_nothing_heavy():
    code = "import sys; import facecp_nb.cli; print([m for m in ('torch', 'fastai', 'pandas', 'papermill', 'altair') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    assert "run" in facecp("--help").stdout


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
    (["rear", "full", "--data", "no/such/folder"], "no/such/folder"),
    (["study", "onsets"], "onset-curve"),
    (["runs", "show", "zzzz"], "facecp runs ls"),
])
def test_refusals_are_one_sentence_and_exit_2(words, says, tmp_path):
    done = facecp(*words, store=tmp_path)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.stdout == ""


def test_a_refusal_inside_the_chapter_is_one_sentence_too(tmp_path):
    done = facecp("run", "00", "--profile", "smoke", "--param", "early=80%", store=tmp_path)
    assert done.returncode == 2 and "must come before the late one" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_the_main_job_prints_one_json_object(tmp_path):
    done = facecp("run", "--profile", "smoke", "--json", "--out", str(tmp_path / "out"), store=tmp_path / "store")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [r["condition"] for r in said["rows"]] == ["full", "mouth", "early", "late", "untrained+late", "late+equal-clean", "late+kd+at"]
    for row in said["rows"]:
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1 and row["seeds"] == [0, 1] and row["seconds"] > 0 and row["epochs"] > 0 and row["rearing"]
    assert {"notebook", "table", "figure"} <= set(said["paths"]) and all(Path(p).exists() for p in said["paths"].values())
    again = facecp("run", "--profile", "smoke", "--json", "--out", str(tmp_path / "out"), store=tmp_path / "store")
    assert json.loads(again.stdout)["rows"] == said["rows"], "a second run reads the store"
