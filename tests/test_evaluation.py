"Intervals, regions and units: referee values, slow re-creations, and what bad input is told."
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

from facecp_nb.core import ConfigError, DataError
from facecp_nb.evaluation import (accuracy, compare, compare_all, crossed_error, holm, identity_selective, interval,
                                  judge, permutation_null, power_note, region_masks, region_metrics, smallest_effect)

METRICS = ["average_eyes", "average_mouth", "proportion_eyes", "proportion_mouth"]


# regions --------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def golden(shared):
    return dict(np.load(shared / "golden" / "numbers.npz"))


def test_region_metrics_equal_the_referee(golden):
    boxes, landmarks = golden["zone_boxes"], np.insert(golden["zone_landmarks"], 2, np.nan, axis=1)
    maps = [m[:int(y1 - y0), :int(x1 - x0)] for m, (x0, y0, x1, y1) in zip(golden["zone_heatmaps"], boxes)]
    found = region_metrics(maps, landmarks, boxes)
    assert list(found.columns) == METRICS
    np.testing.assert_allclose(found.to_numpy(), golden["zone_metrics"], rtol=1e-5)
    torch_found = region_metrics([torch.from_numpy(m) for m in maps], torch.from_numpy(landmarks),
                                 torch.from_numpy(boxes))
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
    points, boxes = faces(5, rng), np.array([[8, 9, 48, 60], [10, 5, 44, 58], [-4, 2, 40, 50], [12, 12, 50, 44],
                                             [3, 3, 60, 61.7]])
    maps = [rng.random((int(b[3]) - int(b[1]), int(b[2]) - int(b[0]))) for b in boxes]
    np.testing.assert_allclose(region_metrics(maps, points, boxes),
                               [slow_regions(*one) for one in zip(maps, points, boxes)], rtol=1e-12)


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
    assert masks["eyes"][0, 10, 7] and masks["eyes"][0, 10, 19] and masks["eyes"][0, 7, 13]
    assert not masks["eyes"][0, 10, 6]
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
    (dict(heatmaps=[np.ones((39, 40))]), "40 high"), (dict(heatmaps=[-np.ones((40, 40))]), "negative"),
    (dict(heatmaps=[np.full((40, 40), np.nan)]), "missing"),
    (dict(heatmaps=[np.ones((40, 40))] * 2), "2 heat maps"), (dict(heatmaps=np.ones((40, 40))), r"\(B,H,W\)"),
    (dict(boxes=[[8, 8, 8, 48]]), "box 0 is empty"),
    (dict(boxes=[[8, 8, 48]]), "x0, y0, x1, y1"), (dict(boxes=[[8, 8, 48, np.nan]]), "finite"),
    (dict(landmarks=np.ones((1, 4, 2))), r"\(B,5,2\)"),
    (dict(landmarks=np.full((1, 5, 2), np.nan)), "lacks an eye"), (dict(landmarks=np.ones((2, 5, 2))), "2 faces"),
    (dict(heatmaps=[]), "0 heat maps")])
def test_unfit_regions_are_refused(change, said):
    fit = dict(heatmaps=[np.ones((40, 40))], landmarks=faces(1, np.random.default_rng(0)), boxes=[[8, 8, 48, 48]])
    with pytest.raises(DataError, match=said): region_metrics(**fit | change)


# units ----------------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("make", [torch.from_numpy, np.asfortranarray, lambda x: x.astype(np.float32),
                                  lambda x: torch.from_numpy(x).requires_grad_(),
                                  lambda x: torch.from_numpy(x).bfloat16()])
def test_anova_takes_any_array(make):
    x, labels = np.random.default_rng(2).normal(size=(20, 5)), np.repeat(np.arange(4), 5)
    given = make(x)
    x = given.detach().double().numpy() if isinstance(given, torch.Tensor) else x
    np.testing.assert_allclose(identity_selective(given, torch.from_numpy(labels))["F"], slow_anova(x, labels)[:, 0],
                               rtol=1e-5)


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
    for correction, expected in ((None, p < .05), ("fdr", stats.false_discovery_control(p) < .05),
                                 ("bonferroni", p < .05 / 500)):
        np.testing.assert_array_equal(tables[correction]["selective"], expected)
    found = {c: table["selective"].sum() for c, table in tables.items()}
    assert found[None] > found["fdr"] >= found["bonferroni"] > 0


