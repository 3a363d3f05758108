"The command line: quick to answer, strict about what it is asked, one sentence when it refuses"
import json
import subprocess
import sys
from pathlib import Path

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
    (["rear", "full", "--set", "epochs=1000000000000"], "from 1 to 10000"),
    (["run", "00", "--param", "seed=None"], "must be a int"),
    (["run", "00", "--profile", "smoke", "--out", "/proc/nowhere"], "cannot be written"),
    (["runs", "show", "*"], "facecp runs ls"),
    (["rear", "full", "--data", "no/such/folder"], "no/such/folder"),
    (["study", "onsets"], "onset-curve"),
    (["runs", "show", "zzzz"], "facecp runs ls"),
    (["faces", "--people", "0", "--out", "x"], "people is 0"),
    (["faces", "--size", "4", "--out", "x"], "size is 4"),
    (["faces", "--format", "zip", "--out", "x"], "parquet, folder"),
    (["faces", "--bands", "child, teenager", "--out", "x"], "child, adult, elder"),
])
def test_refusals_are_one_sentence_and_exit_2(words, says, facecp):
    code, out, err = facecp(*words)
    assert code == 2 and says in err and "Traceback" not in err and out == "", err


def test_a_refusal_inside_the_chapter_is_one_sentence_too(facecp):
    code, _, err = facecp("run", "00", "--profile", "smoke", "--param", "early=80%")
    assert code == 2 and "must come before the late one" in err and "Traceback" not in err, err


def test_the_main_job_prints_one_json_object(facecp, tmp_path):
    words = "run", "--profile", "smoke", "--json", "--out", str(tmp_path / "out")
    code, out, err = facecp(*words)
    assert code == 0, err
    said = json.loads(out)
    assert [r["condition"] for r in said["rows"]] == ["full", "mouth", "early", "late", "untrained+late", "late+equal-clean", "late+kd+at"]
    for row in said["rows"]:
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1 and row["seeds"] == [0, 1] and row["seconds"] > 0 and row["epochs"] > 0 and row["rearing"]
    assert {"notebook", "table", "figure"} <= set(said["paths"]) and all(Path(p).exists() for p in said["paths"].values())
    assert json.loads(facecp(*words)[1])["rows"] == said["rows"], "a second run reads the store"
