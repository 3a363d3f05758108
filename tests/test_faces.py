"The shipped people: the table is whole, a sample of it can be made again, and the rules that training relies on hold"
import hashlib, io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from facecp_nb import faces
from facecp_nb.core import BOX_COLUMNS, LANDMARK_COLUMNS, ConfigError, DataError, shipped
from facecp_nb.data import assign_splits, problems

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
        new = faces.records(int(old["person_index"]), size=int(old["width"]), seed=int(old["seed"]), images=[int(old["image_index"])]).iloc[0]
        assert new["image"] == old["image"]
        assert np.abs(pixels(new["jpeg"]) - pixels(old["jpeg"])).mean() <= 1
        for column in (*LANDMARK_COLUMNS, *BOX_COLUMNS): assert abs(new[column] - old[column]) <= .1, column

@renders
def test_parts_and_depth_agree_with_landmarks():
    made = faces.render(faces.people(4), [faces.Scene(blink=0.)] * 4, 128)
    for points, parts, depth in zip(made.landmarks.round().long(), made.parts, made.depth):
        eye, nose = points[0], points[2]
        assert faces.PARTS[parts[eye[1] - 1:eye[1] + 2, eye[0] - 1:eye[0] + 2].flatten().mode().values].startswith("eye")
        assert depth[nose[1], nose[0]] < depth[eye[1], eye[0]]

@renders
def test_silly_requests_are_refused():
    someone = faces.people(1)
    for bad in (lambda: faces.people(0), lambda: faces.person(-1), lambda: faces.render(someone, [], 64), lambda: faces.render(someone, [faces.Scene()], 4),
                lambda: faces.render(someone, [faces.Scene(hair_style="mohawk")], 64), lambda: faces.make_set(3, held_out=3)):
        with pytest.raises(ConfigError): bad()

def test_without_the_renderer_a_sentence_helps(monkeypatch):
    monkeypatch.setattr(faces, "can_render", lambda: False)
    with pytest.raises(DataError, match="pip install"): faces.render(faces.people(1), [faces.Scene()])