def test_shuffled_names_find_alpha():
    x, labels = np.random.default_rng(6).normal(size=(60, 1000)), np.repeat(np.arange(10), 6)
    x += 3 * (labels[:, None] == 3)
    assert identity_selective(x, labels)["selective"].mean() > .9
    null = permutation_null(x, labels, n=5, seed=1)
    assert null.shape == (5,) and .005 < null.mean() < .02
    np.testing.assert_array_equal(null, permutation_null(x, labels, n=5, seed=1))
    assert permutation_null(x, labels, n=3, correction="fdr").max() < .01


@pytest.mark.parametrize("x, labels, said", [
    (np.ones(4), [0, 0, 1, 1], "flattened"), (np.ones((4, 2)), [0, 0, 1], "3 labels"),
    (np.ones((4, 0)), [0, 0, 1, 1], "do not fit"),
    (np.ones((4, 2)), [0, 0, 0, 0], "two people"), (np.ones((4, 2)), [0, 1, 2, 3], "more images"),
    (np.ones((4, 2)), [0, 0, 1, np.nan], "label 3"),
    (np.ones((4, 2)), ["a", "a", "b", None], "label 3"),
    (np.array([[1., 2], [1, 3], [1, np.inf], [1, 4]]), [0, 0, 1, 1], "unit 1 to image 2")])
def test_unfit_responses_are_refused(x, labels, said):
    with pytest.raises(DataError, match=said): identity_selective(x, labels)


def test_unknown_levels_and_corrections_are_refused():
    x, labels = np.ones((4, 2)), [0, 0, 1, 1]
    with pytest.raises(ConfigError, match="alpha is 0"): identity_selective(x, labels, alpha=0)
    with pytest.raises(ConfigError, match="holm"): identity_selective(x, labels, correction="holm")
    with pytest.raises(ConfigError, match="n is 0"): permutation_null(x, labels, n=0)


# intervals ------------------------------------------------------------------------------------------------------------

def study(seeds=3, people=30, images=8, mean=.7, seed_sd=.0, person_sd=.1, image_sd=.15, rng=0):
    "A crossed world with known mean: seeds, people and pictures shift the chance of being right."
    rng = np.random.default_rng(rng)
    p = mean + rng.normal(0, seed_sd, (seeds, 1, 1)) + rng.normal(0, person_sd, (1, people, 1))
    p = p + rng.normal(0, image_sd, (1, people, images))
    right = rng.random(p.shape) < p
    s, q, i = (a.ravel() for a in np.indices(p.shape))
    return pd.DataFrame(dict(seed=s, person=[f"p{a}" for a in q], image=[f"p{a}_{b}" for a, b in zip(q, i)],
                             correct=right.ravel().astype(float)))


# Chance to be right; its spread over seeds, people, pictures, seeds x people; true difference (None: an accuracy).
WORLDS = {
    "seeds differ more than pictures": (.7, .08, .05, .05, 0, None), "equal": (.75, .03, .08, .08, 0, None),
    "seeds hardly differ": (.7, .002, .12, .15, 0, None), "luck only": (.8, 0, 0, 0, 0, None),
    "people differ much": (.6, .01, .2, .02, 0, None),
    "near the ceiling": (.95, .008, .01, .01, 0, None), "difference, seeds differ": (.8, .06, 0, .08, 0, .05),
    "difference, seed x person": (.8, .02, .06, .08, .06, .05), "difference, people differ": (.8, 0, .1, .08, 0, .05),
    "no difference": (.8, 0, 0, .08, 0, 0.)}
RUNS = 6000  # the Monte-Carlo standard error of a coverage of .95 is then .0028
ERROR = 3 * np.sqrt(.95 * .05 / RUNS)


