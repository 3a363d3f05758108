"Runs are named by content: what changes a result changes the name, what does not leaves it; nothing stale is served"
import ast
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from facecp_nb import core, foveation, recovery, study
from facecp_nb.core import ConfigError, StoreError
from facecp_nb.study import store, tables, trainer
from facecp_nb.training import Checkpoint
from repository import PACKAGE
from safetensors.torch import load_file

SMALL = dict(people=4, images=14, size=24, epochs=2)

@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    "A store of the test's own."
    monkeypatch.setenv("FACECP_HOME", str(tmp_path / "runs"))
    return tmp_path / "runs"

def small(**changes): return study.Config(**(SMALL | changes))


# --- code ------------------------------------------------------------------------------------------------------------

ENTRIES = dict(run="facecp_nb.study.trainer", scores="facecp_nb.study.scoring", view="facecp_nb.foveation.view")
OUTSIDE = ("plots/charts.py", "study/plans.py", "study/tables.py", "people/draw.py", "people/light.py", "cli.py")

@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code") / "facecp_nb"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder

def with_another_literal(text):
    "The source with the first number or string of its code, docstrings apart, changed."
    tree = ast.parse(text)
    docs = {id(n.body[0].value) for n in ast.walk(tree) if getattr(n, "body", None) and isinstance(n.body, list)
            and isinstance(n.body[0], ast.Expr) and isinstance(n.body[0].value, ast.Constant)}
    class Change(ast.NodeTransformer):
        done = False
        def visit_Constant(self, node):
            if self.done or id(node) in docs or not isinstance(node.value, (int, float, str)): return node
            self.done = True
            return ast.copy_location(ast.Constant("another"), node)
    return ast.unparse(Change().visit(tree))

def digest_after_change(copy, entry, path):
    "The digest of `entry`'s code when one literal of `path` is another."
    file, before = copy / path, (copy / path).read_text()
    try:
        file.write_text(with_another_literal(before))
        core.code_of.cache_clear()
        return core.code_of(entry, copy)
    finally: file.write_text(before)

@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_a_literal_in_any_reachable_module_moves_the_name(copy, entry):
    core.code_of.cache_clear()
    before, reached = core.code_of(entry, copy), core.reachable(entry, copy)
    assert len(reached) >= 1
    for path in reached: assert digest_after_change(copy, entry, path) != before, path

@pytest.mark.parametrize("path", OUTSIDE)
def test_a_literal_elsewhere_leaves_the_names(copy, path):
    for entry in ENTRIES.values():
        core.code_of.cache_clear()
        assert digest_after_change(copy, entry, path) == core.code_of(entry, PACKAGE), (entry, path)

def test_the_trainer_is_part_of_its_own_name():
    assert {Path("study/trainer.py"), Path("training/rates.py"), Path("recovery/distill.py"),
            Path("recovery/plasticity.py"), Path("models/backbones.py")} <= set(core.reachable(ENTRIES["run"]))
    assert Path("study/scoring.py") not in core.reachable(ENTRIES["run"])


# --- content ---------------------------------------------------------------------------------------------------------

def test_a_redefined_view_is_trained_on_its_new_pixels():
    foveation.add_view("corner", lambda landmarks, shift: landmarks[:, 3:4])
    config = small(rearing="corner")
    first, pixels = study.run(config), study.view_tensor(config, "corner", "train").clone()
    foveation.add_view("corner", lambda landmarks, shift: landmarks[:, 1:2])
    second = study.run(config)
    assert first.key[0] != second.key[0]
    assert not torch.equal(pixels, study.view_tensor(config, "corner", "train"))
    assert study.history(config).train_loss.tolist() != store._read(study.folder(config).parent / first.key[0] / "history.parquet").train_loss.tolist()

