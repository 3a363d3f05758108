"Inter-Prototype: every vector of the reference, the choice of children by age, and what must be refused."
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from facecp_nb.core import ConfigError, DataError, seed_all
from facecp_nb.models import head, iresnet
from facecp_nb.training import (
    MEANS, InterPrototype, child_identities, inter_prototype_loss, lowest_loss, prototype_spread, random_loss,
    train_identity)


def drawn(n, d, seed=0): return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heap(n, cosine, d=512):
    "Directions whose mean cosine is `cosine`."
    return cosine**.5 * F.normalize(drawn(1, d, 1)) + (1 - cosine)**.5 * F.normalize(drawn(n, d))


def frame(n, d):
    "n directions that reach Welch's bound: cosines and sines of d / 2 frequencies."
    angle = 2 * math.pi / n * torch.arange(n, dtype=torch.float64)[:, None] * torch.arange(1, d // 2 + 1)
    return torch.cat([angle.cos(), angle.sin()], 1)


def gradient(W, mean="published"):
    W = F.normalize(W).requires_grad_()
    return torch.autograd.grad(inter_prototype_loss(W, mean), W)[0]


def test_three_directions():
    three = torch.tensor([[1., 0], [0, 1], [1, 1]])
    assert float(inter_prototype_loss(three)) == pytest.approx(2 / 9, abs=1e-6)
    assert float(inter_prototype_loss(three, "pairs")) == pytest.approx(1 / 3, abs=1e-6)
    assert float(inter_prototype_loss(three, "row")) == pytest.approx(2 / 3, abs=1e-6)


@pytest.mark.parametrize(("n", "said"), ((100, .001934), (1000, .001951)))
def test_random_directions(n, said):
    assert random_loss(n, 512) == pytest.approx(said, abs=5e-7)
    mean = np.mean([float(inter_prototype_loss(drawn(n, 512, s))) for s in range(6)])
    assert mean == pytest.approx(said, rel=.02)


@pytest.mark.parametrize("n", (2, 7, 40))
def test_equal_prototypes(n):
    assert float(inter_prototype_loss(torch.ones(n, 12))) == pytest.approx((n - 1) / n, abs=1e-6)


@pytest.mark.parametrize(("n", "said"), ((1000, .000953), (5000, .001753)))
def test_the_floor(n, said):
    assert lowest_loss(n, 512) == pytest.approx(said, abs=5e-7)
    assert float(inter_prototype_loss(frame(n, 512))) == pytest.approx(said, abs=5e-7)
    assert lowest_loss(512, 512) == 0


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("n", (5, 30))
def test_length_is_nothing(mean, n):
    W = drawn(n, 12)
    scaled = W * torch.linspace(.1, 10, n)[:, None]
    assert float(inter_prototype_loss(scaled, mean)) == pytest.approx(float(inter_prototype_loss(W, mean)), rel=1e-9)


def test_more_children_than_dimensions_agree_with_the_full_matrix():
    W = F.normalize(drawn(90, 16))
    full = (W @ W.T - torch.eye(90)).square().mean()
    assert float(inter_prototype_loss(W)) == pytest.approx(float(full), rel=1e-9)
    assert torch.autograd.gradcheck(lambda w: inter_prototype_loss(w), (drawn(9, 4).requires_grad_(),))


def test_only_near_leaves_opposites_alone():
    opposite = torch.tensor([[1., 0], [-1, 0]])
    assert float(inter_prototype_loss(opposite)) == .5 and float(inter_prototype_loss(opposite, only_near=True)) == 0


@pytest.mark.parametrize(("n", "said"), ((100, 1.7e-4), (500, 1.6e-5)))
def test_the_pull_at_random(n, said):
    each = gradient(drawn(n, 512)).norm(dim=1).mean()
    assert float(each) == pytest.approx(said, rel=.05) and float(each) < 5e-4, "weight decay pulls harder"


@pytest.mark.parametrize(("n", "said"), ((100, .056), (2000, .012)))
def test_the_pull_in_a_heap(n, said):
    W = heap(n, .3)
    assert float(inter_prototype_loss(W)) == pytest.approx(.09, abs=.004)
    assert float(gradient(W).norm()) == pytest.approx(said, rel=.1)


def test_children_are_chosen_by_age():
    ages = pd.DataFrame(dict(person=["b"] * 10 + ["a"] * 10 + ["c"] * 12,
                             age=[12.9] * 10 + [12.] * 9 + [13.] + [5.] * 12))
    assert child_identities(ages, ["a", "b", "c", "d"]).tolist() == [1, 2]
    assert child_identities(ages, ["c", "a", "b"], least=9).tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="11 pictures"): child_identities(ages, ["a", "b"], least=11)
    with pytest.raises(DataError, match="no age"): child_identities(ages.assign(age=np.nan), ["a"])


def test_the_term_reaches_the_chosen_prototypes_alone():
    arc = head("arcface", 8, 6)
    term = InterPrototype(arc, torch.tensor([1, 4, 5]), weight=3.)(torch.zeros(2, 8), None, None)
    term["inter_prototype"].backward()
    assert arc.weight.grad.norm(dim=1).gt(0).tolist() == [False, True, False, False, True, True]
    loss = float(term["inter_prototype"].detach())
    assert loss == pytest.approx(3 * float(inter_prototype_loss(arc.weight[[1, 4, 5]])))


@pytest.mark.parametrize("wrong", (dict(children=torch.tensor([0, 6])), dict(children=torch.tensor([1, 1])),
                                   dict(weight=-1), dict(mean="median"), dict(children=torch.tensor([.5, 1]))))
def test_impossible_terms_are_refused(wrong):
    given = dict(children=torch.tensor([0, 1])) | wrong
    with pytest.raises((ConfigError, DataError)): InterPrototype(head("arcface", 8, 6), **given)


def test_one_prototype_cannot_stand_apart():
    with pytest.raises(DataError): inter_prototype_loss(torch.ones(1, 4))


def test_trained_with_the_term_children_stand_further_apart():
    labels = torch.arange(64) % 8
    images = torch.randint(0, 255, (64, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[labels < 4] //= 8  # the first four are alike
    among = {}
    for weight in (0., 50.):
        seed_all(0)
        network, arc, four = iresnet("tiny", 16, 8), head("arcface", 8, 8, scale=16.), torch.arange(4)
        rows = train_identity(network, arc, images, labels, epochs=3, lr=.05, seed=0, batch=16,
                              extra=InterPrototype(arc, four, weight))
        among[weight] = prototype_spread(arc.weight, four)["loss"]
    assert rows["inter_prototype"].gt(0).all() and among[50.] < among[0.] / 2
