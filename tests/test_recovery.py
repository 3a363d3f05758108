"Distillation and attention transfer: referee values, equal steps by hand, and runs that are killed and resumed."
import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facecp_nb import training
from facecp_nb.core import ConfigError, DataError, seed_all
from facecp_nb.models import Taps, create, groups
from facecp_nb.recovery import Distill, attention_bound, attention_loss, attention_map, distillation_loss
from facecp_nb.training import Callback

CancelFitException = pytest.importorskip("fastai.callback.core").CancelFitException


@pytest.fixture(scope="module")
def golden(shared):
    numbers = np.load(shared / "golden" / "numbers.npz")
    return {name: torch.from_numpy(numbers[name]) for name in numbers if numbers[name].dtype.kind in "fi"}


def test_attention_equals_the_referee(golden):
    loss = attention_loss(*([golden[f"{who}_{i}"] for i in range(4)] for who in ("student", "teacher")))
    torch.testing.assert_close(loss.double(), golden["attention_loss_per_group"], rtol=1e-5, atol=0)


def test_distillation_equals_the_referee(golden):
    logits = golden["student_logits"], golden["teacher_logits"], golden["labels"]
    maps = ([golden[f"{who}_{i}"] for i in range(4)] for who in ("student", "teacher"))
    kd = distillation_loss(*logits)
    assert kd.item() == pytest.approx(golden["kd_T5_alpha1"].item(), rel=1e-5)
    assert distillation_loss(*logits, 4., .7).item() == pytest.approx(golden["kd_T4_alpha0.7"].item(), rel=1e-5)
    total = kd + 2 * attention_loss(*maps).sum()
    assert total.item() == pytest.approx(golden["total_T5_alpha1_beta2"].item(), rel=1e-5)


def test_attention_equals_loops():
    g = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 3, 4, 5, generator=g), torch.randn(2, 7, 4, 5, generator=g)

    def slow(x):
        def energy(channels): return sum(float(v) ** 2 for v in channels) / x.shape[1]
        maps = [[energy(x[b, :, i, j]) for i in range(4) for j in range(5)] for b in range(2)]
        return [[v / math.sqrt(sum(w * w for w in m)) for v in m] for m in maps]

    expected = np.mean((np.array(slow(s)) - np.array(slow(t))) ** 2)
    np.testing.assert_allclose(attention_map(s).numpy(), slow(s), rtol=1e-5)
    assert attention_loss([s], [t]).item() == pytest.approx(expected, rel=1e-5)


def test_distillation_equals_sums():
    s, t, labels = [[1., 2., 0.], [0., -1., 3.]], [[2., 1., 0.], [1., 1., 1.]], [0, 2]

    def soft(row, temperature):
        e = [math.exp(v / temperature) for v in row]
        return [v / sum(e) for v in e]

    kl = sum(p * math.log(p / q) for a, b in zip(s, t) for p, q in zip(soft(b, 3), soft(a, 3))) / 2
    ce = -sum(math.log(soft(row, 1)[y]) for row, y in zip(s, labels)) / 2
    loss = distillation_loss(torch.tensor(s), torch.tensor(t), torch.tensor(labels), 3., .6)
    assert loss.item() == pytest.approx(.6 * 9 * kl + .4 * ce, rel=1e-5)


def test_attention_of_silence_is_zero_and_has_a_gradient():
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    attention_loss([x], [torch.ones(1, 2, 3, 3)]).sum().backward()
    assert attention_map(x).abs().sum() == 0 and torch.isfinite(x.grad).all()


def test_half_precision_does_not_overflow():
    assert torch.isfinite(attention_map(torch.full((1, 2, 2, 2), 1000., dtype=torch.float16))).all()


def test_maps_of_different_size_meet_at_the_smaller():
    x = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pooled = F.avg_pool2d(x.pow(2).mean(1, keepdim=True), 2).sqrt()
    assert attention_loss([x], [pooled]).item() == pytest.approx(0, abs=1e-12)
    assert attention_loss([pooled], [x]).item() == pytest.approx(0, abs=1e-12)


def test_bound_of_the_published_setting():
    assert attention_bound([(56, 56), (28, 28), (14, 14), (7, 7)], beta=2) == pytest.approx(.108, abs=5e-4)


@pytest.mark.parametrize("student, teacher", [
    ([], []), ([torch.ones(1, 1, 2, 2)], []), ([torch.ones(2, 1, 2, 2)], [torch.ones(1, 1, 2, 2)]),
    ([torch.ones(1, 4)], [torch.ones(1, 4)])])
def test_unfit_maps_are_refused(student, teacher):
    with pytest.raises(DataError): attention_loss(student, teacher)


@pytest.mark.parametrize("s, t, y", [
    ((2, 3), (2, 4), [0, 1]), ((2, 3), (2, 3), [0]), ((2, 3), (2, 3), [0, 3]), ((2, 3), (2, 3), [-1, 0]),
    ((3,), (3,), [0]), ((0, 3), (0, 3), [])])
def test_unfit_outputs_are_refused(s, t, y):
    with pytest.raises(DataError): distillation_loss(torch.zeros(s), torch.zeros(t), torch.tensor(y, dtype=torch.long))


@pytest.mark.parametrize("wrong", [
    dict(temperature=0), dict(temperature=-1), dict(temperature=float("nan")), dict(alpha=-.1), dict(alpha=1.1),
    dict(alpha=float("nan")), dict(beta=-1), dict(beta=float("inf")), dict(kd=False, at=False)])
def test_senseless_mixes_are_refused(wrong):
    with pytest.raises(ConfigError): Distill(create("small", 3, 32), **wrong)