def many(world, seeds, images, runs=RUNS, rng=0):
    "Summed answers (runs, people, seeds) of many studies in one world; `images` of each person."
    mean, seed_sd, person_sd, image_sd, both_sd, effect = WORLDS[world]
    rng, people = np.random.default_rng(rng), len(images)
    normal = lambda sd, *shape: sd * rng.standard_normal((runs, *shape), dtype=np.float32)
    shift = normal(seed_sd, 1, seeds, 1) + normal(person_sd, people, 1, 1) + normal(both_sd, people, seeds, 1)
    chance = mean + normal(image_sd, people, 1, max(images))
    there = np.arange(max(images)) < np.asarray(images)[:, None, None]
    answers = lambda p: ((rng.random((runs, people, seeds, max(images)), dtype=np.float32) < p) & there).sum(-1)
    if effect is None: return answers(chance + shift), mean
    return answers(chance) - answers(chance - effect + shift), effect


def coverage(world, seeds, images, level=.95, runs=RUNS):
    sums, truth = many(world, seeds, images, runs)
    error, df = crossed_error(sums, np.array(images))
    means, reach = sums.sum((1, 2)) / (sum(images) * seeds), special.stdtrit(df, (1 + level) / 2) * error
    return np.mean(np.abs(means - truth) <= reach)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("world", WORLDS)
def test_intervals_hold_the_truth_in_93_to_97_studies_of_100(world, seeds):
    assert .93 - ERROR <= coverage(world, seeds, [10] * 20) <= .97 + ERROR


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("world", ["seeds differ more than pictures", "equal", "seeds hardly differ",
                                   "difference, seed x person"])
def test_so_do_those_of_fifty_people(world, seeds):
    error = 3 * np.sqrt(.95 * .05 / 2000)
    assert .93 - error <= coverage(world, seeds, [10] * 50, runs=2000) <= .97 + error


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_and_those_of_people_with_unlike_numbers_of_pictures(seeds):
    for world in ("equal", "luck only"):
        assert .93 - ERROR <= coverage(world, seeds, [5, 8, 10, 15] * 6) <= .97 + ERROR


def test_one_seed_holds_people_and_pictures():
    assert .93 - ERROR <= coverage("seeds hardly differ", 1, [10] * 30) <= .97 + ERROR


def test_simultaneous_levels_are_held_by_three_and_five_seeds():
    for seeds in (3, 5):
        for world in ("seeds differ more than pictures", "luck only", "difference, people differ"):
            assert .98 <= coverage(world, seeds, [10] * 20, level=.99) <= .996


def test_tables_and_sums_are_judged_alike():
    table = study(seeds=3, seed_sd=.03)
    cells = table.pivot_table(index="person", columns="seed", values="correct", aggfunc="sum").to_numpy()
    error, df = crossed_error(cells, np.full(30, 8))
    found, reach = interval(table, level=.9), stats.t.ppf(.95, df) * error
    assert found["df"] == pytest.approx(float(df)) and 2 <= df <= 29
    np.testing.assert_allclose([found["low"], found["high"]], [found["mean"] - reach, found["mean"] + reach])


def test_variance_is_that_of_crossed_groups():
    "People's, seeds' and residual sums by plain loops; the floors do not bind here."
    x = np.random.default_rng(1).normal(size=(12, 4)) + np.arange(12)[:, None] + 2 * np.arange(4)
    n, s, m = 12, 4, x.mean()
    people, seeds = s * x.mean(1).var(ddof=1), n * x.mean(0).var(ddof=1)
    rest = sum((x[i, j] - x[i].mean() - x[:, j].mean() + m) ** 2 for i in range(n) for j in range(s))
    rest /= (n - 1) * (s - 1)
    error, df = crossed_error(x, np.ones(n))
    assert error == pytest.approx(np.sqrt((people + seeds - rest) / (n * s)))
    a, b = (seeds / (s - 1)) ** 2, ((people - rest) / 2) ** 2
    multiple = np.average(stats.t.ppf(.975, [s - 1, n - 1]), weights=[a, b])
    assert stats.t.ppf(.975, df) == pytest.approx(multiple)


