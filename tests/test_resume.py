"Real processes, really killed: what they leave behind is taken up and ends in the same bits."
import multiprocessing as mp
import os
import random
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("facecp_nb.study")
pytestmark = pytest.mark.slow
SETTINGS = dict(people=4, images=20, size=24, epochs=6, batch=8, threads=1, seed=3)
STEPS = 6  # 4 people x 12 training pictures in batches of 8


def _child(home, rearing, changes, die_at_save=None):
    "Run one configuration in this process, noting every step; optionally die in the middle of writing a checkpoint."
    os.environ["FACECP_HOME"] = str(home)
    from facecp_nb import study
    from facecp_nb.training import checkpoint

    noted = os.open(Path(home) / "steps.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    after_batch, saves = checkpoint.Checkpoint.after_batch, [0]

    def note(self):
        if self.learn.training: os.write(noted, f"{self.learn.age * STEPS + self.steps_done} {self.folder.name}\n".encode())
        after_batch(self)

    def torn(tensors, path, metadata=None):
        saves[0] += 1
        if saves[0] == die_at_save:
            Path(path).write_bytes(b"half a checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(tensors, path, metadata=metadata)

    # a write at every half epoch, however short: what is tested is the state, not when it is written
    checkpoint.PATIENCE = 0
    whole, checkpoint.save_file, checkpoint.Checkpoint.after_batch = checkpoint.save_file, torn, note
    study.run(study.Config(rearing, **SETTINGS, **changes), keep=[SETTINGS["epochs"]])


@pytest.fixture(scope="module")
def processes():
    "Children are forked from a server that has imported everything and computed nothing."
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["facecp_nb.study"])
    return context


def _steps(home):
    noted = Path(home) / "steps.txt"
    return noted.read_text().splitlines() if noted.exists() else []


def _run(processes, home, *args, kill=None, **kwargs):
    """Run a child to its end; or, given (steps, seconds), kill it so many seconds after it took so many steps.

    True if it ended by itself and well."""
    child = processes.Process(target=_child, args=(home, *args), kwargs=kwargs)
    before = len(_steps(home))
    child.start()
    while kill and child.is_alive() and len(_steps(home)) - before < kill[0]: time.sleep(.001)
    if kill:
        time.sleep(kill[1])
        child.kill()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode == 0


def _same(home, other, rearing, changes):
    "Weights, history (but for seconds), scores and distillation terms of the run are equal in both stores."
    from facecp_nb import study

    name = study.key(study.Config(rearing, **SETTINGS, **changes))
    a, b = Path(home) / name, Path(other) / name
    for file in ("weights.safetensors", f"age{SETTINGS['epochs']:04d}.safetensors"):
        one, two = load_file(a / file), load_file(b / file)
        assert one.keys() == two.keys() and len(one) > 20
        different = [k for k in one if "cuda" not in k and not torch.equal(one[k], two[k])]
        assert different == [], "weights, averages, momentum or generator states differ"
    tables = [p.name for p in a.glob("*.parquet") if p.name != "facts.parquet"]
    assert len(tables) >= 2
    for table in tables:
        x, y = (pd.read_parquet(f / table).drop(columns="seconds", errors="ignore") for f in (a, b))
        pd.testing.assert_frame_equal(x, y, check_exact=True)


def _repeats(home):
    "For each time a run was taken up again: how many steps were done twice."
    lines = [line.split() for line in _steps(home)]
    out = []
    for run in {name for _, name in lines}:
        steps = [int(s) for s, name in lines if name == run]
        out += [before - after + 1 for before, after in zip(steps, steps[1:]) if after <= before]
    return out


ARMS = [("mouth", {}), ("mouth:50% > full", dict(rates="replayed:mouth", recovery="kd+at", beta=100.)),
        ("relabelled:50% > full|eyes", dict(rates="restarted", after_rate=.5, reset="shrink", frozen=1, towards_birth=.01))]


@pytest.mark.parametrize("rearing,changes", ARMS, ids=["rearing", "distillation", "changes at the onset"])
def test_killed_at_random_moments(tmp_path, processes, rearing, changes):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed): folder.mkdir()
    assert _run(processes, whole, rearing, changes)
    seed = time.time_ns()
    dice = random.Random(seed)
    moments = [(dice.randint(1, 15), dice.uniform(0, .03)) for _ in range(5)]
    kills = [not _run(processes, killed, rearing, changes, kill=moment) for moment in moments]
    assert any(kills), "no child was killed"
    assert _run(processes, killed, rearing, changes)
    _same(whole, killed, rearing, changes)
    repeated = _repeats(killed)
    assert all(0 < n < STEPS for n in repeated), f"seed {seed}: {repeated} steps repeated, an epoch has {STEPS}"


@pytest.mark.parametrize("save", [1, 2, 5])
def test_killed_while_writing_a_checkpoint(tmp_path, processes, save):
    for name in ("whole", "killed"): (tmp_path / name).mkdir()
    assert _run(processes, tmp_path / "whole", "mouth", {})
    assert not _run(processes, tmp_path / "killed", "mouth", {}, die_at_save=save)
    assert _run(processes, tmp_path / "killed", "mouth", {})
    _same(tmp_path / "whole", tmp_path / "killed", "mouth", {})
    assert all(0 < n < STEPS for n in _repeats(tmp_path / "killed"))


def test_killed_after_a_reset_while_the_rates_go_on(tmp_path, processes):
    "Some weights have momentum from the past, the new ones none, the frozen ones never."
    test_killed_at_random_moments(tmp_path, processes, "relabelled:50% > full", dict(reset="head+group4", frozen=1))
