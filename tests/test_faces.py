"The shipped people: the table is whole, a sample of it can be made again, and the rules that training relies on hold"
import io, subprocess, sys
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch
from execnb.shell import CaptureShell
from fastcore.xtras import working_directory
from PIL import Image
from scipy.spatial.distance import pdist

from facecp_nb import people as faces, people as who
from facecp_nb.people import head, sets
from facecp_nb.core import BOX_COLUMNS, LANDMARK_COLUMNS, ConfigError, DataError, shipped
from facecp_nb.data import assign_splits, problems
from repository import code, notebooks, read, source, tags

renders = pytest.mark.skipif(not faces.can_render(), reason="anny and warp are not installed (pip install 'facecp_nb[render]')")

@pytest.fixture(scope="module")
def table() -> pd.DataFrame: return pd.read_parquet(shipped("faces.parquet"))

def pixels(jpeg: bytes) -> np.ndarray: return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), dtype=float)

def test_shipped_set_is_whole(table):
    assert problems(table) == []
    assert table.groupby("person").size().tolist() == [40] * 60
    assert shipped("faces.parquet").stat().st_size < 12e6

def test_splits_follow_the_rule_of_data(table):
    assert (assign_splits(table.drop(columns="split"))["split"] == table["split"]).all()
    assert table["split"].value_counts().to_dict() == {"train": 1200, "test": 500, "verification": 400, "validation": 300}

def test_landmarks_lie_in_the_box(table):
    x, y = table[list(LANDMARK_COLUMNS[0::2])].to_numpy(), table[list(LANDMARK_COLUMNS[1::2])].to_numpy()
    x0, y0, x1, y1 = table[list(BOX_COLUMNS)].to_numpy().T[..., None]
    inside = (x > x0 - 2) & (x < x1 + 2) & (y > y0) & (y < y1)
    assert inside.mean() > .995
    assert (y[:, :2].mean(1) < y[:, 2]).all() and (y[:, 2] < y[:, 3:].mean(1)).all()

def test_nobody_is_told_by_hair_or_background(table):
    "Hair, clothes and background belong to the picture, not to the person."
    for column in ("hair_style", "background", "clothes"): assert table.groupby("person")[column].nunique().min() > 3

@renders
def test_a_sample_can_be_made_again(table):
    rows = table.iloc[[0, 37, 777, 1501, 2399]]
    for _, old in rows.iterrows():
        new = sets.records(int(old["person_index"]), size=int(old["width"]), seed=int(old["seed"]), images=[int(old["image_index"])]).iloc[0]
        assert new["image"] == old["image"]
        assert np.abs(pixels(new["jpeg"]) - pixels(old["jpeg"])).mean() <= 1
        for column in (*LANDMARK_COLUMNS, *BOX_COLUMNS): assert abs(new[column] - old[column]) <= .1, column

@renders
def test_parts_and_depth_agree_with_landmarks():
    made = faces.render(who.people(4), [who.Scene(blink=0.)] * 4, 128)
    for points, parts, depth in zip(made.landmarks.round().long(), made.parts, made.depth):
        eye, nose = points[0], points[2]
        assert faces.PARTS[parts[eye[1] - 1:eye[1] + 2, eye[0] - 1:eye[0] + 2].flatten().mode().values] == "eyes"
        assert faces.PARTS[parts[nose[1], nose[0]]] == "nose"
        assert depth[nose[1], nose[0]] < depth[eye[1], eye[0]]

@renders
def test_shipped_rows_are_made_again_with_their_truth(table):
    rows = table.iloc[[3, 1200, 2001]]
    again = sets.remake(rows)
    assert np.abs(again.landmarks.flatten(1).numpy() - rows[list(LANDMARK_COLUMNS)].to_numpy()).max() < .1
    for picture, jpeg in zip(again.images, rows["jpeg"]): assert np.abs(pixels(jpeg) - picture.permute(1, 2, 0).numpy()).mean() < 4  # what JPEG loses
    assert (sets.read_parts(rows) == again.parts).float().mean() > .999
    assert sets.remake(rows.iloc[:1], 200).images.shape == (1, 3, 200, 200)

