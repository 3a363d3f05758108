"Intervals, regions and units: referee values, slow re-creations, and what bad input is told."
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from facecp_nb.core import ConfigError, DataError
from facecp_nb.evaluation import (accuracy, bootstrap, compare, identity_selective, majority_baseline, permutation_null, power_note,
                                  region_masks, region_metrics, score_table, smallest_effect)

METRICS = ["average_eyes", "average_mouth", "proportion_eyes", "proportion_mouth"]


# regions ---------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def golden(shared):
    return dict(np.load(shared / "golden" / "numbers.npz"))


def test_region_metrics_equal_the_referee(golden):
    boxes, landmarks = golden["zone_boxes"], np.insert(golden["zone_landmarks"], 2, np.nan, axis=1)
    maps = [m[:int(y1 - y0), :int(x1 - x0)] for m, (x0, y0, x1, y1) in zip(golden["zone_heatmaps"], boxes)]
    found = region_metrics(maps, landmarks, boxes)
    assert list(found.columns) == METRICS
    np.testing.assert_allclose(found.to_numpy(), golden["zone_metrics"], rtol=1e-5)
    torch_found = region_metrics([torch.from_numpy(m) for m in maps], torch.from_numpy(landmarks), torch.from_numpy(boxes))
    pd.testing.assert_frame_equal(found, torch_found)


def slow_regions(heat, points, box):
    "Every pixel and every fixation by itself."
    x0, y0 = int(box[0]), int(box[1])
    sums, areas = [0., 0.], [0, 0]
    for k, (a, b, drop) in enumerate(((points[0], points[1], 0), (points[3], points[4], .25))):
        middle = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2 + drop * abs(b[0] - a[0]))
        radius = np.hypot(a[0] - middle[0], a[1] - middle[1])
        for i in range(heat.shape[0]):
            for j in range(heat.shape[1]):
                if min(np.hypot(x0 + j - p[0], y0 + i - p[1]) for p in (a, b, middle)) <= radius:
                    sums[k] += heat[i, j]
                    areas[k] += 1
    return [*(s / n for s, n in zip(sums, areas)), *(s / heat.sum() for s in sums)]


def faces(n, rng):
    eyes, mouths = rng.uniform((18, 20), (22, 24), (n, 1, 2)), rng.uniform((20, 38), (24, 42), (n, 1, 2))
    step = np.stack([rng.uniform(10, 18, n), rng.uniform(-3, 3, n)], -1)[:, None]
    return np.concatenate([eyes, eyes + step, np.full((n, 1, 2), np.nan), mouths, mouths + step * .8], 1)


def test_region_metrics_equal_loops():
    rng = np.random.default_rng(0)
    points, boxes = faces(5, rng), np.array([[8, 9, 48, 60], [10, 5, 44, 58], [-4, 2, 40, 50], [12, 12, 50, 44], [3, 3, 60, 61.7]])
    maps = [rng.random((int(b[3]) - int(b[1]), int(b[2]) - int(b[0]))) for b in boxes]
    np.testing.assert_allclose(region_metrics(maps, points, boxes), [slow_regions(*one) for one in zip(maps, points, boxes)], rtol=1e-12)


def test_arrays_are_resized_to_the_box():
    points, box = faces(1, np.random.default_rng(1)), np.array([[8, 8, 48, 48]])
    ramp = np.linspace(0, 1, 10)[None, None].repeat(10, 1)
    enlarged = torch.nn.functional.interpolate(torch.from_numpy(ramp)[None], (40, 40), mode="bilinear")[0, 0].numpy()
    pd.testing.assert_frame_equal(region_metrics(ramp, points, box), region_metrics([enlarged], points, box))
    same = np.random.default_rng(2).random((1, 40, 40))
    pd.testing.assert_frame_equal(region_metrics(same, points, box), region_metrics(list(same), points, box))


def test_edge_of_the_disc_belongs_to_it():
    points = np.array([[[10., 10.], [16., 10.], [np.nan, np.nan], [10., 20.], [14., 20.]]])
    masks = region_masks(points, (30, 30))
    assert masks["eyes"][0, 10, 7] and masks["eyes"][0, 10, 19] and masks["eyes"][0, 7, 13] and not masks["eyes"][0, 10, 6]
    assert masks["eyes"][0, 13, 10] and not masks["eyes"][0, 12, 7]
    assert masks["mouth"][0, 21, 12] and masks["mouth"].shape == (1, 30, 30) and masks["mouth"].dtype == bool