def test_a_folder_that_changed_is_opened_again(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("one")
    before = store._stamp(str(tmp_path))
    (tmp_path / "a" / "x.txt").write_text("three")
    assert store._stamp(str(tmp_path)) != before

def test_a_change_of_scoring_scores_again_and_trains_nothing(monkeypatch):
    config = small()
    study.run(config)
    one = study.scores(config)
    monkeypatch.setattr(store, "code_of", lambda entry: "new" if entry.endswith("scoring") else core.code_of(entry))
    monkeypatch.setattr(store, "train", lambda *a, **k: pytest.fail("trained again"))
    assert study.scores(config).equals(one)
    assert len(list(study.folder(config).glob("scores-*.parquet"))) == 2

def test_a_view_that_is_asked_for_is_scored_and_nothing_is_trained(monkeypatch):
    config = small()
    study.run(config)
    monkeypatch.setattr(store, "train", lambda *a, **k: pytest.fail("trained again"))
    usual, more = study.scores(config), study.scores(config, ["upper", "full", "lower"])
    assert more[: len(usual)].equals(usual) and list(more["view"].unique()) == [*usual["view"].unique(), "upper", "lower"]
    assert more.columns.equals(usual.columns) and (more.groupby("view").size() == len(usual) / usual["view"].nunique()).all()
    assert "upper" not in " ".join(study.run(config).columns)
    halves = study.tested(study.plan({"one": config}, [config.seed]), "one", "lower")
    assert halves.correct.tolist() == more[more["view"] == "lower"].correct.tolist()
    with pytest.raises(core.ConfigError, match="view"): study.scores(config, ["chin"])

def test_a_run_of_another_class_of_device_is_served_and_not_trained_again(monkeypatch):
    config = small()
    made = study.key(config, "cuda")
    study.run(config)
    os.rename(study.folder(config), study.folder(config).parent / made)
    monkeypatch.setattr(store, "train", lambda *a, **k: pytest.fail("trained again"))
    assert study.run(config).accuracy_full.notna().all()

def test_a_teacher_has_first_weights_of_its_own():
    config = small(rearing="mouth:1 > full", recovery="kd")
    assert config.leans()["teacher"].seed != config.seed
    assert small(rearing="mouth:1 > full", recovery="kd", teacher_seed=7).leans()["teacher"].seed == 7
    assert study.key(config) != study.key(replace(config, teacher_seed=7))

def test_rates_are_one_where_the_schedule_looks_at_nothing():
    assert study.key(small(rearing="mouth:1 > full", rates="replayed:mouth")) == study.key(small(rearing="mouth:1 > full"))
    published = study.PUBLISHED
    assert study.key(small(rearing="mouth:1 > full", rates="replayed:mouth", **published)) != study.key(
        small(rearing="mouth:1 > full", **published))


# --- what is kept ----------------------------------------------------------------------------------------------------

def test_a_finished_run_keeps_its_scored_weights_and_declared_states_only():
    config = small(rearing="mouth:1 > full")
    study.run(config)
    kept = {p.name for p in study.folder(config.base()).glob("*.safetensors")}
    assert kept == {"weights.safetensors", "age0001.safetensors"}
    assert {p.name for p in study.folder(config).glob("*.safetensors")} == {"weights.safetensors"}

def test_collect_deletes_what_is_damaged_and_leaves_the_rest():
    good, bad = small(), small(seed=1)
    for config in (good, bad): study.run(config)
    (study.folder(bad) / "facts.parquet").write_bytes(b"no table")
    gone = study.collect()
    assert gone.key.tolist() == [study.key(bad)] and not study.folder(bad).exists() and study.is_done(good)

def test_lack_of_disk_is_told_before_training(monkeypatch):
    monkeypatch.setattr(core.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(StoreError, match="GB free"): study.run(small())
    assert not list(core.home().glob("*/history.parquet"))

def of(model, part): return [model.get_submodule(name).state_dict() for name in recovery.parts_of(model)[part]]

def equal(a, b): return all(torch.equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)

def test_a_regrown_state_is_not_reset_a_second_time():
    config = small(rearing="mouth:1 > full", epochs=4, reset="head")
    study.run(config, keep=[2, 3])
    kept = load_file(study.state_at(config, 3))
    Checkpoint.at(study.folder(config), 3).unlink()
    grown = load_file(study.state_at(config, 3))
    assert [k for k in kept if not torch.equal(kept[k], grown[k])] == []

def test_frozen_groups_keep_what_the_base_had():
    config = small(rearing="mouth:1 > full", frozen=2, average=0.)
    after = study.load_model(config).cpu()
    state = Checkpoint.read(study.state_at(config.base(), 1))[1]["model"]
    before = store._network(config)
    before.load_state_dict(state)
    assert [equal(of(after, p), of(before, p)) for p in recovery.parts_of(after)] == [True, True, False, False, False]

def test_a_mixture_trains_on_both_views_and_scores_each():
    mixed, full = small(rearing="mouth:1 > full|eyes"), small(rearing="mouth:1 > full")
    assert store.trained_views(mixed) == ["mouth", "full", "eyes"] and study.key(mixed) != study.key(full)
    assert study.history(mixed).view.tolist() == ["mouth", "full|eyes"]
    assert set(study.scores(mixed).view) == set(study.scores(full).view)

def test_relabelled_faces_teach_other_names_and_leave_validation_alone():
    config = small(rearing="relabelled", epochs=1)
    material = store._material(config)
    loaders = [trainer._loader(config, material, split) for split in ("train", "validation")]
    for loader in loaders: loader.set("relabelled", 0)
    (_, taught), (_, tested) = (loader._shown() for loader in loaders)
    true = material.labels["train"]
    assert torch.equal(taught.bincount(), true.bincount()) and (taught != true).float().mean() > .4
    assert torch.equal(tested, material.labels["validation"])
    assert torch.equal(taught, trainer.relabel(true, config.seed))
    assert study.key(config) != study.key(small(epochs=1))
    assert set(study.scores(config).view) == set(study.SCORED_VIEWS)

def test_momentum_is_dropped_without_restarting_a_schedule_that_follows_results():
    late = dict(study.PUBLISHED, rearing="mouth:8 > full", epochs=10)  # no patience left: the rate has fallen by then
    kept, dropped = (study.history(small(**late, reset=reset)) for reset in ("none", "momentum"))
    assert kept.rate.tolist() == dropped.rate.tolist() and kept.train_loss[9] != dropped.train_loss[9]

def test_a_changed_onset_is_refused_where_there_is_none():
    past = dict(rearing="mouth:1 > full")
    wrong = {"no past": [dict(frozen=1), dict(reset="head"), dict(towards_birth=.1),
                         dict(rearing="none:1 > full", reset="all")],
             "restart": [dict(after_rate=.5), past | dict(after_rate=.5),
                         past | dict(reset="momentum", rates="restarted")],
             "batch norm": [past | dict(reset="statistics", arch="vgg16", size=32)],
             "4": [past | dict(frozen=5)], "shrink": [past | dict(reset="tail")], "'mouht'": [dict(rearing="full|mouht")]}
    for said, settings in wrong.items():
        for changes in settings:
            with pytest.raises(ConfigError, match=said): small(**changes)

def test_settings_that_make_no_sense():
    with pytest.raises(ConfigError, match="one phase"): small(rates="each-phase")
    with pytest.raises(ConfigError, match="average"): small(average=1.)
    with pytest.raises(ConfigError, match="whole number"): small(teacher_seed=-1)
    assert small(threads=64).threads == 64  # the limit of a record is not that of this machine


# --- many runs -------------------------------------------------------------------------------------------------------

def plan_of_two(): return study.plan({"late": small(rearing="mouth:1 > full"), "full": small()}, [0, 1])

def test_processes_make_the_runs_that_one_process_makes(monkeypatch, tmp_path):
    study.fill(plan_of_two(), workers=2)
    here = study.grid(plan_of_two())
    monkeypatch.setenv("FACECP_HOME", str(tmp_path / "again"))
    there = study.grid(plan_of_two(), workers=1)
    assert here.key.tolist() == there.key.tolist() and here.accuracy_full.tolist() == there.accuracy_full.tolist()

@pytest.mark.slow
def test_a_dask_cluster_makes_the_runs():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
                                  dashboard_address=None, security=True) as cluster, cluster.get_client() as client:
        rows = study.grid(plan_of_two(), client=client)
    assert len(rows) == 4 and rows.accuracy_full.between(0, 1).all()

@pytest.mark.slow
def test_a_worker_killed_in_the_middle_loses_nothing(monkeypatch, tmp_path):
    distributed = pytest.importorskip("distributed")
    asked = study.plan({"full": small(epochs=40)}, [0])
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, host="127.0.0.1",
                                  dashboard_address=None, security=True) as cluster, cluster.get_client() as client:
        began = study.folder(asked.config[0]) / "last.safetensors"
        killer = threading.Thread(target=_kill_when, args=(began, cluster))
        killer.start()
        rows = study.grid(asked, client=client)
        killer.join()
    monkeypatch.setenv("FACECP_HOME", str(tmp_path / "whole"))
    pd.testing.assert_frame_equal(_without_times(rows), _without_times(study.grid(asked)))