def test_rows_without_factors_cannot_be_made_again(table):
    with pytest.raises(DataError, match="lacks 1 of them: yaw"): sets.remake(table.drop(columns="yaw"))
    with pytest.raises(DataError, match="no column depth_png"): sets.read_depth(table)

@renders
def test_silly_requests_are_refused():
    someone = who.people(1)
    for bad in (lambda: who.people(0), lambda: who.person(-1), lambda: faces.render(someone, [], 64), lambda: faces.render(someone, [who.Scene()], 4),
                lambda: faces.render(someone, [who.Scene(hair_style="mohawk")], 64), lambda: sets.make_set(3, held_out=3)):
        with pytest.raises(ConfigError): bad()

def test_without_the_renderer_a_sentence_helps(monkeypatch):
    monkeypatch.setattr(head, "can_render", lambda: False)
    with pytest.raises(DataError, match="pip install"): faces.render(who.people(1), [who.Scene()])

# --- surgery, time, truth --------------------------------------------------------------------------------------------

@renders
@pytest.mark.parametrize("region", who.REGIONS)
def test_twins_are_equal_outside_their_region(region):
    "Equal byte by byte beyond the region's reach; where a cast shadow crosses, by a few grey levels in a few pixels."
    for seed in (1, 5):
        pair = faces.render(who.twins(region, seed=seed), [who.Scene(yaw=10., blur=.5, noise=.01)] * 2, 128)
        difference = (pair.images[0].int() - pair.images[1].int()).abs().amax(0)
        reach = faces.reach(pair, region)
        assert reach.float().mean() < (.25 if region != "outline" else .6)
        assert (difference[reach] > 0).float().mean() > .05
        assert (difference[~reach] > 0).float().mean() < .01

@renders
def test_reach_says_no_more_than_the_window():
    "Different skin is different everywhere on the face: a region's reach does not cover it."
    pair = faces.render(who.twins("skin", seed=2), [who.Scene()] * 2, 96)
    changed = (pair.images[0] != pair.images[1]).any(0)
    assert (changed & ~faces.reach(pair, "mouth")).float().mean() > .05

def test_swaps_and_morphs_are_exact():
    a, b = who.people(2)
    assert who.swap(a, b, who.GROUPS).vector.tolist() == b.vector.tolist()
    assert who.swap(a, b, "eyes").mouth == a.mouth
    np.testing.assert_allclose(who.morph(a, b, .25).vector, .75 * a.vector + .25 * b.vector)
    with pytest.raises(ConfigError): who.swap(a, b, "chin")
    for years in (3, 91):
        with pytest.raises(ConfigError): who.at_age(a, years)

def test_people_are_apart():
    "No two of the first 2,000 people are nearer than half the usual distance, in all their numbers together."
    distance = pdist(np.stack([p.vector for p in who.people(2000)]))
    assert distance.min() > .5 * np.median(distance)

@renders
def test_children_have_larger_eyes_for_their_faces():
    someone = who.people(1)[0]
    made = faces.render([who.at_age(someone, y) for y in (6, 30)], [who.Scene()] * 2, 128)
    height = made.boxes[:, 3] - made.boxes[:, 1]
    share = (made.parts == faces.PARTS.index("eyes")).sum((1, 2)) / height ** 2
    assert share[0] > 1.1 * share[1]
    assert abs(height[0] / height[1] - 1) < .15  # framed alike

@renders
def test_points_agree_with_landmarks():
    made = faces.render(who.people(6), [who.scene(i, 0) for i in range(6)], 128)
    eyes = np.stack([made.points[:, 36:42].mean(1), made.points[:, 42:48].mean(1)], 1)
    assert np.linalg.norm(eyes - made.landmarks[:, :2].numpy(), axis=-1).max() < 3
    assert np.linalg.norm((made.points[:, [30, 48, 54]] - made.landmarks[:, 2:]).numpy(), axis=-1).max() < 4
    jaw = made.points[:, :17]
    assert (jaw[:, 8, 1] > made.landmarks[:, 3:, 1].amax(1)).all()