def test_crops_of_masks_are_masks_of_crops():
    points = faces(3, np.random.default_rng(3))
    whole, part = region_masks(points, (64, 64)), region_masks(points, (40, 30), origins=[[12, 9]] * 3)
    for region in ("eyes", "mouth"): np.testing.assert_array_equal(part[region], whole[region][:, 9:49, 12:42])


def test_cold_maps_and_faces_outside_have_no_number():
    points, box = faces(1, np.random.default_rng(4)), np.array([[8, 8, 48, 48]])
    cold = region_metrics([np.zeros((40, 40))], points, box)
    assert cold[METRICS[:2]].eq(0).all(axis=None) and cold[METRICS[2:]].isna().all(axis=None)
    outside = region_metrics([np.ones((40, 40))], points + 500, box)
    assert outside[METRICS[:2]].isna().all(axis=None) and outside[METRICS[2:]].eq(0).all(axis=None)


@pytest.mark.parametrize("change, said", [
    (dict(heatmaps=[np.ones((39, 40))]), "40 high"), (dict(heatmaps=[-np.ones((40, 40))]), "negative"), (dict(heatmaps=[np.full((40, 40), np.nan)]), "missing"),
    (dict(heatmaps=[np.ones((40, 40))] * 2), "2 heat maps"), (dict(heatmaps=np.ones((40, 40))), r"\(B,H,W\)"), (dict(boxes=[[8, 8, 8, 48]]), "box 0 is empty"),
    (dict(boxes=[[8, 8, 48]]), "x0, y0, x1, y1"), (dict(boxes=[[8, 8, 48, np.nan]]), "finite"), (dict(landmarks=np.ones((1, 4, 2))), r"\(B,5,2\)"),
    (dict(landmarks=np.full((1, 5, 2), np.nan)), "lacks an eye"), (dict(landmarks=np.ones((2, 5, 2))), "2 faces"), (dict(heatmaps=[]), "0 heat maps")])
def test_unfit_regions_are_refused(change, said):
    fit = dict(heatmaps=[np.ones((40, 40))], landmarks=faces(1, np.random.default_rng(0)), boxes=[[8, 8, 48, 48]])
    with pytest.raises(DataError, match=said): region_metrics(**fit | change)


# units -----------------------------------------------------------------------------------------------------------------

def test_anova_equals_the_referee(golden):
    found, p = identity_selective(golden["responses"], np.repeat(np.arange(50), 10)), golden["anova_p"]
    large = p > 1e-8
    np.testing.assert_allclose(found["p"][large], p[large], rtol=1e-4)
    np.testing.assert_allclose(found["p"][~large], p[~large], rtol=0, atol=1e-8)
    np.testing.assert_array_equal(np.flatnonzero(found["selective"]), golden["selective_0.01"])


def slow_anova(x, labels):
    return np.array([stats.f_oneway(*(unit[labels == g] for g in np.unique(labels))) for unit in x.T])


def test_anova_equals_scipy_on_uneven_shuffled_groups():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(["ann", "bob", "cyd", "dan"], [3, 9, 5, 13]))
    x = rng.gamma(1., size=(30, 40)) + rng.normal(size=40) * (labels == "bob")[:, None]
    found = identity_selective(x, labels, chunk=7)
    np.testing.assert_allclose(found[["F", "p"]], slow_anova(x, labels), rtol=1e-10)
    np.testing.assert_allclose(found["q"], stats.false_discovery_control(found["p"]))


def test_anova_survives_large_offsets_and_one_odd_first_image():
    rng, labels = np.random.default_rng(1), np.repeat(np.arange(5), 6)
    x = rng.normal(size=(30, 8))
    x[0, :4] = 1e4
    # the referee sees the offset removed: adding 1e6 rounds x itself to about 1e-10, no more may be lost
    np.testing.assert_allclose(identity_selective(x + 1e6, labels)["F"], slow_anova(x, labels)[:, 0], rtol=1e-7)


@pytest.mark.parametrize("make", [torch.from_numpy, np.asfortranarray, lambda x: x.astype(np.float32), lambda x: torch.from_numpy(x).requires_grad_(),
                                  lambda x: torch.from_numpy(x).bfloat16()])
def test_anova_takes_any_array(make):
    x, labels = np.random.default_rng(2).normal(size=(20, 5)), np.repeat(np.arange(4), 5)
    given = make(x)
    x = given.detach().double().numpy() if isinstance(given, torch.Tensor) else x
    np.testing.assert_allclose(identity_selective(given, torch.from_numpy(labels))["F"], slow_anova(x, labels)[:, 0], rtol=1e-5)