def _kill_when(path, cluster):
    "Kill the cluster's only worker as soon as a checkpoint lies at `path`; its nanny starts another."
    while not path.exists(): time.sleep(.01)
    os.kill(next(iter(cluster.workers.values())).process.pid, signal.SIGKILL)

def _without_times(rows): return rows.drop(columns=[c for c in rows if "seconds" in c])

def test_a_budget_begins_nothing_after_it_and_the_rest_is_counted():
    assert study.fill(plan_of_two(), budget=0) == 6 and not len(study.filled(plan_of_two()))
    assert study.fill(plan_of_two()) == 0 and len(study.filled(plan_of_two())) == 4

def test_a_study_takes_other_seeds():
    asked = study.STUDIES["plane"]("smoke")
    more = study.with_seeds(asked, [7, 8, 9])
    assert more.seed.tolist()[:3] == [7, 8, 9] and [c.seed for c in more.config] == more.seed.tolist()
    assert more.condition.unique().tolist() == asked.condition.unique().tolist() and "length" in more

def test_a_change_at_the_onset_names_a_run_and_the_default_names_none():
    late = small(rearing="mouth:1 > full")
    changed = [replace(late, frozen=1), replace(late, reset="head"), replace(late, towards_birth=.1),
               replace(late, rates="restarted", after_rate=.5)]
    assert len({study.key(c) for c in [late, *changed]}) == 5
    assert not {"frozen", "reset", "towards_birth", "after_rate"} & set(late.canonical())
    assert all(c.base().canonical() == late.base().canonical() for c in changed)