@renders
def test_glasses_and_masks_cover_what_they_should():
    someone = who.people(1)[0]
    scenes = [who.Scene(), *(who.Scene(glasses=g) for g in who.GLASSES[1:]), *(who.Scene(mask=m) for m in who.MASKS[1:])]
    made = faces.render([someone] * len(scenes), scenes, 128)
    for s, parts, points in zip(scenes, made.parts, made.landmarks.round().long()):
        assert bool((parts == faces.PARTS.index("glasses")).any()) == (s.glasses != "none")
        mouth = parts[points[3:, 1], points[3:, 0]]
        assert bool((mouth == faces.PARTS.index("mask")).all()) == (s.mask != "none")

@renders
def test_an_interrupted_set_goes_on(tmp_path, monkeypatch):
    path, made, real = tmp_path / "few.parquet", [], sets.records
    def until_the_second(index, **options):
        if index == 2: raise KeyboardInterrupt
        made.append(index)
        return real(index, **options)
    monkeypatch.setattr(sets, "records", until_the_second)
    with pytest.raises(KeyboardInterrupt): sets.make_set(3, per_person=2, size=32, out=path)
    assert not path.exists() and made == [0, 1]
    monkeypatch.setattr(sets, "records", lambda index, **options: made.append(index) or real(index, **options))
    table = sets.make_set(3, per_person=2, size=32, out=path)
    assert made == [0, 1, 2]
    assert problems(table) == [] and len(pd.read_parquet(path)) == 6
    assert [p.name for p in tmp_path.iterdir()] == ["few.parquet"]

@renders
def test_a_set_as_a_folder(tmp_path):
    sets.make_set(2, per_person=2, size=32, out=tmp_path / "set", format="folder")
    table = pd.read_parquet(tmp_path / "set" / "faces.parquet")
    assert problems(table) == [] and "jpeg" not in table
    assert all(Image.open(tmp_path / "set" / p).size == (32, 32) for p in table["path"])

@renders
def test_truth_lies_beside_the_pictures_of_a_folder(tmp_path):
    sets.make_set(2, per_person=2, size=32, truth=sets.TRUTHS, out=tmp_path, format="folder")
    table = pd.read_parquet(tmp_path / "faces.parquet")
    assert {"path", "parts", "depth"} <= set(table) and not {"jpeg", *sets.TRUTHS} & set(table)
    for column, mode in (("parts", "L"), ("depth", "I;16")):
        for path in table[column]: assert (image := Image.open(tmp_path / path)).size == (32, 32) and image.mode == mode

def test_realism_rows_are_aggregates_of_the_promised_checks():
    "Nothing of a single picture or person; the goals that the rows are there to show."
    rows = pd.read_parquet(shipped("realism.parquet"))
    assert list(rows) == ["check", "set", "factor", "level", "at", "quantity", "value", "low", "high", "n", "method"]
    assert set(rows["set"]) == {"rendered", "london", "lfw62", "250 pixels", "128 pixels", "all"} and shipped("realism.parquet").stat().st_size < 1e5
    assert set(rows["check"]) == {"distances", "verification", "conditions", "saturation", "transfer", "detector", "landmarks", "run"}
    assert set(rows.query("check == 'conditions'")["factor"]) == {"yaw", "light azimuth", "light elevation", "age gap"}
    assert {50, 2000} <= set(rows.query("check == 'saturation' and set == 'rendered'")["at"])
    assert (rows.query("check == 'detector' and level == 'all' and quantity == 'found'")["value"] >= .97).all()