def test_one_seed_is_a_t_interval_over_people():
    table = study(seeds=1, images=1, people=60)
    found, right = interval(table), table["correct"]
    low, high = stats.t.interval(.95, 59, right.mean(), stats.sem(right))
    np.testing.assert_allclose([found["low"], found["high"], found["df"]], [low, high, 59])


def test_seeds_that_agree_by_chance_do_not_make_a_sure_study():
    "Both seeds 120 of 160, each in its own pictures."
    right = np.zeros((2, 20, 8))
    for s in (0, 1): right[s].flat[np.random.default_rng(s).permutation(160)[:120]] = 1
    s, q, i = (a.ravel() for a in np.indices(right.shape))
    found = interval(pd.DataFrame(dict(seed=s, person=q, image=q * 8 + i, correct=right.ravel())))
    assert found["high"] - found["low"] > .02


def test_interval_says_what_it_did_and_repeats():
    table = study()
    found = interval(table)
    assert found == interval(table.sample(frac=1, random_state=1))
    assert list(found) == ["mean", "low", "high", "df", "method", "seeds", "people", "images"]
    assert found["mean"] == pytest.approx(table["correct"].mean()) and found["low"] < found["mean"] < found["high"]
    assert (found["seeds"], found["people"], found["images"]) == (3, 30, 240)
    assert found["method"].startswith("95 % t interval (crossed seeds")
    assert "one seed" in interval(table[table["seed"] == 0])["method"]
    assert "one person" in interval(table[table["person"] == "p0"])["method"]
    wide = interval(table, level=.99)
    assert wide["low"] < found["low"] and wide["high"] > found["high"] and wide["method"].startswith("99 %")


def test_uneven_people_weigh_by_their_pictures():
    table = study(people=12)
    uneven = table[~table["image"].isin([f"p{p}_{i}" for p in range(6) for i in range(5)])]
    assert interval(uneven)["mean"] == pytest.approx(uneven["correct"].mean())


def test_extremes_stay_in_range():
    table = study()
    assert [interval(table.assign(correct=1.))[k] for k in ("mean", "low", "high")] == [1, 1, 1]
    nearly = interval(table.assign(correct=(np.arange(len(table)) > 2).astype(float)))
    assert nearly["high"] <= 1 and nearly["low"] < nearly["mean"]
    one = interval(table[table["person"] == "p0"])
    assert 0 <= one["low"] <= one["mean"] <= one["high"] <= 1
    single = interval(table.head(1))
    assert (single["low"], single["high"]) == (0, 1)
    assert np.isfinite(interval(table[table["image"] == "p0_0"])["df"])


def test_bool_and_int_scores_are_scores():
    table = study()
    assert interval(table.astype({"correct": bool})) == interval(table.astype({"correct": int})) == interval(table)


def test_compare_is_paired():
    a = study(person_sd=.3)
    b = a.assign(correct=a["correct"] * (np.arange(len(a)) % 12 > 0))
    found = compare(a, b.sample(frac=1, random_state=0))
    assert list(found) == ["mean", "low", "high", "p", "df", "excludes_zero", "method", "seeds", "people", "images"]
    assert found["mean"] == pytest.approx(a["correct"].mean() - b["correct"].mean())
    alone = interval(a)
    assert found["excludes_zero"] and found["p"] < .01 and found["high"] - found["low"] < alone["high"] - alone["low"]
    back = compare(b, a)
    assert back["mean"] == pytest.approx(-found["mean"]) and back["p"] == pytest.approx(found["p"]) and back["high"] < 0
    same = compare(a, a)
    assert (same["mean"], same["low"], same["high"], same["p"], same["excludes_zero"]) == (0, 0, 0, 1, False)


def test_p_and_interval_are_one_statistic():
    for r in range(20):
        a = study(seeds=2 + r % 3, seed_sd=.02, rng=r)
        b = a.assign(correct=a["correct"] * (np.random.default_rng(r).random(len(a)) > .03))
        p = compare(a, b)["p"]
        just = compare(a, b, level=1 - p)
        assert min(abs(just["low"]), abs(just["high"])) < 1e-6
        assert compare(a, b)["excludes_zero"] == (p < .05)


