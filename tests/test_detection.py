"From a folder to faces: rounds, limits, the stored pieces, a kill in the middle, and MTCNN on a few real photographs."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from facecp_nb import data
from facecp_nb.core import BOX_COLUMNS, ConfigError, DataError, FaceCPError
from facecp_nb.data import detection

FACE = np.array([[20, 15, 140, 150, .99, 55, 60, 105, 60, 80, 90, 60, 120, 100, 120]])  # box, p, five points


def fill(folder, people=3, images=6, start=0):
    "Small pictures that differ in every file: person p, image k."
    for p in range(people):
        (folder / f"p{p}").mkdir(parents=True, exist_ok=True)
        for k in range(start, start + images):
            Image.new("RGB", (160, 160), (p * 20 + 1, k * 5, 100)).save(folder / f"p{p}" / f"{k}.png")
    return folder


class Always:
    "A detector that finds the same face in every picture."
    name = "always 1.0"

    def __init__(self, face=FACE): self.face = face
    def __call__(self, images): return [self.face] * len(images)


@pytest.fixture
def seen(monkeypatch, store):
    "Replace MTCNN: a picture has one face unless its green is 250. Collects how many pictures it was shown."
    shown = []

    def find(self, images):
        shown.append(len(images))
        return [FACE[:0] if image[0, 0, 1] == 250 else FACE for image in images]
    monkeypatch.setattr(detection.Mtcnn, "__call__", find)
    return shown


def test_a_second_call_looks_at_nothing_and_gives_the_same_set(tmp_path, seen):
    fill(tmp_path / "f")
    first = detection.from_folder(tmp_path / "f")
    assert sum(seen) == 18
    second = detection.from_folder(tmp_path / "f")
    assert sum(seen) == 18 and second.fingerprint == first.fingerprint
    pd.testing.assert_frame_equal(first.manifest, second.manifest)


def test_moving_the_folder_changes_nothing(tmp_path, seen):
    before = detection.from_folder(fill(tmp_path / "f")).fingerprint
    (tmp_path / "f").rename(tmp_path / "g")
    assert detection.from_folder(tmp_path / "g").fingerprint == before and sum(seen) == 18


@pytest.mark.parametrize("change", ["bytes", "name", "setting", "one more"])
def test_whatever_matters_is_looked_at_again(tmp_path, seen, change):
    folder = fill(tmp_path / "f")
    detection.from_folder(folder)
    settings = dict(min_face=50) if change == "setting" else {}
    if change == "bytes": Image.new("RGB", (160, 160), (9, 9, 9)).save(folder / "p0/0.png")
    if change == "name": (folder / "p0/0.png").rename(folder / "p0/x.png")
    if change == "one more": Image.new("RGB", (160, 160), (9, 9, 9)).save(folder / "p0/new.png")
    seen.clear()
    detection.from_folder(folder, **settings)
    assert sum(seen) >= 18


def test_files_that_are_dropped_are_replaced_up_to_the_limit(tmp_path, seen):
    folder = fill(tmp_path / "f", people=2, images=12)
    for k in range(12, 20): Image.new("RGB", (160, 160), (7, 250, k)).save(folder / "p0" / f"{k}.png")
    faces = detection.from_folder(folder, per_person=10)
    status = faces.manifest.groupby(["person", "status"]).size()
    assert status["p0", "kept"] == 10 and status["p1", "kept"] == 10
    over = faces.manifest["reason"] == "over the limit of 10 images a person"
    assert over[faces.manifest["person"] == "p1"].sum() == 2
    assert sum(seen) == 32 - over.sum()  # what is over the limit is never shown to the detector
    kept = faces.manifest.query("status == 'kept' and person == 'p1'")["rank"]
    assert kept.max() < faces.manifest[over & (faces.manifest["person"] == "p1")]["rank"].min()


