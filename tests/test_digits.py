"The positive control on digits: stacks against single networks, liftings, and the rows that ship."
from dataclasses import replace

import numpy as np
import pytest
import torch

from facecp_nb.core import ConfigError, DataError
from facecp_nb.evaluation import compare_all
from facecp_nb.study import (
    DIGIT_STUDIES, LIFTINGS, Life, digit_answers, compared, digit_rows, digit_strangers, falling, lesson, rear_lives,
)
from facecp_nb.study import digits

STUDIES = list(DIGIT_STUDIES)
SHORT = Life("left:3 > full", epochs=5)


def stack(life=SHORT, seeds=(0, 1)):
    "Newborn networks of one life."
    weights = digits._born([life] * len(seeds), seeds)
    one = torch.ones(len(seeds))
    return digits._Stack(weights, [torch.ones_like(w) for w in weights], one.expand(life.depth, -1).clone(),
                         one * 0, one.bool() & False)


def test_a_network_of_a_stack_is_the_network_it_would_be_alone():
    lives = {what: replace(SHORT, lifting=what) for what in LIFTINGS} | {"blur": Life("blur:2 > full", 5, tested=(2,))}
    together = rear_lives(lives, [0, 3]).set_index(["condition", "seed", "age"])
    for what in ("drop", "shrink", "blur"):
        alone = rear_lives({what: lives[what]}, [3], workers=1).set_index(["condition", "seed", "age"])
        for asked in ("accuracy", "left", "right", "trained"):
            assert np.allclose(together.loc[alone.index, asked], alone[asked], atol=.003)


@pytest.mark.parametrize("lifting, layers", [("head", [2]), ("last-two", [1, 2]), ("all", [0, 1, 2]), ("shrink", [0, 1, 2]), ("nothing", [])])
def test_lifting_renews_these_layers_of_this_network_only(lifting, layers):
    lifted, before = stack(), stack()
    digits._lift(lifted, 1, replace(SHORT, lifting=lifting), 1)
    other = [layer for layer, (a, b) in enumerate(zip(lifted.weights, before.weights)) if not torch.equal(a[1], b[1])]
    assert other == layers
    assert all(torch.equal(a[0], b[0]) for a, b in zip(lifted.weights, before.weights))


def test_lifting_sets_what_it_says():
    for lifting in ("momentum", "decay", "drop", "freeze-2"):
        lifted = stack()
        digits._lift(lifted, 0, replace(SHORT, lifting=lifting), 0)
        assert (lifting == "momentum") == (float(lifted.speeds[0][0].abs().max()) == 0)
        assert (lifting == "decay") == (lifted.decay.tolist() == [pytest.approx(1e-3), 0])
        assert (lifting == "drop") == (lifted.drops.tolist() == [True, False])
        assert (lifting == "freeze-2") == (lifted.learns[:, 0].tolist() == [0, 0, 1])
        assert lifted.learns[:, 1].tolist() == [1, 1, 1]


def test_all_layers_new_is_another_birth():
    weights = stack(seeds=(4,)).weights
    lifted = stack(seeds=(4,))
    digits._lift(lifted, 0, replace(SHORT, lifting="all"), 4)
    assert not torch.equal(weights[0], lifted.weights[0]) and lifted.weights[0].abs().max() <= 32**-.5


def test_a_missing_half_is_zero_and_test_digits_are_never_learned():
    pictures, labels = lesson("right", 5)
    assert pictures[:, :32].abs().max() == 0 and pictures[:, 32:].abs().max() > .1
    assert torch.equal(labels, lesson("full", 5)[1])
    assert min(digits._own(seed)[0].min() for seed in range(10)) >= digits.PICTURES["tested"]
    assert sorted(lesson("random", 5)[1].tolist()) == sorted(labels.tolist())


@pytest.mark.parametrize("wrong, words", [
    (dict(rearing="mouth:2 > full"), "a view of rearing"), (dict(lifting="rest"), "Choose one of"),
    (dict(lifting="head"), "needs a past"), (dict(tested=(200,)), "tested"), (dict(rearing="left:120 > full"), "would begin"),
    (dict(paths=3), "paths"), (dict(units="tanh"), "units"), (dict(rate=0.), "rate")])
def test_a_life_that_cannot_be_lived_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words): Life(**wrong)


def test_nothing_to_rear_or_to_answer():
    with pytest.raises(ConfigError, match="nothing to rear"): rear_lives({})
    with pytest.raises(DataError, match="no rows of 'x'"): digit_answers(digit_rows("orders"), "x")


@pytest.mark.parametrize("study", STUDIES)
def test_shipped_rows_belong_to_the_lives_and_the_code_of_today(study):
    rows = digit_rows(study)
    assert digit_strangers(rows) == []
    assert rows.seed.nunique() == 10 and not rows.duplicated(["condition", "seed", "age"]).any()


def test_strangers_are_found():
    rows = digit_rows("orders")
    assert set(digit_strangers(rows.assign(code="another"))) == set(rows.condition)
    name = rows.condition.iloc[0]
    assert digit_strangers(rows[rows.condition != name]) == [name]
    changed = rows.assign(configuration=rows.configuration.where(rows.condition != name, "another"))
    assert digit_strangers(changed) == [name]


def test_shipped_rows_can_be_made_again():
    lives = {name: life for name, life in DIGIT_STUDIES["controls"]().items() if name in (
        "depth 1: missing first", "missing 2 epochs", "one stream: missing, then shrink")}
    stored = digit_rows("controls").set_index(["condition", "seed"]).accuracy
    for row in rear_lives(lives, [7]).itertuples():
        assert row.accuracy == pytest.approx(stored[row.condition, 7], abs=.012), row.condition


def test_stored_answers_are_the_stored_accuracy():
    rows = digit_rows("orders")
    for name in rows.condition.unique()[:3]:
        by_seed = digit_answers(rows, name).groupby("seed").correct.mean()
        assert by_seed.tolist() == pytest.approx(rows[rows.condition == name].sort_values("seed").accuracy.tolist())


def test_comparisons_are_those_of_the_evaluation():
    rows = digit_rows("orders")
    pairs = {"a": ("c>m>c, one stream", "m>c>c, one stream"), "b": ("c>c>c, two paths", "c>c>c, two paths")}
    for of in ("accuracy", "right"):
        one = compare_all({n: (digit_answers(rows, a, of=of), digit_answers(rows, b, of=of)) for n, (a, b) in pairs.items()})
        for column in ("difference", "low", "high", "p", "p_holm"):
            assert compared(rows, pairs, of)[column].tolist() == pytest.approx(one[column].tolist(), abs=1e-12)


def test_the_period_is_there():
    "The claim that makes every 'no period' of the course mean something."
    found = compared(digit_rows("orders"), {s: (f"c>m>c, {s}", f"m>c>c, {s}") for s in ("two paths", "one stream")})
    assert (found.low > .01).all() and found.difference[0] > .05


def test_falling_tells_a_gap_that_closes_from_one_that_stays():
    budgets, noise = (60, 120, 240, 480), np.random.default_rng(1).normal(1, .05, (10, 4))
    assert falling(noise / np.sqrt(budgets), budgets)["verdict"] == "falls"
    stays = falling(noise * .1, budgets)
    assert stays["verdict"] == "does not fall" and stays["low"] < 0 < stays["high"]
    assert np.isnan(falling(noise - 1.2, budgets)["alpha"])