def broken(how):
    t = study(seeds=2, people=3, images=2)
    return {"lost column": t.drop(columns="person"), "empty": t.head(0),
            "nan": t.assign(correct=np.where(t.index == 4, np.nan, t["correct"])),
            "twice": pd.concat([t, t.tail(1)]), "hole": t.drop(index=5), "words": t.assign(correct="yes"),
            "nameless": t.assign(person=t["person"].where(t.index != 3))}[how]


@pytest.mark.parametrize("how, said", [("lost column", "person"), ("empty", "no rows"), ("nan", "p2_0 under seed 0"),
                                       ("twice", "scored twice"),
                                       ("hole", "p2_1 has no score under seed 0"), ("words", "not a number"),
                                       ("nameless", "p1_1")])
def test_unfit_scores_are_refused(how, said):
    with pytest.raises(DataError, match=said): interval(broken(how))
    with pytest.raises(DataError): compare(broken(how), study(seeds=2, people=3, images=2))


def test_different_pictures_are_not_compared():
    a = study(seeds=2)
    with pytest.raises(DataError, match="same test pictures"): compare(a, a[a["person"] != "p0"])
    with pytest.raises(DataError, match="same test pictures"): compare(a, a.assign(seed=a["seed"] + 1))
    for level in (0, 1, 95, None):
        with pytest.raises(ConfigError, match="level"): interval(a, level)


# verdicts -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("low, high, said", [
    (.04, .09, "loss"), (.001, .02, "loss"), (-.09, -.04, "gain"), (-.02, -.001, "gain"), (-.02, .02, "none"),
    (-.03, .03, "none"), (0, .01, "none"),
    (0, 0, "none"), (-.02, .031, "undecided"), (-.031, .02, "undecided"), (0, .05, "undecided"),
    (-.2, .3, "undecided")])
def test_every_branch_of_the_judge(low, high, said):
    assert judge(dict(low=low, high=high)) == judge(pd.Series(dict(low=low, high=high))) == said


def test_made_up_tables_reach_every_branch():
    a = study(seeds=5, people=40, mean=.8)
    spoil = lambda share, rng=0: a.assign(correct=a["correct"] * (np.random.default_rng(rng).random(len(a)) > share))
    assert judge(compare(a, spoil(.15))) == "loss" and judge(compare(spoil(.15), a)) == "gain"
    assert judge(compare(spoil(.01), spoil(.01, 1))) == "none"
    assert judge(compare(spoil(.01), spoil(.01, 1)), margin=.0001) == "undecided"
    two = a[a["seed"] < 2]
    luck = study(seeds=2, people=40, mean=.8, seed_sd=.05, rng=3)
    assert judge(compare(two, luck)) == "undecided"


@pytest.mark.parametrize("row", [None, {}, dict(low=0.), dict(low=np.nan, high=1.), dict(low=.2, high=.1),
                                 dict(low="a", high=1)])
def test_the_judge_wants_an_interval(row):
    with pytest.raises(DataError, match="low and high"): judge(row)


@pytest.mark.parametrize("margin", [0, -.03, None, float("nan")])
def test_the_judge_wants_a_margin(margin):
    with pytest.raises(ConfigError, match="margin"): judge(dict(low=0, high=0), margin)


def slow_holm(p):
    "Step by step: the smallest times k, the next times k - 1, never below the one before."
    found, last = {}, 0.
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        last = found[i] = min(1., max(last, (len(p) - rank) * p[i]))
    return [found[i] for i in range(len(p))]


def test_holm():
    np.testing.assert_allclose(holm([.01, .04, .03, .005]), [.03, .06, .06, .02])
    p = np.random.default_rng(0).random(30) ** 3
    np.testing.assert_allclose(holm(p), slow_holm(p))
    np.testing.assert_allclose(holm(pd.Series(p, index=range(50, 80))), slow_holm(p))
    assert holm([.2]) == [.2]
    for wrong in ([], [.1, np.nan], [1.2]):
        with pytest.raises(DataError): holm(wrong)