def test_the_datasheet_says_what_is_stored(table):
    "Its numbers of people, columns and bytes, and those of the realism check, as the rows have them."
    text, rows = shipped("DATASHEET.md").read_text(), pd.read_parquet(shipped("realism.parquet"))
    assert f"{len(table):,} pictures, {table['person'].nunique()} made-up people x 40" in text and f"table of {shipped('faces.parquet').stat().st_size / 1e6:.1f} MB" in text
    assert f"every number of the scene ({len(fields(who.Scene))}) and of the person ({len(who.people(1)[0].vector)})" in text
    value = lambda **keys: rows[(rows[list(keys)] == list(keys.values())).all(axis=1)]["value"].item()
    auc = {s: value(check="verification", set=s, quantity="AUC") for s in ("rendered", "lfw62", "london")}
    assert "{rendered:.3f} for rendered people, {lfw62:.3f} and {london:.3f} for the photographs".format(**auc) in text
    rank = {level: f"{100 * value(check='conditions', level=level, quantity='rank-1'):.1f}" for level in ("0 to 10°", "20 to 30°", "30 to 45°", "60 to 80°", "20 years", "30 years", "40 years")}
    assert f"{rank['0 to 10°']} % of the pictures within 10 degrees of yaw, {rank['20 to 30°']} % at 20 to 30, {rank['30 to 45°']} % at 30 to 45; {rank['60 to 80°']} % with the lamp" in text
    assert f"{rank['20 years']}, {rank['30 years']} and {rank['40 years']} % after" in text
    found = [f"{100 * value(check='saturation', set='rendered', at=n):.1f}" for n in (50, 200, 800, 2000)]
    assert f"it is {found[0]}, {found[1]}, {found[2]} and {found[3]} %" in text
    reared, pixels, untrained = (value(check="transfer", factor="lfw62", quantity="AUC", level=way) for way in ("reared on rendered", "pixels", "untrained"))
    assert f"reaches an area of {reared:.3f} on pairs of `lfw62` (pixels {pixels:.3f}, itself untrained {untrained:.3f}, chance .5)".replace("0.", ".") in text

# --- what a careless caller does -------------------------------------------------------------------------------------

@renders
@pytest.mark.parametrize("factors, said", [
    (dict(yaw=float("nan")), "yaw of scene 0"), (dict(smile="much"), "smile of scene 0"), (dict(distance=0.), "at least 0.3 and at most 20"), (dict(blur=9.), "at least 0 and at most 1"),
    (dict(scale=-1.), "scale"), (dict(background=-1), "background"), (dict(noise=float("inf")), "noise"), (dict(exposure=None), "exposure")])
def test_scenes_out_of_range_are_named(factors, said):
    with pytest.raises(ConfigError, match=said): faces.render(who.people(1), [who.Scene(**factors)], 16)

@renders
def test_people_with_missing_numbers_are_named():
    someone = who.people(1)[0]
    for bad, said in ((replace(someone, age=500.), "age of p000"), (replace(someone, eyes=someone.eyes | {"gender": float("nan")}), "eyes.gender of p000"),
                      (replace(someone, skin={k: v for k, v in someone.skin.items() if k != "tone"}), "skin.tone of p000 is None")):
        with pytest.raises(ConfigError, match=said): faces.render([bad], [who.Scene()], 16)
    for call in (lambda: who.morph(someone, someone, float("nan")), lambda: who.person(0, -1), lambda: who.person(0, spread=float("inf")), lambda: who.scene(0, 0, -1),
                 lambda: faces.render([someone], [who.Scene()], 16, batch=0), lambda: faces.render([someone], [who.Scene()], 16.5), lambda: faces.sheet(torch.zeros(0, 3, 4, 4, dtype=torch.uint8))):
        with pytest.raises(ConfigError): call()

@renders
def test_a_set_deletes_only_what_it_made(tmp_path):
    parts = tmp_path / "q.parquet.parts"
    parts.mkdir()
    (parts / "mine.txt").write_text("mine")
    sets.make_set(2, per_person=1, size=16, out=tmp_path / "q.parquet")
    assert [p.name for p in parts.iterdir()] == ["mine.txt"] and len(pd.read_parquet(tmp_path / "q.parquet")) == 2

@renders
def test_a_damaged_part_is_made_again(tmp_path, monkeypatch):
    path, real = tmp_path / "q.parquet", sets.records
    def stop_at_the_second(index, **options):
        if index: raise KeyboardInterrupt
        return real(index, **options)
    monkeypatch.setattr(sets, "records", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt): sets.make_set(2, per_person=1, size=16, out=path)
    next((tmp_path / "q.parquet.parts").iterdir()).write_bytes(b"half a file")
    monkeypatch.setattr(sets, "records", real)
    assert len(sets.make_set(2, per_person=1, size=16, out=path)) == 2

