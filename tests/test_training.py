"What a run remembers: averages, warm-up, every optimiser, the loss's own parameters, and when it is written down."
import time
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler

from facecp_nb.core import ConfigError, DataError, StoreError, seed_all
from facecp_nb.models import create
from facecp_nb.training import Averaged, Callback, Checkpoint, RateLedger, Rearing, ViewLoader, learner, rear, scored

optimizer = pytest.importorskip("fastai.optimizer")
STEPS = 6


def loaders():
    g = torch.Generator().manual_seed(1)
    y = torch.arange(4).repeat_interleave(12)
    colour = torch.randint(0, 200, (4, 3, 1, 1), generator=g)[y]
    views = {v: (colour + torch.randint(0, 55, (48, 3, 16, 16), generator=g)).to(torch.uint8) for v in ("full", "mouth")}
    return ViewLoader(views, y, batch=8, train=True), ViewLoader(views, y, batch=48)


def student(*cbs, text="mouth:2 > full", **kwargs):
    seed_all(0)
    kwargs = dict(lr=.05, average=.9, ledger=RateLedger("thirds", warmup=2)) | kwargs
    return learner(create("small", 4, 16, "centred"), *loaders(), Rearing.parse(text), cbs=cbs, **kwargs)


def flat(model):
    return torch.cat([v.detach().double().flatten() for v in model.state_dict().values()])


def bits(learn):
    "Everything that must be equal in a resumed run."
    loss = [flat(learn.loss_func)] if isinstance(learn.loss_func, nn.Module) else []
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in learn.history.rows]
    return torch.cat([flat(learn.model), flat(scored(learn)), *loss]), rows, learn.rate_ledger.rates


def assert_same(a, b):
    (w, *rest), (v, *others) = bits(a), bits(b)
    assert torch.equal(w, v) and rest == others


class Kill(Callback):
    "Ends the run after so many training steps, as a signal would."
    order = 200

    def __init__(self, after): self.after = after

    def after_batch(self):
        self.after -= self.training
        if self.after < 0: raise KeyboardInterrupt


class Margin(nn.Module):
    "A loss with a weight of its own."
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits, labels): return F.cross_entropy(logits * self.scale, labels)


adam = partial(optimizer.OptimWrapper, opt=torch.optim.AdamW, betas=(.8, .99), weight_decay=.01)


def groups_of_two(parameters, lr):
    parameters = list(parameters)
    opt = torch.optim.SGD([dict(params=parameters[:3], momentum=.5), dict(params=parameters[3:], momentum=.9)], lr=lr)
    return optimizer.OptimWrapper(opt=opt)


KINDS = {
    "sgd": dict,
    "adamw": lambda: dict(opt_func=adam, lr=.002),
    "two groups": lambda: dict(opt_func=groups_of_two),
    "margin": lambda: dict(loss=Margin()),
    "margin, adamw": lambda: dict(loss=Margin(), opt_func=adam, lr=.002),
    "plateau": lambda: dict(ledger=RateLedger("plateau", warmup=1)),
    "cosine": lambda: dict(ledger=RateLedger("cosine")),
}