def test_many_comparisons():
    a = study(seeds=5)
    pairs = {f"minus {k}": (a, a.assign(correct=a["correct"] * (np.random.default_rng(k).random(len(a)) > k / 100)))
             for k in (1, 2, 4, 8)}
    found = compare_all(pairs)
    assert list(found.columns) == ["comparison", "difference", "low", "high", "p", "p_holm", "df", "method"]
    assert list(found["comparison"]) == list(pairs) and found["method"].str.contains("98.75 %.*over 4").all()
    np.testing.assert_allclose(found["p_holm"], slow_holm(found["p"].tolist()))
    for (_, row), pair in zip(found.iterrows(), pairs.values()):
        each = compare(*pair, level=1 - .05 / 4)
        assert row[["difference", "low", "high", "p"]].tolist() == [each[k] for k in ("mean", "low", "high", "p")]
    for wrong in ({}, [], None):
        with pytest.raises(DataError, match="nothing to compare"): compare_all(wrong)


# power ----------------------------------------------------------------------------------------------------------------

def test_smallest_effect_is_found_in_four_studies_of_five():
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 8):
        draws = rng.normal(smallest_effect(1, seeds), 1, (20000, seeds))
        assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < .05) == pytest.approx(.8, abs=.015)
    assert smallest_effect(1, 1) == np.inf


def test_power_note_is_about_the_same_contrast():
    a = study(seeds=3, seed_sd=.03)
    b = study(seeds=3, seed_sd=.03, rng=1)
    found, note = compare(a, b), power_note(a, b)
    error = (found["high"] - found["low"]) / 2 / stats.t.ppf(.975, found["df"])
    least = float(note.split("at least ")[1].split(" points")[0]) / 100
    power = stats.nct.sf(stats.t.ppf(.975, found["df"]), found["df"], least / error)
    assert power == pytest.approx(.8, abs=.01) and "3 seeds" in note and f"{found['df']:.1f} degrees" in note
    assert "agree to the last picture" in power_note(a, a)
    assert "one seed" in power_note(a[a["seed"] == 0], b[b["seed"] == 0])
    with pytest.raises(DataError, match="same test pictures"): power_note(a, a[a["seed"] > 0])


def test_accuracy():
    outputs, labels = torch.tensor([[1., 0.], [0., 1.], [3., 2.]]), torch.tensor([0, 1, 1])
    assert accuracy(outputs, labels) == pytest.approx(2 / 3)
    for bad in ((outputs, labels[:2]), (outputs, labels + 1), (outputs[:, 0], labels),
                (outputs * float("nan"), labels)):
        with pytest.raises(DataError): accuracy(*bad)


# what an attacker tried -----------------------------------------------------------------------------------------------

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
    with pytest.raises(DataError, match="mix words and numbers"):
        identity_selective(RESPONSES, np.array([0] * 4 + ["a"] * 4, dtype=object))


@pytest.mark.parametrize("labels", [[0., 1.], [0., np.nan], ["0", "1"], [True, False]])
def test_labels_that_are_not_class_indices_are_refused(labels):
    with pytest.raises(DataError, match="whole numbers"): accuracy(np.eye(2), labels)


def test_score_tables_hold_shares():
    scores = pd.DataFrame(dict(seed=0, person=["a", "a", "b", "b"], image=range(4), correct=[0., 1, 1, 0]))
    with pytest.raises(DataError, match="NoneType"): interval(None)
    for wrong in (94., -.5):
        with pytest.raises(DataError, match="from 0 to 1"): interval(scores.replace({"correct": {1.: wrong}}))
    assert compare(scores.assign(correct=0.), scores.assign(correct=1.))["mean"] == -1


@pytest.mark.parametrize("shape", [40, (40,), (40, 0), (40., 40), None])
def test_masks_need_a_height_and_a_width(shape):
    with pytest.raises(ConfigError, match="shape"): region_masks(np.ones((1, 5, 2)), shape)
