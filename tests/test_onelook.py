"Scenes, slots and boxes against a referee, and `facecp find` on folders that misbehave"
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from facecp_nb import evaluation, models, study
from facecp_nb.core import BOX_COLUMNS, ConfigError, DataError
from facecp_nb.data import Cutouts, make_scenes, rendered
from PIL import Image
from torchvision.ops import box_iou


@pytest.fixture(scope="module")
def cut():
    return Cutouts(rendered().split("test").subset(range(0, 500, 12), rendered().split("test").people))


# --- average precision ----------------------------------------------------------------------------------------------

GRID = np.linspace(0, 1, 101).tolist()  # the default has float32 recalls, some above the share they stand for

def boxes_near(boxes, rng, noise):
    moved = boxes + torch.from_numpy(rng.normal(0, noise, tuple(boxes.shape))).float()
    return torch.cat([moved[:, :2], torch.maximum(moved[:, 2:], moved[:, :2] + 5)], 1)  # none turned inside out

@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_torchmetrics(seed):
    from torchmetrics.detection import MeanAveragePrecision
    rng = np.random.default_rng(seed)
    corner = torch.from_numpy(rng.uniform(0, 150, (40, 2))).float()
    true = torch.cat([corner, corner + torch.from_numpy(rng.uniform(20, 40, (40, 2))).float()], 1)
    scene, names = torch.from_numpy(rng.integers(0, 8, 40)), rng.choice(list("abc"), 40)
    found = torch.cat([boxes_near(true, rng, 4), boxes_near(true[:25], rng, 9)])
    where, said = torch.cat([scene, scene[:25]]), np.r_[names, rng.choice(list("abc"), 25)]
    p = torch.from_numpy(rng.random(len(found))).float()
    rows = pd.DataFrame(found.double().numpy(), columns=list(BOX_COLUMNS)).assign(
        scene=where.numpy(), p=p.double().numpy(), name=said)

    def referee(labels, wanted):
        metric = MeanAveragePrecision(iou_thresholds=[.5], backend="pycocotools", rec_thresholds=GRID)
        for k in range(8):
            mine, there = where == k, scene == k
            metric.update([dict(boxes=found[mine], scores=p[mine], labels=labels[mine])],
                          [dict(boxes=true[there], labels=wanted[there])])
        return metric.compute()["map"].item()
    one = lambda n: torch.zeros(n, dtype=torch.long)
    code = lambda names: torch.tensor([ord(n) for n in names])
    assert evaluation.average_precision(rows, true, scene) == pytest.approx(referee(one(65), one(40)), abs=1e-6)
    assert evaluation.mean_average_precision(rows, true, scene, names) == pytest.approx(
        referee(code(said), code(names)), abs=1e-6)


# --- scenes ----------------------------------------------------------------------------------------------------------

def test_faces_are_apart_and_inside(cut):
    some = make_scenes(cut, 20, seed=3)
    for k in range(20):
        boxes = some.boxes[some.scene == k]
        assert (boxes >= -1e-3).all() and (boxes <= 192 + 1e-3).all()
        overlap = box_iou(boxes, boxes) - torch.eye(len(boxes))
        assert overlap.max() < 1e-6
        assert len(set(some.labels[some.scene == k].tolist())) == len(boxes)
    inside = (some.points > some.boxes[:, None, :2] - 4).all() and (some.points < some.boxes[:, None, 2:] + 4).all()
    assert inside, "landmarks went astray when the head was scaled"

def test_a_seed_is_a_sequence(cut):
    a, b = make_scenes(cut, 4, seed=1), make_scenes(cut, 4, seed=2)
    assert not torch.equal(a.images, b.images)
    assert torch.equal(a.images[2:], make_scenes(cut, 2, seed=1, start=2).images)
    with pytest.raises(ConfigError): make_scenes(cut, 1, heights=(60, 20))
    with pytest.raises(ConfigError): make_scenes(cut, 1, size=64, heights=(20, 90))


# --- slots -----------------------------------------------------------------------------------------------------------

ANCHORS = torch.tensor(models.ANCHORS)

def slots_of(boxes, scene=None, shape=(1, 6, 6)):
    boxes = torch.tensor(boxes)
    scene = torch.zeros(len(boxes), dtype=torch.long) if scene is None else torch.tensor(scene)
    return models.assign_slots(boxes, scene, torch.arange(len(boxes)), ANCHORS, shape)

