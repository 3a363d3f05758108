"Heat maps: equal in any batch, without side effects, for every architecture; scores that know chance from truth"
import numpy as np
import pytest
import torch

from facecp_nb import evaluation
from facecp_nb.core import DataError
from facecp_nb.models import create

METHODS = ("gradcam", "hirescam", "lrp", "occlusion")


def living(arch, size, n=3):
    "A network whose BatchNorms have seen something, pictures and labels."
    torch.manual_seed(0)
    net, images = create(arch, 5, size, inputs="centred").train(), torch.rand(n, 3, size, size)
    with torch.no_grad():
        for _ in range(8): net(torch.rand(8, 3, size, size))
    return net.eval(), images, torch.arange(n)


@pytest.fixture(scope="module")
def small(): return living("small", 36, 5)


@pytest.mark.parametrize("method", evaluation.METHODS)
def test_a_map_does_not_hang_on_its_batch(method, small):
    net, images, labels = small
    whole = evaluation.attribute(net, images, labels, method)
    parts = evaluation.attribute(net, images, labels, method, batch=2)
    assert whole.shape == (5, 36, 36) and 0 <= whole.min() and whole.max() <= 1
    if method != "random": torch.testing.assert_close(whole, parts, atol=2e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_as_it_was(method, small):
    net, images, labels = small
    before = {k: v.clone() for k, v in net.state_dict().items()}
    evaluation.attribute(net, images, labels, method)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters()) and not net.training


def test_integers_and_shares_are_one_picture(small):
    net, images, labels = small
    integers = (images * 255).round().byte()
    a, b = (evaluation.attribute(net, x, labels, "gradcam") for x in (integers, integers.float() / 255))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("arch,size", [("resnet18", 32), ("alexnet", 64)])
def test_relevance_is_conserved_in_other_architectures(arch, size):
    net, images, labels = living(arch, size, 2)
    scores = net(images).gather(1, labels[:, None])[:, 0].detach()
    found = evaluation.relevance(net, images, labels).sum((1, 2))
    torch.testing.assert_close(found, scores, rtol=.02, atol=.02 * scores.abs().max().item())


def test_erasing_nothing_is_the_picture_and_erasing_all_forgets_the_map(small):
    net, images, labels = small
    maps = torch.rand(2, 5, 36, 36)
    first, second = (evaluation.erase(net, images, labels, m, "deletion") for m in maps)
    torch.testing.assert_close(first[:, [0, -1]], second[:, [0, -1]])
    torch.testing.assert_close(first[:, 0], net(images).softmax(1).gather(1, labels[:, None])[:, 0].detach())
    back = evaluation.erase(net, images, labels, maps[0], "insertion")
    torch.testing.assert_close(back[:, [0, -1]], first[:, [-1, 0]])


def test_noise_scores_at_chance():
    masks = torch.zeros(300, 2, 20, 20, dtype=torch.bool)
    masks[:, 0, 2:6, 2:9] = masks[:, 1, 12:17, 5:15] = True
    noise = torch.rand(300, 20, 20, generator=torch.Generator().manual_seed(0))
    found = evaluation.score_maps(noise, masks, torch.tensor([[.5, 2.]]).expand(300, -1)).mean()
    np.testing.assert_allclose([found.auc, found["rank"]], [.5, 0], atol=.02)
    assert abs(found.pointing - 50 / 400) < .06


def test_auc_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    masks = torch.zeros(1, 2, 9, 9, dtype=torch.bool)
    masks[0, 0, :4, :4] = masks[0, 1, 5:, 3:] = True
    heat = (10 * torch.rand(1, 9, 9)).round()  # with ties
    inside = masks[0].any(0)
    theirs = metrics.roc_auc_score(masks[0, 0][inside], heat[0][inside])
    assert evaluation.score_maps(heat, masks, torch.tensor([[3., 1.]])).auc[0] == pytest.approx(theirs)


def test_a_box_beyond_the_picture_is_cut_off():
    whole, = evaluation.lay_back(torch.ones(1, 4, 4), torch.tensor([[-3., 5., 4., 12.]]), [(8, 6)])
    assert whole.shape == (8, 6) and torch.allclose(whole[5:, :4], torch.ones(3, 4)) and not whole[:5].any()


def test_a_face_without_a_mouth_has_no_place_on_the_average_face():
    with pytest.raises(DataError, match="mouth corner"):
        evaluation.to_average(torch.zeros(1, 1, 9, 9), torch.full((1, 5, 2), torch.nan))