def test_anova_reads_a_memory_map_and_leaves_it(tmp_path):
    x, labels = np.random.default_rng(3).normal(size=(20, 50)).astype(np.float32), np.repeat(np.arange(4), 5)
    np.save(tmp_path / "x.npy", x)
    found = identity_selective(np.load(tmp_path / "x.npy", mmap_mode="r"), labels, chunk=16)
    pd.testing.assert_frame_equal(found, identity_selective(x, labels))
    np.testing.assert_array_equal(x, np.load(tmp_path / "x.npy"))


def test_the_input_is_not_written_to():
    x = np.random.default_rng(4).normal(size=(20, 5))
    before = x.copy()
    identity_selective(x, np.repeat(np.arange(4), 5))
    np.testing.assert_array_equal(x, before)


def test_dead_and_perfect_units():
    labels = np.repeat(np.arange(4), 5)
    x = np.stack([np.zeros(20), np.full(20, .1), labels * .1, np.where(np.arange(20) == 7, 1., 0)], 1)
    found = identity_selective(x, labels, correction="fdr")
    assert found["p"][:2].eq(1).all() and found["F"][:2].eq(0).all() and not found["selective"][:2].any()
    assert np.isinf(found["F"][2]) and found["p"][2] == 0 and found["selective"][2]
    np.testing.assert_allclose(found["p"][3], slow_anova(x[:, 3:], labels)[0, 1])


def test_corrections():
    x, labels = np.random.default_rng(5).normal(size=(40, 500)), np.repeat(np.arange(8), 5)
    x[:, :20] += 3 * (labels[:, None] == np.arange(20) % 8)
    tables = {c: identity_selective(x, labels, .05, c) for c in (None, "fdr", "bonferroni")}
    p = tables[None]["p"]
    for correction, expected in ((None, p < .05), ("fdr", stats.false_discovery_control(p) < .05), ("bonferroni", p < .05 / 500)):
        np.testing.assert_array_equal(tables[correction]["selective"], expected)
    assert tables[None]["selective"].sum() > tables["fdr"]["selective"].sum() >= tables["bonferroni"]["selective"].sum() > 0


def test_shuffled_names_find_alpha():
    x, labels = np.random.default_rng(6).normal(size=(60, 1000)), np.repeat(np.arange(10), 6)
    x += 3 * (labels[:, None] == 3)
    assert identity_selective(x, labels)["selective"].mean() > .9
    null = permutation_null(x, labels, n=5, seed=1)
    assert null.shape == (5,) and .005 < null.mean() < .02
    np.testing.assert_array_equal(null, permutation_null(x, labels, n=5, seed=1))
    assert permutation_null(x, labels, n=3, correction="fdr").max() < .01


@pytest.mark.parametrize("x, labels, said", [
    (np.ones(4), [0, 0, 1, 1], "flattened"), (np.ones((4, 2)), [0, 0, 1], "3 labels"), (np.ones((4, 0)), [0, 0, 1, 1], "do not fit"),
    (np.ones((4, 2)), [0, 0, 0, 0], "two people"), (np.ones((4, 2)), [0, 1, 2, 3], "more images"), (np.ones((4, 2)), [0, 0, 1, np.nan], "label 3"),
    (np.ones((4, 2)), ["a", "a", "b", None], "label 3"), (np.array([[1., 2], [1, 3], [1, np.inf], [1, 4]]), [0, 0, 1, 1], "unit 1 to image 2")])
def test_unfit_responses_are_refused(x, labels, said):
    with pytest.raises(DataError, match=said): identity_selective(x, labels)


def test_unknown_levels_and_corrections_are_refused():
    x, labels = np.ones((4, 2)), [0, 0, 1, 1]
    with pytest.raises(ConfigError, match="alpha is 0"): identity_selective(x, labels, alpha=0)
    with pytest.raises(ConfigError, match="holm"): identity_selective(x, labels, correction="holm")
    with pytest.raises(ConfigError, match="n is 0"): permutation_null(x, labels, n=0)


# intervals -------------------------------------------------------------------------------------------------------------

def study(seeds=3, people=30, images=8, mean=.7, seed_sd=.0, person_sd=.1, image_sd=.15, rng=0):
    "A crossed world with known mean: seeds and people shift the chance of being right, and so do single pictures, alike for all seeds."
    rng = np.random.default_rng(rng)
    p = mean + rng.normal(0, seed_sd, (seeds, 1, 1)) + rng.normal(0, person_sd, (1, people, 1)) + rng.normal(0, image_sd, (1, people, images))
    right = rng.random(p.shape) < p
    s, q, i = (a.ravel() for a in np.indices(p.shape))
    return pd.DataFrame(dict(seed=s, person=[f"p{a}" for a in q], image=[f"p{a}_{b}" for a, b in zip(q, i)], correct=right.ravel().astype(float)))


