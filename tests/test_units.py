"Streamed units, their null, and measures of plasticity: bounds, slow re-creations, and what bad input is told."
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from facecp_nb.core import ConfigError, DataError, seed_all
from facecp_nb.evaluation import (
    correlate, fisher_trace, forecast, identity_selective, permutation_null, preferred, relu_layers, sampled_units,
    sharpness, split_half, stream)
from facecp_nb.models import Taps, create, groups


class Wide(nn.Module):
    "One layer of 4 x 64 x 64 units."
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())

    def forward(self, x): return self.body(x).mean((2, 3))


def test_no_portion_of_answers_exceeds_the_memory():
    model, images, memory = Wide().eval(), torch.rand(30, 3, 64, 64), 500_000
    blocks = list(stream(model, images, ["body.1"], memory=memory, batch=7))
    assert all(block.nbytes <= memory for _, _, block in blocks) and len(blocks) > 3
    np.testing.assert_array_equal(np.concatenate([p for _, p, _ in blocks]), np.arange(4 * 64 * 64))
    with torch.no_grad(): expected = model.body(images).flatten(1).numpy()
    np.testing.assert_allclose(np.concatenate([b for _, _, b in blocks], 1), expected, rtol=1e-5, atol=1e-6)


def test_sampled_units_are_distinct_and_the_same_for_every_network():
    some = sampled_units(100_000, 20_000)
    assert len(np.unique(some)) == 20_000 and (np.diff(some) > 0).all()
    np.testing.assert_array_equal(some, sampled_units(100_000, 20_000))
    np.testing.assert_array_equal(sampled_units(7, 20), np.arange(7))


@pytest.mark.parametrize("arch", ["small", "resnet18"])
def test_the_last_relu_is_the_output_of_its_group(arch):
    model = create(arch, 3, 64).eval()
    with Taps(model, relu_layers(model)) as last, Taps(model, groups(model)) as ends, torch.no_grad():
        model(torch.rand(1, 3, 64, 64))
        for unit, end in zip(last.values(), ends.values()): assert torch.equal(unit, end) and unit.min() >= 0


@pytest.mark.parametrize("arch, places", [("vgg16", (8, 15, 22, 29)), ("alexnet", (1, 4, 9, 11))])
def test_the_last_relu_stands_before_pooling(arch, places):
    with torch.device("meta"): model = create(arch, 3, 64)
    assert relu_layers(model) == [f"body.features.{i}" for i in places]


def test_the_null_equals_one_test_after_another():
    rng, labels = np.random.default_rng(0), np.repeat(["a", "b", "c"], [4, 7, 9])
    x = rng.gamma(1., size=(20, 150)).astype(np.float32)
    names = np.random.default_rng(5)
    slow = [identity_selective(x, names.permutation(labels), .1)["selective"].mean() for _ in range(6)]
    np.testing.assert_allclose(permutation_null(x, labels, 6, .1, seed=5), slow)


def test_effect_size_is_the_share_between_people():
    rng, labels = np.random.default_rng(1), np.repeat(np.arange(200), 50)
    person = stats.zscore(rng.normal(size=200))[labels]
    x = np.stack([person + rng.normal(size=10_000) * ratio for ratio in (1., 3.)], 1)
    assert identity_selective(x, labels)["omega2"].to_numpy() == pytest.approx([.5, .1], abs=.02)


def test_preferred_counts_the_people_that_were_raised():
    rng, labels = np.random.default_rng(2), np.repeat(np.arange(10), 30)
    x = rng.normal(size=(300, 3))
    x[:, 1] += 3 * (labels == 4)
    x[:, 2] += 3 * (labels < 4)
    assert preferred(x, labels).tolist() == [0, 1, 4]


def test_halves_need_four_images_of_everybody():
    with pytest.raises(DataError, match="fewer than four"): split_half(np.random.rand(9, 2), np.repeat([0, 1, 2], 3))


def test_fisher_information_is_near_zero_where_the_network_is_sure():
    seed_all(0)
    model, images = create("small", 4, 24).eval(), torch.rand(12, 3, 24, 24)
    unsure = fisher_trace(model, images).trace.iloc[-1]
    with torch.no_grad(): model.body.fc.bias[0] += 50
    assert fisher_trace(model, images).trace.iloc[-1] < 1e-6 * unsure


def test_sharpness_of_a_known_bowl():
    "One weight matrix and cross-entropy of two classes at p = 1/2: the Hessian is known."
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False)).eval()
    nn.init.zeros_(model[1].weight)
    images, labels = torch.full((4, 3, 1, 1), 1.), torch.tensor([0, 1, 0, 1])
    assert sharpness(model, images, labels, steps=50)["value"] == pytest.approx(1.5, rel=.02)  # |x|^2 * 2 p (1 - p)


def test_networks_are_the_cases():
    table = pd.DataFrame(dict(arm=["a", "a", "b", "b"], seed=[0, 1, 0, 1], x=[0., 1, 2, 3], y=[0., 1, 2, 3]))
    assert correlate(table, "x", "y")["r"] == pytest.approx(1)
    assert forecast(table, ["x"], "y", left_out="seed")["skill"] == pytest.approx(1)
    with pytest.raises(DataError, match="lacks"): correlate(table.drop(columns="arm"), "x", "y")


@pytest.mark.parametrize("units", [0, 1.5])
def test_a_bound_on_units_is_a_whole_number(units):
    with pytest.raises(ConfigError, match="units"): sampled_units(10, units)
