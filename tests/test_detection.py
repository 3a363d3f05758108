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

from facecp_nb import detection
from facecp_nb.core import ConfigError

FACE = np.array([[20, 15, 140, 150, .99, 55, 60, 105, 60, 80, 90, 60, 120, 100, 120]])  # box, p, five points


def fill(folder, people=3, images=6, start=0):
    "Small pictures that differ in every file: person p, image k."
    for p in range(people):
        (folder / f"p{p}").mkdir(parents=True, exist_ok=True)
        for k in range(start, start + images):
            Image.new("RGB", (160, 160), (p * 20 + 1, k * 5, 100)).save(folder / f"p{p}" / f"{k}.png")
    return folder


@pytest.fixture
def seen(monkeypatch, store):
    "Replace MTCNN: a picture has one face unless its green is 250. Collects how many pictures it was shown."
    shown = []

    def find(images, min_face=40):
        shown.append(len(images))
        return [FACE[:0] if image[0, 0, 1] == 250 else FACE for image in images]
    monkeypatch.setattr(detection, "find_faces", find)
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

    def third_fails(images, min_face=40):
        calls.append(1)
        if len(calls) == 3: raise KeyboardInterrupt
        return find(images, min_face)
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
from facecp_nb import detection
from test_detection import FACE
detection.CHUNK = 4
def find(images, min_face=40): time.sleep(.05); return [FACE] * len(images)
detection.find_faces = find
detection.code_hash = lambda modules: "fixed"
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
    monkeypatch.setattr(detection, "find_faces", lambda images, min_face=40: [FACE] * len(images))
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
    (dict(probability=1.5), "probability is 1.5"), (dict(probability="high"), "'high'"), (dict(min_face=True), "min_face is True"), (dict(held_out=9), "held_out is 9")])
def test_settings_that_cannot_be(tmp_path, seen, settings, words):
    with pytest.raises(ConfigError, match=words): detection.from_folder(fill(tmp_path / "f"), **settings)


@pytest.mark.parametrize("source", ["renderd", "", "no/such/folder", "a-file"])
def test_open_faces_says_what_it_takes(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("x")
    with pytest.raises(ConfigError, match="neither the word 'rendered' nor a folder"): detection.open_faces(source)


def test_open_faces_reads_a_folder_relative_to_the_caller(tmp_path, seen, monkeypatch):
    fill(tmp_path / "f")
    monkeypatch.chdir(tmp_path)
    faces = detection.open_faces("f")
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


def test_a_batch_that_fails_is_asked_picture_by_picture(monkeypatch):
    class Fragile:
        def detect(self, images, landmarks):
            if (images == 13).any(): raise RuntimeError("degenerate box")
            n = len(images)
            return [FACE[:, :4]] * n, [FACE[:, 4]] * n, [FACE[:, 5:].reshape(1, 5, 2)] * n
    monkeypatch.setattr(detection, "_detector", lambda *a: Fragile())
    images = np.zeros((3, 8, 8, 3), np.uint8)
    images[1] = 13
    found = detection.find_faces(images)
    assert found[1] is None and all(np.array_equal(found[i], FACE) for i in (0, 2))
    assert detection.judge(found[1])["reason"] == "the detector failed on this picture"


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