def misses(worlds, truth, interval):
    found = [interval(w, r) for r, w in enumerate(worlds)]
    return np.mean([not b["low"] <= truth <= b["high"] for b in found])


@pytest.mark.parametrize("world", [dict(seeds=2, person_sd=0, image_sd=0), dict(seeds=2), dict(seeds=3, person_sd=.2, people=20), dict(seeds=1), dict(seeds=5, seed_sd=.03)])
def test_interval_holds_the_truth_about_19_times_in_20(world):
    worlds = [study(**world, rng=r) for r in range(150)]
    assert .01 <= misses(worlds, .7, lambda w, r: bootstrap(w, n=300, seed=r)) <= .11


def test_interval_of_a_difference_holds_the_truth():
    pairs = [(a, a.assign(correct=a["correct"] * (np.random.default_rng(1000 + r).random(len(a)) > .1))) for r, a in ((r, study(seeds=2, rng=r)) for r in range(200))]
    assert .01 <= misses(pairs, .07, lambda w, r: compare(*w, n=300, seed=r)) <= .11


def test_naive_resampling_of_people_agrees_where_only_people_matter():
    table = study(seeds=1, images=1, people=60, image_sd=0)
    rng, right = np.random.default_rng(0), table["correct"].to_numpy()
    naive = np.quantile([right[rng.integers(0, 60, 60)].mean() for _ in range(4000)], [.025, .975])
    ours = bootstrap(table, n=4000)
    np.testing.assert_allclose([ours["low"], ours["high"]], naive, atol=.02)


def test_bootstrap_says_what_it_did_and_repeats():
    table = study()
    found = bootstrap(table)
    assert found == bootstrap(table.sample(frac=1, random_state=1)) and found != bootstrap(table, seed=1)
    assert found["mean"] == pytest.approx(table["correct"].mean()) and found["low"] < found["mean"] < found["high"]
    assert (found["seeds"], found["people"], found["images"]) == (3, 30, 240) and "hierarchical bootstrap" in found["method"]
    assert "one seed" in bootstrap(table[table["seed"] == 0])["method"]


def test_uneven_people_weigh_by_their_pictures():
    table = study(people=12)
    uneven = table[~table["image"].isin([f"p{p}_{i}" for p in range(6) for i in range(5)])]
    assert bootstrap(uneven)["mean"] == pytest.approx(uneven["correct"].mean())


def test_extremes_stay_in_range():
    table = study()
    assert [bootstrap(table.assign(correct=1.))[k] for k in ("mean", "low", "high")] == [1, 1, 1]
    nearly = bootstrap(table.assign(correct=(np.arange(len(table)) > 2).astype(float)))
    assert nearly["high"] <= 1 and nearly["low"] < nearly["mean"]
    one = bootstrap(table[table["person"] == "p0"])
    assert 0 <= one["low"] <= one["mean"] <= one["high"] <= 1


def test_bool_and_int_scores_are_scores():
    table = study()
    assert bootstrap(table.astype({"correct": bool})) == bootstrap(table.astype({"correct": int})) == bootstrap(table)


def test_compare_is_paired():
    a = study(person_sd=.3)
    b = a.assign(correct=a["correct"] * (np.arange(len(a)) % 12 > 0))
    found = compare(a, b.sample(frac=1, random_state=0))
    assert found["mean"] == pytest.approx(a["correct"].mean() - b["correct"].mean())
    assert found["excludes_zero"] and found["p"] < .01 and found["high"] - found["low"] < bootstrap(a)["high"] - bootstrap(a)["low"]
    back = compare(b, a)
    assert back["mean"] == pytest.approx(-found["mean"]) and back["p"] < .01 and back["high"] < 0
    same = compare(a, a)
    assert (same["mean"], same["low"], same["high"], same["p"], same["excludes_zero"]) == (0, 0, 0, 1, False)


def broken(how):
    t = study(seeds=2, people=3, images=2)
    return {"lost column": t.drop(columns="person"), "empty": t.head(0), "nan": t.assign(correct=np.where(t.index == 4, np.nan, t["correct"])),
            "twice": pd.concat([t, t.tail(1)]), "hole": t.drop(index=5)}[how]


@pytest.mark.parametrize("how, said", [("lost column", "person"), ("empty", "0 rows"), ("nan", "p2_0 under seed 0"), ("twice", "scored twice"), ("hole", "p2_1 has no score under seed 0")])
def test_unfit_scores_are_refused(how, said):
    with pytest.raises(DataError, match=said): bootstrap(broken(how))
    with pytest.raises(DataError): compare(broken(how), study(seeds=2, people=3, images=2))