def test_a_run_that_would_not_end_in_time_is_not_begun(monkeypatch):
    clock = tables._Clock(10)
    clock.ended(2, time.monotonic() - 8)  # four seconds an epoch
    assert clock.allows(2) and not clock.allows(3)
    long, short = small(epochs=3), small(epochs=2)
    begun = []
    monkeypatch.setattr(tables, "run", lambda config, **_: begun.append(config))
    needs_long = small(rearing="full:1 > mouth", epochs=3)
    assert tables._one_by_one([long, short, needs_long], {}, None, clock) == [long, needs_long] and begun == [short]

def test_what_a_plan_needs_is_trained_once_and_first():
    order, keep = tables.needed_runs(plan_of_two().config)
    assert len(order) == len(set(order)) == 6
    assert all(order.index(n) < order.index(c) for c in order for n in c.leans().values())
    assert set(map(frozenset, keep.values())) == {frozenset({1})}

def test_chapter_04_trains_in_ten_minutes_after_chapter_00(monkeypatch):
    "Its text says how many epochs; at .4 seconds an epoch on two cores, 1,500 are ten minutes."
    monkeypatch.delenv("IN_TEST", raising=False)
    there = set(tables.needed_runs(study.STUDIES["whole-story"]("quick").config)[0])
    names = ("onset-curve", "deficit-windows", "constant-windows", "order-test")
    asked = pd.concat([study.STUDIES[name]("quick") for name in names])
    assert sum(tables.own_epochs(c) for c in tables.needed_runs(asked.config)[0] if c not in there) == 1452