def test_a_place_that_cannot_be_written_is_refused_before_drawing(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "_each", lambda *job: pytest.fail("something was drawn"))
    monkeypatch.setattr(sets, "need_renderer", lambda: None)
    (tmp_path / "file").write_text(""); (tmp_path / "old").mkdir(); (tmp_path / "old/faces.parquet").write_text("")
    for out, format in ((tmp_path, "parquet"), (tmp_path / "file", "folder"), (tmp_path / "old", "folder"), (tmp_path / "file/in.parquet", "parquet"), ("", "folder"), ("a\0b", "parquet"), ("x" * 300, "parquet")):
        with pytest.raises(ConfigError, match="out|folder"): sets.make_set(2, per_person=1, size=16, out=out, format=format)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "old"]

@renders
@pytest.mark.parametrize("workers", [1, 2])
def test_a_set_leaves_the_callers_threads(workers):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sets.make_set(2, per_person=1, size=16, workers=workers)
        assert torch.get_num_threads() == 2
    finally: torch.set_num_threads(before)

@pytest.mark.parametrize("call", [
    lambda: who.people("x"), lambda: who.people(2.5), lambda: who.people(True), lambda: who.people(1, seed="x"),
    lambda: who.people(1, start=-1), lambda: who.person("x"), lambda: who.person(0, spread="wide"),
    lambda: who.scene("x", 0), lambda: who.scene(0, 1.5), lambda: who.morph(*who.people(2), "half"),
    lambda: who.at_age(who.person(0), "old"), lambda: sets.make_set("x"), lambda: sets.make_set(2, size="large")])
def test_text_where_numbers_are_asked_is_refused(call):
    with pytest.raises(ConfigError, match="must be"): call()

def test_the_face_hands_on_every_name_and_draws_nothing():
    "Importing the package wakes neither anny nor warp, and starts no thread of its own."
    program = ("import sys, facecp_nb.people as p; missing = [n for n in p.__all__ if not hasattr(p, n)]; "
               "print(missing, [m for m in ('anny', 'warp', 'facenet_pytorch') if m in sys.modules])")
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["[]", "[]"]

@renders
def test_one_name_is_as_good_as_a_tuple():
    assert sets.records(0, 1, 16, bands="elder", truth="parts_png")[["band"]].iloc[0, 0] == "elder"
    with pytest.raises(ConfigError, match="truth"): sets.records(0, 1, 16, truth=("parts",))
    assert sets.make_set(2, per_person=1, size=16, bands=iter(["child"]))["band"].tolist() == ["child"] * 2

def test_damaged_truth_is_named(table):
    rows = table.iloc[:2].copy()
    for content, said in ((None, "Row 1: parts_png is no picture"), (b"no png", "Row 1: parts_png is no picture"), (rows["jpeg"].iloc[0], "mode RGB")):
        rows["parts_png"] = [table["parts_png"].iloc[0], content]
        with pytest.raises(DataError, match=said): sets.read_parts(rows)
    with pytest.raises(DataError, match="no rows"): sets.read_parts(rows.iloc[:0])
    with pytest.raises(DataError, match="2 sizes"): sets.remake(table.iloc[:2].assign(width=[128, 64]))
    with pytest.raises(DataError, match="no rows"): sets.remake(table.iloc[:0])