def test_a_middle_on_the_far_edge_has_a_cell():
    row, column = slots_of([[5., 5, 7, 7]]).slot[2:]
    assert (int(row), int(column)) == (5, 5)

def test_two_faces_in_one_slot():
    both = slots_of([[1., 1, 2.6, 3], [.9, 1, 2.7, 3.1]])
    assert both.labels.tolist() == [1], "the larger one stays"
    assert len(slots_of([[1., 1, 2.6, 3], [.9, 1, 2.7, 3.1]], [0, 1], (2, 6, 6)).labels) == 2

def test_decoding_undoes_assigning():
    boxes = torch.tensor([[1., 1, 2.6, 3.2], [3.1, 2, 6, 5.5]])
    target = slots_of(boxes.tolist())
    raw = torch.zeros(1, 3, 6, 6, 4)
    raw[target.slot] = torch.cat([target.offsets[:, :2].logit(), target.offsets[:, 2:]], 1)
    again = models.decode_boxes(raw, ANCHORS)[target.slot] / 16
    assert torch.allclose(again.sort(0).values, boxes.sort(0).values, atol=1e-4)

def test_boxes_without_area_are_refused():
    with pytest.raises(DataError, match="no area"): slots_of([[1., 1, 1, 3]])


# --- the command ----------------------------------------------------------------------------------------------------

@pytest.fixture
def facecp(monkeypatch, capfd, tmp_path):
    from facecp_nb import cli
    monkeypatch.setenv("FACECP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IN_TEST", "1")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["facecp", *map(str, words)])
        try: code = cli.main() or 0
        except SystemExit as e: code = e.code or 0
        return code, *capfd.readouterr()
    return call

@pytest.fixture
def folders(tmp_path, cut):
    "A gallery of two people, and pictures of which one is text and one holds nobody."
    some = make_scenes(cut, 2, count=(3, 3))
    for k, image in enumerate(some.images):
        (tmp_path / "data/in").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"data/in/{k}.png")
    Image.new("RGB", (90, 70)).save(tmp_path / "data/black.png")
    (tmp_path / "data/notes.jpg").write_text("no picture")
    for person in ("ann", "bo"):
        (tmp_path / "gallery" / person).mkdir(parents=True)
        one = make_scenes(cut, 2, seed=len(person), count=(1, 1), heights=(50, 64), among=[len(person)])
        for k, image in enumerate(one.images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"gallery/{person}/{k}.png")
    return tmp_path

class FakeEmbedder:
    cut = staticmethod(lambda images, boxes, points: torch.stack([i[:, :8, :8] for i in images]))
    net = staticmethod(lambda cuts: cuts.float().flatten(1))

def test_every_picture_gets_a_row(facecp, folders, monkeypatch):
    monkeypatch.setattr(study, "run_embedder", lambda key: FakeEmbedder())
    code, said, wrong = facecp("find", "--data", folders / "data", "--gallery", folders / "gallery", "--finder",
                               "two-steps", "--run", "x", "--threshold", ".999", "--out", folders / "out", "--json")
    assert code == 0, wrong
    told = json.loads(said)
    rows = pd.DataFrame(told["rows"])
    assert set(rows.file) == {"in/0.png", "in/1.png", "black.png", "notes.jpg"}
    assert rows.set_index("file").reason["black.png"] == "no face was found"
    assert "image" in rows.set_index("file").reason["notes.jpg"]
    assert ((rows.name != "") | (rows.reason != "")).all(), "who is not named has a reason"
    assert (rows.file.str.startswith("in/")).sum() >= 4
    assert Path(told["out"], "found.csv").is_file() and Path(told["out"], "in/0.png.png").is_file()

@pytest.mark.parametrize("words, why", [
    (["--data", "nowhere"], "not a folder"),
    (["--finder", "three"], "finder"),
    (["--finder", "two-steps"], "which network"),
    (["--run", "abc"], "two-steps"),
])
def test_refusals_are_one_sentence(facecp, folders, words, why):
    standard = ["--data", folders / "data", "--gallery", folders / "gallery"]
    code, said, wrong = facecp("find", *standard, *words)
    assert code == 2 and why in wrong and len(wrong.strip().splitlines()) == 1