# --- rows that ship --------------------------------------------------------------------------------------------------

STORED = [(n, p) for n in study.STUDIES for p in core.PROFILES if len(study.shipped_rows(n, p))]

@pytest.mark.parametrize("name, profile", STORED)
def test_every_stored_row_belongs_to_its_configuration_and_faces(name, profile, monkeypatch):
    monkeypatch.delenv("IN_TEST", raising=False)
    rows = study.shipped_rows(name, profile)
    assert study.strangers(rows) == []
    assert rows.code.nunique() == 1

@pytest.mark.parametrize("name", study.MEASURED)
def test_every_measured_file_is_about_the_networks_of_today(name, monkeypatch):
    monkeypatch.delenv("IN_TEST", raising=False)
    rows = study.measured_rows(name)
    assert study.belongs(name)
    assert (rows.code.str.fullmatch("[0-9a-f]{16}") & rows.torch.notna() & rows.date.notna()).all()

def test_a_measured_file_about_other_networks_is_noticed(monkeypatch):
    monkeypatch.setattr("facecp_nb.study.remeasure.measured_rows",
                        lambda name: study.measured_rows(name).assign(configuration=study.made_of("units")))
    assert study.belongs("units") and not study.belongs("looks")

@pytest.mark.parametrize("name, profile", STORED)
def test_every_contrast_of_a_stored_study_is_stored(name, profile, monkeypatch):
    monkeypatch.delenv("IN_TEST", raising=False)
    asked = study.contrasts(name, study.STUDIES[name](profile))
    stored = study.shipped_contrasts(name, profile)
    assert {(f, a, b) for f, pairs in asked.items() for a, b in pairs} == (
        set(stored[["family", "a", "b"]].itertuples(index=False, name=None)) if len(stored) else set())

def test_quoted_numbers_are_held_to_the_stored_rows(monkeypatch):
    rows = pd.DataFrame(dict(study="whole-story", profile="quick", condition=["full"], accuracy=[.876], low=[.8], high=[.9]))
    monkeypatch.setattr(study.shipped_rows.__globals__["pd"], "read_parquet", lambda path: rows)
    assert study.quote("whole-story", {"full": 88}).stored.tolist() == [87.6]
    with pytest.raises(AssertionError, match="says 87"): study.quote("whole-story", {"full": 87})

def test_a_quoted_number_of_a_matrix_names_its_test_pictures(monkeypatch):
    rows = pd.DataFrame(dict(study="reared-views", profile="quick", condition="mouth", tested=["full", "mouth"],
                             accuracy=[.6, .8]))
    monkeypatch.setattr(study.shipped_rows.__globals__["pd"], "read_parquet", lambda path: rows)
    assert study.quote("reared-views", {"mouth": 60}).stored.tolist() == [60]
    assert study.quote("reared-views", {"mouth": 80}, view="mouth").stored.tolist() == [80]
    with pytest.raises(AssertionError, match="says 80"): study.quote("reared-views", {"mouth": 80})


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_every_study_can_be_planned(profile, monkeypatch):
    "No configuration of a study is refused at any profile, as `scale` once was at full."
    monkeypatch.delenv("IN_TEST", raising=False)
    for name, of in study.STUDIES.items(): assert len(of(profile)), name