def test_batches_and_pieces_do_not_change_the_result(tmp_path, seen, monkeypatch):
    folder = fill(tmp_path / "f", images=9)
    one = detection.from_folder(folder)
    monkeypatch.setattr(detection, "BATCH", 2)
    monkeypatch.setattr(detection, "CHUNK", 5)
    monkeypatch.setenv("FACECP_HOME", str(tmp_path / "other"))
    assert detection.from_folder(folder).fingerprint == one.fingerprint


def test_an_interrupted_run_repeats_no_finished_piece(tmp_path, seen, monkeypatch):
    folder = fill(tmp_path / "f", images=9)
    monkeypatch.setattr(detection, "CHUNK", 5)
    find, calls = detection.find_faces, []

    def third_fails(images, detector):
        calls.append(1)
        if len(calls) == 3: raise KeyboardInterrupt
        return find(images, detector)
    monkeypatch.setattr(detection, "find_faces", third_fails)
    with pytest.raises(KeyboardInterrupt): detection.from_folder(folder)
    assert sum(seen) == 10
    resumed = detection.from_folder(folder)
    assert sum(seen) == 27 and len(resumed) == 27
    assert not list((tmp_path / "store/detections").glob("*.parts"))


def test_a_damaged_store_is_made_again(tmp_path, seen):
    folder = fill(tmp_path / "f")
    before = detection.from_folder(folder).fingerprint
    stored, = (tmp_path / "store/detections").glob("*.parquet")
    stored.write_bytes(stored.read_bytes()[:-50])
    assert detection.from_folder(folder).fingerprint == before and sum(seen) == 36


CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
import numpy as np
from facecp_nb.data import detection
from test_detection import FACE
detection.CHUNK = 4
def find(self, images): time.sleep(.05); return [FACE] * len(images)
detection.Mtcnn.__call__ = find
print(detection.from_folder({folder!r}).fingerprint)
"""


def test_a_killed_run_is_taken_up_where_it_was(tmp_path, monkeypatch):
    folder = fill(tmp_path / "f", people=4, images=12)
    monkeypatch.delenv("IN_TEST", raising=False)

    def start(home): return subprocess.Popen([sys.executable, "-c", CHILD.format(tests=str(Path(__file__).parent), folder=str(folder))],
                                             env=os.environ | {"FACECP_HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    child = start(tmp_path / "a")
    for _ in range(1200):
        parts = list((tmp_path / "a").glob("detections/*.parts/*.parquet"))
        if len(parts) >= 3: break
        time.sleep(.05)
    child.send_signal(signal.SIGKILL); child.wait()
    assert 3 <= len(parts) < 12 and not list((tmp_path / "a").glob("detections/*.parquet"))
    written = {p: p.stat().st_mtime_ns for p in parts}
    again = start(tmp_path / "a")
    while again.poll() is None:
        assert all(p.stat().st_mtime_ns == t for p, t in written.items() if p.exists())
        time.sleep(.05)
    answer = again.communicate()[0].strip()
    monkeypatch.setattr(detection.Mtcnn, "__call__", lambda self, images: [FACE] * len(images))
    monkeypatch.setenv("FACECP_HOME", str(tmp_path / "b"))
    assert answer == detection.from_folder(folder).fingerprint


def test_two_processes_at_once_give_one_result(tmp_path, monkeypatch):
    folder = fill(tmp_path / "f", people=2, images=12)
    monkeypatch.delenv("IN_TEST", raising=False)
    code = CHILD.format(tests=str(Path(__file__).parent), folder=str(folder))
    both = [subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"FACECP_HOME": str(tmp_path / "a")}, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True) for _ in range(2)]
    answers = [p.communicate()[0].strip() for p in both]
    assert answers[0] and answers[0] == answers[1] and [p.returncode for p in both] == [0, 0]


@pytest.mark.parametrize("settings, words", [
    (dict(per_person=3), "per_person is 3"), (dict(min_images=2), "min_images is 2"), (dict(min_images=5.5), "whole number"),
    (dict(probability=1.5), "probability is 1.5"), (dict(probability="high"), "'high'"), (dict(min_face=True), "min_face is True"), (dict(held_out=9), "held_out .of 3 people. is 9"), (dict(detector=lambda images: []), "has no name")])
def test_settings_that_cannot_be(tmp_path, seen, settings, words):
    with pytest.raises(ConfigError, match=words): detection.from_folder(fill(tmp_path / "f"), **settings)


@pytest.mark.parametrize("source", ["renderd", "", "no/such/folder", "a-file"])
def test_open_faces_says_what_it_takes(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("x")
    with pytest.raises(ConfigError, match="neither the word 'rendered' nor a folder"): data.open_faces(source)


def test_open_faces_reads_a_folder_relative_to_the_caller(tmp_path, seen, monkeypatch):
    fill(tmp_path / "f")
    monkeypatch.chdir(tmp_path)
    faces = data.open_faces("f")
    monkeypatch.chdir("/")
    assert len(faces) == 18 and faces.read([0])[0].shape == (3, 160, 160)


def test_two_lists_of_one_folder_are_equal(tmp_path):
    fill(tmp_path / "f")
    pd.testing.assert_frame_equal(detection.list_files(tmp_path / "f"), detection.list_files(tmp_path / "f"))


def test_coordinates_come_back_in_pixels_of_the_file():
    row = dict(width=92, height=112)
    back = detection._to_original(row, FACE.astype(float), detection.working_size(92, 112))
    assert np.allclose(back[0, [0, 2]], FACE[0, [0, 2]] * 92 / 160) and back[0, 4] == .99
    assert np.allclose(back[0, 6::2], FACE[0, 6::2] * 112 / 195)


def fragile(error):
    "A detector that fails on a batch with a picture of value 13."
    def find(images):
        if (images == 13).any(): raise error
        return [FACE] * len(images)
    return find


def test_a_batch_that_fails_is_asked_picture_by_picture():
    images = np.zeros((3, 8, 8, 3), np.uint8)
    images[1] = 13
    found = detection.find_faces(images, fragile(RuntimeError("degenerate box")))
    assert found[1] is None and all(np.array_equal(found[i], FACE) for i in (0, 2))
    assert detection.assess(found[1])["reason"] == "the detector failed on this picture"


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("Tried to allocate 2 GiB"), torch.AcceleratorError("an illegal access was encountered", 700),
    RuntimeError("CUDA error: device-side assert triggered"), RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), RuntimeError("Expected all tensors to be on the same device")])
def test_what_the_machine_did_is_no_pictures_fault(tmp_path, store, error):
    "It ends the search in one sentence, and no manifest says that the pictures hold no face."
    detector = fragile(error)
    detector.name = "fragile"
    folder = fill(tmp_path / "f")
    Image.new("RGB", (160, 160), (13, 13, 13)).save(folder / "p1/x.png")
    with pytest.raises(FaceCPError, match="on the device 'cpu'.*FACECP_DEVICE=cpu"): detection.from_folder(folder, detector=detector)
    assert not list((tmp_path / "store").rglob("*.parquet"))


def test_a_wrong_setting_in_a_detector_is_not_a_pictures_fault():
    with pytest.raises(ConfigError, match="FACECP_DEVICE"): detection.find_faces(np.zeros((1, 8, 8, 3), np.uint8) + 13, fragile(ConfigError("FACECP_DEVICE is odd")))


@pytest.mark.parametrize("answers", [[], [FACE], [FACE[:, :14]] * 2, [FACE[0]] * 2])
def test_answers_of_another_shape_are_refused(answers):
    with pytest.raises(ConfigError, match=r"must give one a picture, \(faces, 15\)"):
        detection.find_faces(np.zeros((2, 8, 8, 3), np.uint8), lambda images: answers)


# ---------------------------------------------------------------- the box that is cut
def face(box, points=(50, 60, 120, 60, 85, 100, 55, 150, 115, 150), p=.99): return np.array([[*box, p, *points]], float)


POINTS = (50, 60, 120, 60, 85, 100, 55, 150, 115, 150)
RULE = {
    "inside": (face((10, 20, 150, 180)), [10, 20, 150, 180], ""),
    "over the edge": (face((-40, 20, 150, 200)), [-40, 20, 150, 200], ""),
    "tightly cropped": (face((-89.6, -231.7, 319.1, 291.2)), [0, 0, 168, 192], "box clipped to the picture, was [-89.6, -231.7, 319.1, 291.2]"),
    "just half": (face((-84, 0, 84, 192), points=[p / 2 for p in POINTS]), [-84, 0, 84, 192], ""),
    "less than half": (face((-85, 0, 84, 192), points=[p / 2 for p in POINTS]), [0, 0, 84, 192], "clipped"),
    "immense": (face((-1e12, -1e12, 1e12, 1e12)), [0, 0, 168, 192], "clipped"),
    "no nose": (face((10, 20, 150, 180), points=(50, 60, 120, 60, np.nan, np.nan, 55, 150, 115, 150)), [10, 20, 150, 180], "")}
REASONS = {
    "no area": (face((50, 50, 50, 90)), "has no area"), "turned": (face((90, 50, 50, 90)), "has no area"),
    "beside": (face((-90, 10, -5, 90)), "lies outside the picture"), "infinite": (face((0, 0, np.inf, 90)), "no finite number for box_x1"),
    "no mouth corner": (face((10, 20, 150, 180), points=(50, 60, 120, 60, 85, 100, np.nan, 150, 115, 150)), "no finite number for mouth_left_x"),
    "infinite nose": (face((10, 20, 150, 180), points=(50, 60, 120, 60, np.inf, 100, 55, 150, 115, 150)), "no finite number for nose_x"),
    "eye far away": (face((10, 20, 150, 180), points=(-1e30, 60, 120, 60, 85, 100, 55, 150, 115, 150)), "far outside"),
    "middle outside": (face((-120, 20, 100, 180), points=[-60, 60, 20, 60, -20, 90, -55, 150, 15, 150]), "middle of the face")}


class Scripted:
    "A detector that answers from a list, picture by picture; the picture's red level is its place in the list."
    name = "scripted"

    def __init__(self, faces): self.faces = faces
    def __call__(self, images): return [self.faces[i[0, 0, 0]] for i in images]


def pictures(folder, person, levels):
    "Grey PGM files of 168 x 192 pixels, one a level."
    (folder / person).mkdir(parents=True, exist_ok=True)
    for level in levels: Image.new("L", (168, 192), level).save(folder / person / f"{level}.pgm")


def test_one_bad_box_costs_one_row_and_never_the_run(tmp_path, store):
    "Every case of the rule among ordinary pictures; the set that is left is read, cut and seen whole."
    cases = [*RULE.values(), *REASONS.values()]
    ordinary = RULE["inside"][0]
    pictures(tmp_path / "f", "anna", range(len(cases)))
    pictures(tmp_path / "f", "boris", range(100, 106))
    faces = detection.from_folder(tmp_path / "f", detector=Scripted([c[0] for c in cases] + [ordinary] * 150))
    rows = faces.manifest.set_index("file")
    for level, (name, (_, box, note)) in enumerate(RULE.items()):
        row = rows.loc[f"anna/{level}.pgm"]
        assert (row["status"], row["reason"]) == ("kept", ""), name
        assert row[list(BOX_COLUMNS)].tolist() == box and note in row["notes"] and ("clipped" in row["notes"]) == bool(note), name
    for level, (name, (_, reason)) in enumerate(REASONS.items(), len(RULE)):
        row = rows.loc[f"anna/{level}.pgm"]
        assert row["status"] == "dropped" and reason in row["reason"], name
    assert len(faces) == len(RULE) + 6 and data.problems(faces.records) == []
    assert faces.crops(32).shape == (len(faces), 3, 32, 32)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_detector_says_the_set_that_is_left_can_be_cut(tmp_path, store, seed):
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(0, 5, (200, 1))
    wild = [face(rng.normal(80, s, 4), rng.normal(80, s / 10, 10)) for s in scale[:, 0]]
    for f in wild[::7]: f[0, rng.integers(15)] = rng.choice([np.nan, np.inf, -np.inf, 0])
    pictures(tmp_path / "f", "anna", range(100)); pictures(tmp_path / "f", "boris", range(100, 200))
    try: faces = detection.from_folder(tmp_path / "f", per_person=200, min_images=3, detector=Scripted(wild))
    except DataError as e: pytest.fail(str(e))
    assert 10 < len(faces) < 150 and faces.crops(16).shape[0] == len(faces) and len(faces.manifest) == 200


def test_the_detectors_name_is_a_part_of_what_is_stored(tmp_path, store):
    folder, other = fill(tmp_path / "f"), Always(FACE + .5)
    first = detection.from_folder(folder, detector=Always())
    assert torch.equal(detection.from_folder(folder, detector=other).boxes, first.boxes)  # same name: taken from the store
    other.name = "always 2.0"
    assert torch.equal(detection.from_folder(folder, detector=other).boxes, first.boxes + .5)


@pytest.mark.parametrize("value", [0, 127, 255])
def test_mtcnn_finds_nothing_in_a_flat_picture(value):
    found, = detection.find_faces(np.full((1, 160, 200, 3), value, np.uint8))
    assert found.shape == (0, 15)


# ---------------------------------------------------------------- real photographs
def sample(source, into, people, images):
    "Links to the first images of the people with the most; no name leaves this function."
    folders = sorted((d for d in source.iterdir() if d.is_dir()), key=lambda d: (-len(list(d.iterdir())), d.name))[:people]
    for i, folder in enumerate(folders):
        (into / f"{i}").mkdir(parents=True)
        for k, file in enumerate(sorted(folder.iterdir())[:images]): (into / f"{i}" / f"{k}{file.suffix}").symlink_to(file.resolve())
    return into


def check_anatomy(faces):
    "Eyes above nose above mouth, left before right, all within the box or nearly."
    points, boxes = faces.landmarks, faces.boxes
    assert torch.isfinite(points).all() and torch.isfinite(boxes).all()
    assert (points[:, 0, 0] < points[:, 1, 0]).all() and (points[:, 3, 0] < points[:, 4, 0]).all()
    assert (points[:, :2, 1].amax(1) < points[:, 3:, 1].amin(1)).all()
    spread = (boxes[:, 2:] - boxes[:, :2])[:, None]
    assert (((points - boxes[:, None, :2]) / spread > -.15) & ((points - boxes[:, None, :2]) / spread < 1.15)).all()


def test_photographs_of_lfw(shared, tmp_path, store):
    faces = detection.from_folder(sample(shared / "faces/lfw62", tmp_path / "f", 3, 8), min_images=3)
    assert len(faces.people) == 3 and len(faces) >= 18 and len(faces.manifest) == 24
    check_anatomy(faces)
    width = faces.boxes[:, 2] - faces.boxes[:, 0]
    assert ((width > 50) & (width < 180)).all()


def test_small_grey_pictures_of_orl(shared, tmp_path, store):
    faces = detection.from_folder(sample(shared / "faces/orl", tmp_path / "f", 3, 8), min_images=3)
    assert len(faces) >= 22
    check_anatomy(faces)
    assert faces.manifest.loc[faces.manifest["status"] == "kept", "notes"].str.startswith("enlarged 1.74 times").all()
    assert (faces.landmarks[..., 0] < 92).all() and (faces.landmarks[..., 1] < 112).all()


def test_a_batch_finds_what_single_pictures_find(shared, tmp_path):
    folder = sample(shared / "faces/lfw62", tmp_path / "f", 2, 6)
    images = np.stack([detection.open_image(f)[0] for f in sorted(folder.glob("*/*"))])
    together, alone = detection.find_faces(images), [detection.find_faces(i[None])[0] for i in images]
    for a, b in zip(together, alone):
        assert len(a) == len(b)
        np.testing.assert_allclose(a, b, atol=.02)
