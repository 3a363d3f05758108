"People with ages: what ships can be made again, the lists follow the rule, and a threshold gains what it gains."
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from facecp_nb import study
from facecp_nb.core import LANDMARK_COLUMNS, DataError, shipped
from facecp_nb.data import problems
from facecp_nb.people import can_render


@pytest.fixture(scope="module")
def table(): return study.aged_faces().records


def pixels(rows): return np.stack([np.asarray(Image.open(io.BytesIO(j))) for j in rows["jpeg"]]).astype(int)


def test_what_ships_is_whole(table):
    assert problems(table) == [] and shipped("aged.parquet").stat().st_size < 1.5e6
    assert table["person"].nunique() == 210 and len(table) == 80 * 8 + 60 * 8 + 70 * 6
    assert set(table["split"]) == {"train", "verification"} and table.groupby("person")["split"].nunique().max() == 1
    assert f"{len(table):,} pictures of 210 people" in shipped("DATASHEET.md").read_text()


def test_ages_lie_in_their_bands(table):
    for band, (low, high) in {"child": (4, 12), "adult": (20, 50), "elder": (60, 85)}.items():
        assert table[table["band"] == band]["age"].between(low, high).all()


@pytest.mark.slow
@pytest.mark.skipif(not can_render(), reason="needs the extra render")
@pytest.mark.parametrize("index", (85, 150))
def test_a_person_can_be_made_again(table, index):
    made = study.aged_set([index]).reset_index(drop=True)
    kept = table[table["person_index"] == index].reset_index(drop=True)
    columns = ["image", "person", "age", "band", "group", "split"]
    pd.testing.assert_frame_equal(made[columns], kept[columns])
    assert np.abs(pixels(made) - pixels(kept)).mean() < 1
    np.testing.assert_allclose(made[list(LANDMARK_COLUMNS)], kept[list(LANDMARK_COLUMNS)], atol=.1)


def test_lists_follow_the_rule(table):
    for gap in (20, 30):
        rows = study.grow_lists()[f"C{gap}"]
        assert (rows["age_a"] <= 12).all() and (rows["age_b"] - rows["age_a"] >= gap).all()
        assert rows["same"].mean() == .5 and (rows["same"] == (rows["person_a"] == rows["person_b"])).all()
        assert not rows.duplicated(["a", "b"]).any()
    wide, near = (study.grow_lists()[n] for n in ("C30", "C20"))
    pairs = lambda rows: set(zip(rows["a"], rows["b"]))
    far = near[near["same"] & (near["age_b"] - near["age_a"] >= 30)]
    assert pairs(wide[wide["same"]]) == pairs(far), "C30 is C20 with a wider gap"


def test_no_pair_has_anybody_who_is_learnt(table):
    learnt = set(table[table["split"] == "train"]["image"])
    for rows in study.grow_lists().values(): assert not learnt & ({*rows["a"]} | {*rows["b"]})


def test_inflation_falls_with_the_list():
    rng, same = np.random.default_rng(0), np.arange(20_000) < 10_000
    scores = rng.normal(size=len(same)) + 1.756 * same  # 81 % right at best
    found = study.inflation(scores, same, (60, 372, 3786), draws=12).set_index("pairs")
    assert found["inflation"].is_monotonic_decreasing
    assert found["inflation"][372] == pytest.approx(.0165, abs=.008)
    assert found["inflation"][3786] == pytest.approx(.0037, abs=.003)


def test_band_pairs_are_all_pairs():
    ages = pd.DataFrame(dict(image=list("abcd"), person=["x", "x", "y", "y"], age=[5, 6, 7, 40]))
    rows = study.band_pairs(ages, 0, 12)
    assert list(zip(rows["a"], rows["b"], rows["same"])) == [("a", "b", True), ("a", "c", False), ("b", "c", False)]


def test_photographs_without_ages_are_refused(tmp_path):
    from facecp_nb.study.growing import _told
    faces = study.aged_faces()
    with pytest.raises(DataError, match="tell no ages"): _told(faces.subset(range(8)))


def test_photographs_whose_names_tell_ages():
    from facecp_nb.study.growing import _told
    faces = study.aged_faces()
    table = faces.records.iloc[:400:10]
    names = [f"{k}_{r.person}_{int(r.age)}" for k, r in enumerate(table.itertuples())]
    told = _told(type(faces)(table.drop(columns=["age", "group"]).assign(image=names)))
    assert told.records["age"].tolist() == [int(a) for a in table["age"]]