@pytest.mark.parametrize("after", [4, 8, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_with_the_same_bits(tmp_path, kind, after):
    whole = rear(student(**KINDS[kind]()), 4)
    with pytest.raises(KeyboardInterrupt): rear(student(Checkpoint(tmp_path, every=0), Kill(after), **KINDS[kind]()), 4)
    resumed = rear(student(Checkpoint(tmp_path, every=0), **KINDS[kind]()), 4)
    assert_same(whole, resumed)
    if "margin" in kind: assert resumed.loss_func.scale != 1


def test_a_run_killed_in_its_validation_goes_on(tmp_path):
    class Stop(Callback):
        order = 50

        def before_batch(self):
            if not self.training and self.learn.age == 2: raise KeyboardInterrupt

    learn = student(Checkpoint(tmp_path, every=0), stop := Stop())
    with pytest.raises(KeyboardInterrupt): rear(learn, 4)
    learn.remove_cb(stop)
    assert_same(rear(student(), 4), rear(student(Checkpoint(tmp_path)), 4))


def test_the_same_learner_goes_on_after_an_interruption(tmp_path):
    class Once(Callback):
        order, left = 50, 1

        def before_batch(self):
            if not self.training and self.learn.age == 2 and self.left:
                self.left = 0
                raise KeyboardInterrupt

    learn = student(Checkpoint(tmp_path, every=0), Once())
    with pytest.raises(KeyboardInterrupt): rear(learn, 4)
    resumed = rear(learn, 4)
    assert torch.equal(bits(resumed)[0], bits(rear(student(), 4))[0])


def test_all_dice_go_on(tmp_path):
    class Throw(Callback):
        def before_batch(self):
            if self.training: self.learn.thrown = (torch.rand(1).item(), np.random.rand())

    whole = rear(student(Throw()), 3)
    with pytest.raises(KeyboardInterrupt): rear(student(Throw(), Checkpoint(tmp_path, every=0), Kill(8)), 3)
    assert rear(student(Throw(), Checkpoint(tmp_path)), 3).thrown == whole.thrown


def test_a_state_written_now_and_then_gives_the_same_end(tmp_path):
    learn = student(checkpoint := Checkpoint(tmp_path, keep=[2], every=1e9))
    checkpoint._cost = 1e9
    saved, save = [], checkpoint.save
    checkpoint.save = lambda path, age, step=0: (saved.append((path.name, age, step)), save(path, age, step))
    checkpoint._written = time.monotonic()
    rear(learn, 4)
    assert saved == [("age0002.safetensors", 2, 0), ("last.safetensors", 4, 0)]
    assert_same(rear(student(), 4), learn)


def test_at_every_half_epoch_when_asked(tmp_path):
    learn, saved = student(checkpoint := Checkpoint(tmp_path, every=0)), []
    checkpoint.save = lambda path, age, step=0: saved.append((age, step))
    rear(learn, 3)
    assert saved == [(0, 3), (1, 0), (1, 3), (2, 0), (2, 3), (3, 0)]


def test_one_run_starts_from_another(tmp_path):
    "Goes on with momentum, schedule and average; the rates before the start are in its ledger."
    whole = rear(student(Checkpoint(tmp_path / "a", keep=[2])), 4)
    heir = rear(student(Checkpoint(tmp_path / "b", start=Checkpoint.at(tmp_path / "a", 2))), 4)
    assert_same(whole, heir)


def test_a_fresh_start_takes_networks_and_statistics_alone(tmp_path):
    kept = Checkpoint.at(tmp_path / "a", 2)
    rear(student(Checkpoint(tmp_path / "a", keep=[2])), 4)
    _, state = Checkpoint.read(kept)

    class Onset(Callback):
        order = 150

        def before_batch(self):
            if not self.training or hasattr(self, "rate"): return
            self.rate, self.momentum = self.learn.opt.hypers[-1]["lr"], list(self.learn.opt.opt.state)
            self.network, self.mean = flat(self.learn.model), flat(self.learn.averaged.average)

    ledger = RateLedger("thirds", horizon=6, warmup=1, begin=2)
    start = Checkpoint(tmp_path / "b", start=kept, fresh=True)
    learn = rear(student(Onset(), start, ledger=ledger), 8)
    first = learn.onset
    assert torch.equal(first.network, torch.cat([v.double().flatten() for v in state["model"].values()]))
    average = state["callbacks"]["averaged"]
    assert torch.equal(first.mean, torch.cat([v.double().flatten() for v in average.values()]))
    assert first.rate == pytest.approx(.05 / STEPS) and first.momentum == []
    assert [learn.rate_ledger.rates[age] for age in range(2, 8)] == [.05, .05, .025, .025, .0125, .0125]


def test_an_average_joins_a_base_that_had_none(tmp_path):
    rear(student(Checkpoint(tmp_path / "a", keep=[2]), average=0.), 3)
    learn = student(Checkpoint(tmp_path / "b", start=Checkpoint.at(tmp_path / "a", 2)), text="full")
    rear(learn, 2)
    assert scored(learn) is learn.model and not hasattr(student(average=0.), "averaged")
    assert int(rear(learn, 4).averaged.average.n_averaged) == 2 * STEPS


def test_the_average_is_the_formula_and_leaves_the_network_alone():
    class Keep(Callback):
        def before_fit(self): self.states = []

        def after_step(self): self.states.append({k: v.clone() for k, v in self.learn.model.state_dict().items()})

    learn = rear(student(Keep(), average=.8), 3)
    mean = learn.keep.states[0]
    for state in learn.keep.states[1:]:
        mean = {k: .8 * mean[k] + .2 * v if v.is_floating_point() else v for k, v in state.items()}
    for name, value in scored(learn).state_dict().items():
        if value.is_floating_point(): torch.testing.assert_close(value, mean[name], rtol=1e-4, atol=1e-6)
    assert torch.equal(flat(learn.model), flat(rear(student(average=0.), 3).model))


def test_validation_is_of_the_average():
    learn = rear(student(), 3)
    network = scored(learn).eval()
    with torch.no_grad(): losses = [F.cross_entropy(network(x), y).item() for x, y in loaders()[1]]
    learn.model.eval()
    with torch.no_grad(): others = [F.cross_entropy(learn.model(x), y).item() for x, y in loaders()[1]]
    assert learn.history.rows[-1]["valid_loss"] == pytest.approx(losses[0], rel=1e-5) != pytest.approx(others[0])


@pytest.mark.parametrize("decay", [0, 1, -1, float("nan"), "x", True])
def test_decays_that_make_no_average_are_refused(decay):
    with pytest.raises(ConfigError, match="average"): Averaged(decay)


class Taken(Callback):
    "The rate of every step."
    def before_fit(self): self.rates = []

    def after_step(self): self.rates.append(self.learn.opt.hypers[-1]["lr"])


@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_warm_up_step_by_step(warmup):
    learn = rear(student(Taken(), ledger=RateLedger("constant", warmup=warmup)), 3)
    n = max(1, warmup * STEPS)
    expected = [.05 * min(k, n) / n if warmup else .05 for k in range(1, 3 * STEPS + 1)]
    assert learn.taken.rates == pytest.approx(expected)
    assert [row["rate"] for row in learn.history.rows] == [.05] * 3


def test_a_replayed_ledger_warms_up_by_the_same_rule():
    base = rear(student(Taken()), 4)
    rates = list(base.rate_ledger.rates.values())
    twin = rear(student(Taken(), ledger=RateLedger(replay=rates, warmup=2)), 4)
    assert twin.taken.rates == base.taken.rates and twin.rate_ledger.rates == base.rate_ledger.rates
    assert torch.equal(flat(twin.model), flat(base.model))


def expected_rates(scheduler, loss=None, epochs=20):
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=.05)
    scheduler, rates = scheduler(opt), []
    for _ in range(epochs):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step(*([] if loss is None else [loss]))
    return rates


class Flat(Callback):
    order = -3  # between the history and the ledger

    def after_epoch(self): self.learn.history.rows[-1]["valid_loss"] = 1.


@pytest.mark.parametrize("warmup", [0, 2])
def test_a_flat_loss_halves_the_rate_as_torch_does(warmup):
    learn = rear(student(Flat(), ledger=RateLedger("plateau", warmup=warmup), text="full"), 20)
    expected = expected_rates(lambda opt: lr_scheduler.ReduceLROnPlateau(opt, factor=.5, patience=5), 1.)
    assert list(learn.rate_ledger.rates.values()) == expected
    assert [age for age in range(20) if age and expected[age] < expected[age - 1]] == [7, 13, 19]


@pytest.mark.parametrize("name, drops", [("step", [4, 8, 12, 16]), ("thirds", [6, 12, 18]), ("constant", [])])
def test_schedules_drop_when_they_say(name, drops):
    rates = list(rear(student(ledger=RateLedger(name), text="full"), 20).rate_ledger.rates.values())
    assert [age for age in range(1, 20) if rates[age] < rates[age - 1]] == drops
    assert rates[-1] == .05 * .5 ** len(drops)


def test_a_sleeper_starts_at_the_rate_of_its_first_day():
    learn = rear(student(text="none:2 > full", ledger=RateLedger(replay=[.1, .2, .3, .4])), 4)
    assert learn.rate_ledger.rates == {2: .3, 3: .4}


def test_a_ledger_too_short_or_unknown_is_refused():
    with pytest.raises(ConfigError, match="2 epochs"): rear(student(ledger=RateLedger(replay=[.1, .1])), 4)
    with pytest.raises(ConfigError, match="thirds"): RateLedger("fifths")


@pytest.mark.parametrize("spoil", [lambda raw: raw[:-5], lambda raw: b"", lambda raw: b"x" * 100, lambda raw: raw[:40]])
def test_a_damaged_state_is_named(tmp_path, spoil):
    rear(student(checkpoint := Checkpoint(tmp_path)), 3)
    checkpoint.last.write_bytes(spoil(checkpoint.last.read_bytes()))
    for read in (Checkpoint(tmp_path).age, lambda: Checkpoint.read(checkpoint.last)):
        with pytest.raises(StoreError, match="last.safetensors"): read()


@pytest.mark.parametrize("change", [dict(average=.5, opt_func=groups_of_two)])
def test_another_kind_of_run_is_named(tmp_path, change):
    rear(student(Checkpoint(tmp_path)), 3)
    with pytest.raises(StoreError, match="another kind"): rear(student(Checkpoint(tmp_path), **change), 4)


def test_nothing_is_left_beside_the_states(tmp_path):
    rear(student(Checkpoint(tmp_path, keep=[1])), 3)
    assert {f.name for f in tmp_path.iterdir()} == {"age0001.safetensors", "last.safetensors"}
    assert Checkpoint(tmp_path).age() == 3


def test_views_and_labels_belong_together():
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    for views, labels in (({"full": images}, torch.zeros(3, dtype=torch.int64)),
                          ({"full": images.float()}, torch.zeros(4, dtype=torch.int64)),
                          ({"full": images[:, 0]}, torch.zeros(4, dtype=torch.int64))):
        with pytest.raises(DataError): ViewLoader(views, labels)


def test_events_reach_every_kind_of_callback():
    "A method, a function given to fastai's Callback, and fastai's own reset of `run` after a fit."
    seen = []
    given = Callback(after_step=lambda self: seen.append("given"))
    off = Callback()
    learn = student(given, off)
    off.run = False
    rear(learn, 3)
    assert seen == ["given"] * 3 * STEPS and off.run


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_every_gpu_keeps_its_dice(tmp_path):
    train, valid = (ViewLoader({k: v.cuda() for k, v in loader.views.items()}, loader.labels.cuda(), batch=8,
                               train=loader.train) for loader in loaders())
    learn = learner(create("small", 4, 16), train, valid, Rearing.parse("full"), average=.9, cbs=[Checkpoint(tmp_path)])
    rear(learn, 2)
    assert len(Checkpoint.read(tmp_path / "last.safetensors")[1]["rng"]["cuda"]) == torch.cuda.device_count()
    assert all(p.is_cuda for p in scored(learn).parameters())
