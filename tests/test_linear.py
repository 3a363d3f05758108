"Two linear paths: closed forms against integration, what is conserved, one layer; and matrices completed by descent."
import numpy as np
import pytest
import torch

from facecp_nb.core import ConfigError
from facecp_nb.models import (
    closes_at, complete, conserved, deficit_for, learning_time, limits, lone_time, share_at_rest, shares, two_paths,
)

DEPTHS = (1, 2, 3, 4)


def lone_logistic(t, start, strength):
    "K_a of one path of two layers."
    return strength / (1 + (strength / start**2 - 1) * np.exp(-2 * strength * t))


@pytest.mark.parametrize("strength,start", [(1., .05), (3., .1), (.5, .02)])
def test_two_layers_follow_the_logistic_curve(strength, start):
    life = two_paths(2, 1.5, 1.5, strength, start)
    expected = lone_logistic(life.time * learning_time(2, strength, start), start, strength)
    np.testing.assert_allclose(life.K_a, expected, rtol=1e-6)
    assert lone_time(2, .3 * strength, strength, start) == pytest.approx(
        np.log((strength / start**2 - 1) * .3 / .7) / (2 * strength), rel=1e-9)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("strength", [1., 2.5])
def test_the_end_follows_from_the_weights_at_lifting(depth, strength):
    for deficit, deprived_at in ((0., 0.), (.05, 0.), (.4, 0.), (.4, 2.)):
        life = two_paths(depth, deficit, 60, strength, .1, deprived_at)
        assert life[["K_a", "K_b"]].iloc[-1].sum() == pytest.approx(strength, rel=1e-6)
        expected = shares(depth, [deficit], strength, .1, deprived_at).share[0]
        assert life.K_b.iloc[-1] / strength == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("depth", DEPTHS)
def test_one_quantity_never_changes_while_both_are_open(depth):
    life = two_paths(depth, .3, 30).iloc[101:]
    quantity = conserved(depth, life.K_a**(1 / depth), life.K_b**(1 / depth))
    np.testing.assert_allclose(quantity, quantity.iloc[0], rtol=1e-6)


def test_a_deprived_path_stands_still_and_is_absent():
    life = two_paths(3, 1., 1.)
    assert life.K_b.nunique() == 1
    late = two_paths(2, 5., 10., deprived_at=5.)
    assert late.iloc[201].K_a == pytest.approx(1, abs=1e-4)  # grew into the place of b
    assert late.iloc[201].K_b == pytest.approx(.5, abs=1e-3)


def test_limits():
    for start in (.05, .1):
        assert limits(2, 1., start) == pytest.approx((start**2 / (start**2 + 1), 1 / 3))
        assert limits(1, 1., start) == pytest.approx((start / 2, 1 / 4))
    assert limits(2, 4., .1)[0] == pytest.approx(.01 / 4.01)
    late = [limits(d)[1] for d in (1, 2, 3, 6, 12)]
    assert late == sorted(late) and late[-1] < (3 - 5**.5) / 2


def test_one_layer_has_a_share_of_what_is_left_and_no_window():
    table = shares(1, [0, .2, .5, 1, 3])
    np.testing.assert_allclose(table.share, (1 - (table.carried - .05)) / 2, rtol=1e-8)
    with pytest.raises(ConfigError, match="no window"): closes_at(1)
    early = [share_at_rest(d, .01**(1 / d), .0025**(1 / d)) for d in DEPTHS]  # 99 hundredths are still to be learned
    assert early == pytest.approx([.496, .2, .02, .008], abs=.002)


def test_when_the_window_closes():
    for depth in (2, 3, 4):
        assert closes_at(depth, start=.01) == pytest.approx(lone_time(depth, .5, start=.01), rel=.05)
        half = [deficit_for(depth, .25, start=start) for start in (.01, .001)]
        assert half[0] == pytest.approx(half[1], rel=1e-2)
    assert deficit_for(2, .25, start=.001) == pytest.approx(np.log(3) / 2, rel=1e-4)


@pytest.mark.parametrize("depth", DEPTHS)
def test_deficits_are_read_backwards(depth):
    for share in (.1, .3, .45):
        deficit = deficit_for(depth, share, 2., .1) / learning_time(depth, 2., .1)
        assert shares(depth, [deficit], 2., .1).share[0] == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize("call", [
    lambda: two_paths(0, 1, 2), lambda: two_paths(2.5, 1, 2), lambda: two_paths(2, -1, 2), lambda: two_paths(2, 3, 2),
    lambda: two_paths(2, 1, 2, strength=0), lambda: two_paths(2, 1, 2, start=2.), lambda: two_paths(2, 1, float("nan")),
    lambda: two_paths(2, 1, 2, deprived_at=-1), lambda: lone_time(2, 1.), lambda: shares(2, [1, .5]), lambda: shares(2, []),
    lambda: share_at_rest(2, 0, 1), lambda: deficit_for(2, .5), lambda: deficit_for(2, .001), lambda: complete(3, [], 10),
    lambda: complete(3, [5, 5], 10), lambda: complete(3, [0], 0), lambda: complete(3, [0], 10, []),
    lambda: complete(0, [0], 10), lambda: complete(3, [0], 10, [True]),
])
def test_bad_input(call):
    with pytest.raises(ConfigError): call()


def test_completion_descends_by_the_gradient():
    "A batch with shared beginnings gives what each world gives alone, and steps are those of autograd."
    from facecp_nb.models.linear import COMPLETION, _tasks
    together = complete(3, [0, 30], 40, seeds=[0, 1]).set_index(["deficit_steps", "seed"])
    first, then, mask, born = _tasks(3, 1, **COMPLETION)
    factors = [f.clone().requires_grad_() for f in born]
    for step in range(70):
        target = first if step < 30 else then
        loss = ((factors[2] @ factors[1] @ factors[0] - target)**2 * mask).sum() / mask.sum()
        slopes = torch.autograd.grad(loss, factors)
        factors = [(f - .3 * s).detach().requires_grad_() for f, s in zip(factors, slopes)]
    square = (factors[2] @ factors[1] @ factors[0] - then)**2
    for column, cells in (("test_error", 1 - mask), ("train_error", mask)):
        expected = ((square * cells).sum() / cells.sum()).item()
        assert together.loc[(30, 1), column] == pytest.approx(expected, rel=1e-9)


def test_one_factor_never_learns_an_unseen_cell():
    errors = complete(1, [0, 200], 200)
    assert errors.test_error[0] == pytest.approx(errors.test_error[1], rel=1e-12)
    assert errors.test_error[0] == pytest.approx(1, abs=.1)