def test_different_pictures_are_not_compared():
    a = study(seeds=2)
    with pytest.raises(DataError, match="same test pictures"): compare(a, a[a["person"] != "p0"])
    with pytest.raises(DataError, match="same test pictures"): compare(a, a.assign(seed=a["seed"] + 1))
    with pytest.raises(ConfigError): bootstrap(a, n=1)


def test_smallest_effect_is_found_in_four_studies_of_five():
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 8):
        draws = rng.normal(smallest_effect(1, seeds), 1, (20000, seeds))
        assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < .05) == pytest.approx(.8, abs=.015)
    assert smallest_effect(1, 1) == np.inf


def test_power_note():
    a = study(seeds=3, seed_sd=.03)
    spread = a.groupby("seed")["correct"].mean().std() * 2 ** .5
    assert f"at least {smallest_effect(spread, 3):.2f}" in power_note(a) and "3 seeds" in power_note(a)
    assert "agree to the last picture" in power_note(a, a)
    assert "one seed" in power_note(a[a["seed"] == 0])
    with pytest.raises(DataError, match="same seeds"): power_note(a, a[a["seed"] > 0])


def test_accuracy_and_its_table():
    outputs, labels = torch.tensor([[1., 0.], [0., 1.], [3., 2.]]), torch.tensor([0, 1, 1])
    assert accuracy(outputs, labels) == pytest.approx(2 / 3) and majority_baseline(labels) == pytest.approx(2 / 3)
    table = score_table(outputs, labels, pd.DataFrame(dict(image=["a", "b", "c"], person=["x", "y", "y"]), index=[7, 8, 9]), seed=4)
    assert table.to_dict("list") == dict(seed=[4, 4, 4], person=["x", "y", "y"], image=["a", "b", "c"], correct=[1., 1., 0.])
    for bad in ((outputs, labels[:2]), (outputs, labels + 1), (outputs[:, 0], labels), (outputs * float("nan"), labels)):
        with pytest.raises(DataError): accuracy(*bad)
    with pytest.raises(DataError, match="2 records"): score_table(outputs, labels, pd.DataFrame(dict(image=["a", "b"], person=["x", "y"])), seed=0)


# what an attacker tried ------------------------------------------------------------------------------------------------

RESPONSES, NAMES = np.random.default_rng(0).normal(size=(8, 3)), np.repeat([0, 1], 4)


@pytest.mark.parametrize("chunk", [-1, 0, 1.5, None])
def test_a_chunk_is_a_whole_number_of_units(chunk):
    with pytest.raises(ConfigError, match="chunk"): identity_selective(RESPONSES, NAMES, chunk=chunk)


@pytest.mark.parametrize("alpha", [None, 0, 1, 2, ".01"])
def test_a_level_lies_between_zero_and_one(alpha):
    with pytest.raises(ConfigError, match="alpha"): identity_selective(RESPONSES, NAMES, alpha)


def test_lists_and_tables_of_responses_are_read():
    expected = identity_selective(RESPONSES, NAMES)
    for responses in (RESPONSES.tolist(), pd.DataFrame(RESPONSES)):
        pd.testing.assert_frame_equal(identity_selective(responses, NAMES.tolist()), expected)


def test_names_of_mixed_type_are_refused():
    with pytest.raises(DataError, match="mix words and numbers"): identity_selective(RESPONSES, np.array([0] * 4 + ["a"] * 4, dtype=object))


@pytest.mark.parametrize("labels", [[0., 1.], [0., np.nan], ["0", "1"], [True, False]])
def test_labels_that_are_not_class_indices_are_refused(labels):
    with pytest.raises(DataError, match="whole numbers"): accuracy(np.eye(2), labels)


def test_score_tables_hold_shares():
    scores = pd.DataFrame(dict(seed=0, person=["a", "a", "b", "b"], image=range(4), correct=[0., 1, 1, 0]))
    with pytest.raises(DataError, match="NoneType"): bootstrap(None)
    for wrong in (94., -.5):
        with pytest.raises(DataError, match="from 0 to 1"): bootstrap(scores.replace({"correct": {1.: wrong}}))
    assert compare(scores.assign(correct=0.), scores.assign(correct=1.))["mean"] == -1


@pytest.mark.parametrize("shape", [40, (40,), (40, 0), (40., 40), None])
def test_masks_need_a_height_and_a_width(shape):
    with pytest.raises(ConfigError, match="shape"): region_masks(np.ones((1, 5, 2)), shape)