def loader(n, seed, train):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    images = (torch.rand(n, 3, 32, 32, generator=g) * 150 + labels[:, None, None, None] * 50).to(torch.uint8)
    return training.ViewLoader({"full": images}, labels, batch=8, train=train)


def student(*cbs):
    seed_all(1)
    loaders, rearing = (loader(32, 0, True), loader(12, 1, False)), training.Rearing.parse("full")
    return training.learner(create("small", 3, 32), *loaders, rearing, lr=.02, cbs=cbs)


@pytest.fixture(scope="module")
def teacher():
    seed_all(0)
    return create("small", 3, 32)


def weights(learn):
    return torch.cat([v.flatten().double() for v in learn.model.state_dict().values()])


class Keep(Callback):
    "Every training batch with the loss that was used for it."
    order = 70

    def before_fit(self): self.kept = []

    def after_loss(self):
        if not self.training: return
        model, pred = copy.deepcopy(self.learn.model), self.pred.detach().clone()
        self.kept.append((self.learn.age, self.xb[0].clone(), self.yb[0], model, pred, self.learn.loss.item()))


@pytest.mark.parametrize("kd, at", [(True, True), (True, False), (False, True)])
def test_loss_is_the_formula_on_the_same_batch(teacher, kd, at):
    learn = student(keep := Keep(), Distill(teacher, kd=kd, at=at, temperature=4., alpha=.7, beta=50., onset=1))
    training.rear(learn, 2)
    assert {age for age, *_ in keep.kept} == {0, 1}
    for age, x, y, model, pred, loss in keep.kept:
        if age == 0:
            expected = F.cross_entropy(pred, y)
        else:
            model.train()
            with torch.no_grad(), Taps(model, groups(model)) as a, Taps(teacher, groups(teacher)) as b:
                s, t = model(x), teacher(x)
                ce, look = F.cross_entropy(s, y), attention_loss(a.values(), b.values()).sum()
            expected = (distillation_loss(s, t, y, 4., .7) if kd else ce) + 50 * look * at
        assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_before_the_onset_nothing_changes(teacher):
    plain, late = (training.rear(learn, 2) for learn in (student(), student(Distill(teacher, onset=2))))
    assert torch.equal(weights(plain), weights(late)) and late.distill.terms == []


def test_validation_stays_cross_entropy(teacher):
    learn = training.rear(student(Distill(teacher, beta=1000.)), 1)
    learn.model.eval()
    with torch.no_grad():
        losses = [(F.cross_entropy(learn.model(x), y).item(), len(y)) for x, y in loader(12, 1, False)]
    assert learn.history.rows[-1]["valid_loss"] == pytest.approx(sum(v * n for v, n in losses) / 12, rel=1e-5)


def test_writing_the_record_does_not_move_the_weights(teacher, monkeypatch):
    with_shares = training.rear(student(Distill(teacher)), 1)
    monkeypatch.setattr(Distill, "_shares", lambda self, weighted: {})
    assert torch.equal(weights(with_shares), weights(training.rear(student(Distill(teacher)), 1)))


def test_teacher_is_left_alone_and_hooks_are_gone(teacher):
    before = copy.deepcopy(teacher.state_dict())
    learn = training.rear(student(Distill(teacher)), 1)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters()) and not teacher.training
    assert not any(m._forward_hooks for model in (teacher, learn.model) for m in model.modules())


def test_shares_add_to_one_and_means_are_per_image(teacher):
    rows = training.rear(student(Distill(teacher, alpha=.5)), 2).distill.terms
    assert [row["epoch"] for row in rows] == [0, 1] and all(row["images"] == 32 for row in rows)
    for row in rows: assert sum(row[f"share_{k}"] for k in ("ce", "kd", "at")) == pytest.approx(1)


def test_no_teacher_of_oneself_or_of_other_people(teacher):
    learn = student()
    learn.add_cb(Distill(learn.model))
    with pytest.raises(ConfigError, match="one network"): training.rear(learn, 1)
    with pytest.raises(DataError, match="knows 5 people"): training.rear(student(Distill(create("small", 5, 32))), 1)


class Kill(Callback):
    "Ends the run after so many training batches, as a signal would."
    order = 200

    def __init__(self, after): self.after, self.seen = after, 0

    def after_batch(self):
        self.seen += self.training
        if self.seen >= self.after: raise CancelFitException


@pytest.mark.parametrize("after", [1, 2, 3, 6, 7, 9])
def test_a_killed_run_goes_on_with_the_same_bits_and_record(teacher, tmp_path, after):
    whole = training.rear(student(Distill(teacher, beta=100., onset=1)), 3)
    make = lambda *cbs: student(Distill(teacher, beta=100., onset=1), training.Checkpoint(tmp_path, every=0), *cbs)
    training.rear(make(Kill(after)), 3)
    resumed = training.rear(make(), 3)
    assert torch.equal(weights(whole), weights(resumed))
    assert resumed.distill.terms == whole.distill.terms
    assert json.loads(json.dumps(resumed.distill.state_dict())) == resumed.distill.state_dict()


@pytest.mark.parametrize("labels", [torch.tensor([0, 1], dtype=torch.int32), torch.tensor([0., 1.]), [0, 1]])
def test_labels_that_are_not_int64_are_refused(labels):
    with pytest.raises(DataError, match="labels"): distillation_loss(torch.zeros(2, 3), torch.zeros(2, 3), labels)


def test_attention_refuses_arrays_and_empty_batches():
    with pytest.raises(DataError, match="must be a tensor"): attention_map(np.ones((1, 2, 3, 3)))
    none = torch.ones(0, 2, 3, 3)
    with pytest.raises(DataError, match="no pictures"): attention_loss([none], [none])