def test_names_that_would_leave_the_folder_are_refused(table, tmp_path):
    for person in ("../esc", "/abs", ".."):
        with pytest.raises(DataError, match="without slashes"): sets.write_folder(table.iloc[:1].assign(person=person), tmp_path / "set")
    with pytest.raises(DataError, match="twice"): sets.write_folder(pd.concat([table.iloc[:1]] * 2), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []

def test_pairs_of_unclear_rows_are_refused():
    for bad, said in ((years().assign(person=None), "lacks its image, person"), (years().assign(age="old"), "lacks its image, person or age"), (years().assign(image="x"), "occurs twice"), (years().drop(columns="age"), r"column\(s\) age")):
        with pytest.raises(DataError, match=said): sets.age_pairs(bad)
    for bad in (dict(gap=float("nan")), dict(gap=-1), dict(gap="20"), dict(n=1), dict(seed=-1)):
        with pytest.raises(ConfigError, match=next(iter(bad))): sets.age_pairs(years(), **bad)

# --- years -----------------------------------------------------------------------------------------------------------

def years(people=8, per=6) -> pd.DataFrame:
    "A made-up table: everybody as a child, as an adult, as an elder, in turn."
    rng = np.random.default_rng(0)
    rows = [(f"p{p}_{i}", f"p{p}", rng.uniform(*list(who.BANDS.values())[i % 3])) for p in range(people) for i in range(per)]
    return pd.DataFrame(rows, columns=["image", "person", "age"])

@pytest.mark.parametrize("gap", [20, 30])
def test_no_picture_of_a_pair_gives_the_answer_away(gap):
    table = years()
    pairs = sets.age_pairs(table, gap=gap, seed=3)
    person = table.set_index("image")["person"]
    assert ((person[pairs["image_1"]].to_numpy() == person[pairs["image_2"]].to_numpy()) == pairs["same"]).all()
    assert (pairs["gap"] >= gap).all() and (pairs["age_1"] <= 12).all() and pairs["same"].mean() == .5
    for image in ("image_1", "image_2"):
        counts = pairs.groupby(image)["same"].agg(["sum", "size"])
        assert (2 * counts["sum"] == counts["size"]).all()
    assert pairs.equals(sets.age_pairs(table, gap=gap, seed=3)) and not pairs.equals(sets.age_pairs(table, gap=gap, seed=4))

def test_pairs_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="no two people"): sets.age_pairs(years().query("age > 12"))
    alone = pd.DataFrame([("a", "p", 5.), ("b", "p", 40.), ("c", "q", 11.), ("d", "q", 31.)], columns=["image", "person", "age"])
    assert len(sets.age_pairs(alone, gap=20)) == 4
    with pytest.raises(DataError, match="cannot be exchanged"): sets.age_pairs(alone.assign(age=[5., 26., 11., 40.]), gap=20)

@renders
def test_a_set_by_age():
    table = sets.make_set(3, per_person=6, size=16, bands=("child", "elder"))
    assert table["band"].value_counts().to_dict() == {"child": 9, "elder": 9}
    for band, rows in table.groupby("band"): assert rows["age"].between(*who.BANDS[band]).all()

@renders
def test_mouths_lie_on_the_middle_line():
    heads, mean = faces.neutral_heads(who.people(200, seed=5)), head.mean_head()
    assert (heads[:, mean.mouth_left, 0] + heads[:, mean.mouth_right, 0]).abs().max() < .6  # cm

@renders
@pytest.mark.parametrize("bad", [dict(bands=("teenager",)), dict(truth=("nose_png",)), dict(n=0), dict(per_person=0), dict(size=8), dict(size=4096), dict(workers=0), dict(format="zip"), dict(format="folder"), dict(held_out=-1)])
def test_silly_sets_are_refused(bad):
    with pytest.raises(ConfigError): sets.make_set(**{"n": 2, "per_person": 1, "size": 32, **bad})

def test_the_chapter_speaks_without_the_renderer(monkeypatch):
    "Chapter 01 where anny is missing: it runs to the end and says at each place what is not drawn."
    monkeypatch.setenv("IN_TEST", "1")
    chapter = next(p for p in notebooks("chapters") if p.stem.startswith("01_"))
    shell = CaptureShell()
    shell.run("import sys; sys.modules['anny'] = None")
    said = ""
    with working_directory(chapter.parent):
        try:
            for cell in code(read(chapter)):
                said += str(shell.run(source(cell)))
                if {"exercise", "check"} & set(tags(cell)): continue
                assert shell.exc is None, source(cell)
        finally: sys.modules.pop("anny", None)
    assert said.count("Not drawn") == 9

@renders
def test_the_same_seed_gives_the_same_bits():
    "Twice the same, with one thread or two."
    def once(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try: return faces.render(who.people(2, seed=9), [who.scene(i, 0, 9) for i in range(2)], 96)
        finally: torch.set_num_threads(before)
    first, second, third = once(1), once(1), once(2)
    for field in ("images", "parts", "landmarks"): assert torch.equal(getattr(first, field), getattr(second, field)), field
    assert (first.images.int() - third.images.int()).abs().float().mean() < .01
