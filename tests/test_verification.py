"Verification against sklearn and simulation, margin heads against another library, and real photographs"
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from facecp_nb import evaluation, models
from facecp_nb.core import ConfigError, DataError, StoreError
from sklearn import metrics


def made(n, apart=1.5, ties=False, seed=0):
    rng = np.random.default_rng(seed)
    same = rng.random(n) < .4
    scores = rng.normal(apart * same, 1)
    return scores.round(1) if ties else scores, same


# --- numbers ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_is_sklearns(ties):
    scores, same = made(2000, ties=ties)
    curve = evaluation.error_curve(scores, same)
    fpr, tpr, thresholds = metrics.roc_curve(same, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve["fmr"], fpr)
    np.testing.assert_allclose(1 - curve["fnmr"], tpr)
    np.testing.assert_allclose(curve["threshold"][1:], thresholds[1:])
    found = evaluation.measures(curve)
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(same, scores))
    for name, limit in evaluation.FMR_LIMITS.items(): assert found[name] == pytest.approx((1 - tpr)[fpr <= limit].min())
    gap = np.abs(fpr - (1 - tpr)).argmin()
    assert abs(found["eer"] - (fpr[gap] + 1 - tpr[gap]) / 2) < .003


def test_perfect_and_useless_scores():
    same = np.arange(10) < 5
    perfect, useless = (evaluation.measures(evaluation.error_curve(s, same)) for s in (same.astype(float), np.zeros(10)))
    assert perfect == dict(eer=0, auc=1, fmr100=0, fmr1000=0)
    assert useless == dict(eer=.5, auc=.5, fmr100=1, fmr1000=1)


def test_equal_error_of_two_bell_curves():
    scores, same = made(400_000, 2.)
    assert evaluation.measures(evaluation.error_curve(scores, same))["eer"] == pytest.approx(.1587, abs=.003)


def test_the_threshold_of_a_fold_has_not_seen_it():
    "A fold whose scores are shifted is judged by the others' threshold."
    same = np.tile([True, False], 50)
    scores, fold = same * 1., np.repeat(np.arange(10), 10)
    scores[fold == 3] += 10
    table = evaluation.kfold_accuracy(scores, same, fold).set_index("fold")["accuracy"]
    assert table[3] == .5 and table.drop(3).min() == 1.


def test_a_fold_is_as_slow_code_says():
    scores, same = made(300, ties=True)
    fold = evaluation.folds_for(same, k=5)
    for row in evaluation.kfold_accuracy(scores, same, fold).itertuples():
        others = fold != row.fold
        best = max(((scores[others] >= t) == same[others]).mean() for t in np.r_[np.unique(scores), np.inf])
        assert ((scores[others] >= row.threshold) == same[others]).mean() == pytest.approx(best)


def test_folds_are_stratified_and_shuffled():
    same = np.arange(100) < 30
    fold = evaluation.folds_for(same)
    assert pd.Series(same).groupby(fold).sum().tolist() == [3] * 10 and (np.diff(fold) < 0).any()
    own = evaluation.folds_for(same, np.arange(100) // 20)
    assert own.tolist() == (np.arange(100) // 20).tolist()


@pytest.mark.parametrize("pairs, published", [(372, 1.65), (1034, .8), (3786, .37)])
def test_a_threshold_on_the_same_pairs_flatters(pairs, published):
    "verification.md, section 5; the true accuracy is 81 %."
    rng, same, gain = np.random.default_rng(0), np.arange(pairs) < pairs // 2, []
    for _ in range(150):
        scores = rng.normal(2 * .878 * same, 1)
        honest = evaluation.kfold_accuracy(scores, same, evaluation.folds_for(same, seed=int(rng.integers(1 << 31))))
        gain.append(100 * (evaluation.accuracy_on_itself(scores, same)[0] - honest["accuracy"].mean()))
    assert np.mean(gain) == pytest.approx(published, abs=max(4 * np.std(gain) / 150 ** .5, .12))


@pytest.mark.slow
def test_the_bootstrap_over_people_holds_the_truth():
    "People differ: intervals over people cover the true AUC in about 95 of 100 studies, intervals over pairs do not."
    def study(rng, people=40, each=12):
        hard = rng.normal(0, .8, people)
        who = np.repeat(np.arange(people), each)
        other = (who + rng.integers(1, people, len(who))) % people
        scores = np.r_[rng.normal(1.5 + hard[who], 1), rng.normal(0, 1, len(who))]
        return scores, np.arange(2 * len(who)) < len(who), np.r_[who, who], np.r_[who, other]
    truth = evaluation.measures(evaluation.error_curve(*study(np.random.default_rng(9), 20_000, 5)[:2]))["auc"]
    held, pairs = [], []
    for seed in range(60):
        scores, same, a, b = study(np.random.default_rng(seed))
        for found, who in ((held, (a, b)), (pairs, (np.arange(len(a)),) * 2)):
            low, high = evaluation.bootstrap_by_identity(scores, same, *who, draws=200, seed=seed)["auc"]
            found.append(low <= truth <= high)
    assert np.mean(held) >= .87 and np.mean(pairs) < np.mean(held)


def test_the_bootstrap_is_the_slow_one():
    "A pair of one person counts as often as the person was drawn, a pair of two as the product."
    scores, same = made(60)
    rng = np.random.default_rng(1)
    a = rng.integers(8, size=60)
    b = np.where(same, a, (a + 1 + rng.integers(7, size=60)) % 8)
    fast = evaluation.bootstrap_by_identity(scores, same, a, b, draws=50, seed=3)["auc"]
    names = pd.factorize(np.r_[a[np.argsort(-scores)], b[np.argsort(-scores)]])[1]
    where = pd.factorize(np.concatenate([a, b]))[0].reshape(2, -1)
    drawn = np.random.default_rng(3).multinomial(len(names), np.full(len(names), 1 / len(names)), 50)
    slow = []
    for d in drawn:
        weight = np.where(same, d[where[0]], d[where[0]] * d[where[1]])
        if weight[same].sum() and weight[~same].sum():
            slow.append(metrics.roc_auc_score(same, scores, sample_weight=weight))
    np.testing.assert_allclose(fast, np.quantile(slow, [.025, .975]), atol=1e-6)


@pytest.mark.parametrize("scores, same, said", [
    ([1., np.nan], [True, False], "pair 1 is not finite"), ([1., 2.], [True, True], "one kind is missing"),
    ([1., 2., 3.], [True, False], "as many")])
def test_scores_that_mean_nothing_are_refused(scores, same, said):
    with pytest.raises(DataError, match=said): evaluation.error_curve(scores, same)


def test_cosine_and_mean_squared_error_of_unit_vectors():
    "verification.md, section 3: MSE = 2 (1 - cos) / 512; an orthogonal pair has 0.00390625."
    x, y = F.normalize(torch.randn(2, 10, 512, dtype=torch.float64), dim=2)
    score = evaluation.pair_scores(torch.cat([x, y]), range(10), range(10, 20))
    np.testing.assert_allclose(((x - y) ** 2).mean(1), 2 * (1 - score) / 512)
    e = torch.eye(512)[:2]
    assert F.mse_loss(e[0], e[1]).item() == 0.00390625


# --- embeddings ------------------------------------------------------------------------------------------------------

class Toy:
    def __init__(self, name="toy"): self.name, self.seen = name, 0
    def __call__(self, images):
        self.seen += len(images)
        return torch.stack([i.float().mean((1, 2)) for i in images]), np.array([int(i.float().mean() > 1) for i in images])

def png(grey):
    import io
    from PIL import Image
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (grey,) * 3).save(buffer, "PNG")
    return buffer.getvalue()

def test_a_picture_is_embedded_once_whatever_its_name(store, tmp_path):
    (tmp_path / "a.png").write_bytes(png(10))
    sources, toy = [tmp_path / "a.png", png(10), png(20), png(0), b"no", png(20)], Toy()
    vectors, told = evaluation.embed_all(sources, toy, batch=2)
    assert toy.seen == 3 and vectors[:3, 0].tolist() == [10, 10, 20] and vectors[3].isnan().all()
    assert told["status"].tolist() == ["found", "found", "found", "unusable", "unusable", "found"]
    assert "no face" in told["reason"][3] and "known format" in told["reason"][4]
    again, other = Toy(), Toy("other")
    assert torch.equal(evaluation.embed_all(sources[:3], again)[0], vectors[:3]) and again.seen == 0
    evaluation.embed_all(sources[:3], other)
    assert other.seen == 2


def test_damaged_kept_embeddings_are_named(store):
    evaluation.embed_all([png(9)], Toy())
    next((store / "embeddings").glob("*.safetensors")).write_bytes(b"x")
    with pytest.raises(StoreError, match="Delete that file"): evaluation.embed_all([png(9)], Toy())


# --- open set --------------------------------------------------------------------------------------------------------

def test_open_set_is_as_slow_code_says():
    rng = np.random.default_rng(0)
    gallery = evaluation.enrol(torch.tensor(rng.normal(size=(12, 4))), np.repeat(list("abcd"), 3), "all")
    probes, who = torch.tensor(rng.normal(size=(60, 4))), rng.choice(list("abcdefg"), 60)
    found = evaluation.best_matches(gallery, probes)
    curve = evaluation.open_set_curve(found, who, gallery.people)
    cosine = (F.normalize(probes) @ gallery.vectors.T).numpy()
    assert (gallery.owners[cosine.argmax(1)] == found["best"]).all()
    mated = np.isin(who, list("abcd"))
    for row in curve.itertuples():
        named = found["score"] >= row.threshold
        assert row.dir == pytest.approx((named & (found["best"] == who))[mated].mean())
        assert row.fpir == pytest.approx(named[~mated].mean()) and row.fnir == pytest.approx(1 - row.dir)
    at = evaluation.dir_at(curve, .25)
    assert at["dir"] == curve.loc[curve["fpir"] <= .25, "dir"].max() and at["fpir"] <= .25


# --- heads and networks ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, theirs, more", [("arcface", "ArcFaceLoss", dict(margin=28.6478898)), ("cosface", "CosFaceLoss", {})])
def test_heads_agree_with_pytorch_metric_learning(name, theirs, more):
    "Release 2.9 takes ArcFace's margin in degrees; .5 radians are 28.65 of them."
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning import losses
    torch.manual_seed(0)
    head, x, y = models.head(name, 16, 7).double(), torch.randn(40, 16, dtype=torch.float64), torch.arange(40) % 7
    referee = getattr(losses, theirs)(7, 16, scale=64, **(more or dict(margin=.35))).double()
    with torch.no_grad(): referee.W.copy_(head.weight.T)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine, other = F.cross_entropy(head(a, y), y), referee(b, y)
    assert mine.item() == pytest.approx(other.item(), rel=1e-6)
    mine.backward(), other.backward()
    assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-8)


def test_clamped_corners_hold_within_five_hundredths():
    "verification.md, section 2: the vectors at cos = +-1, once clamped, in single precision."
    head = models.head("elastic-arc", 2, 2, std=0.)
    with torch.no_grad(): head.weight.copy_(torch.tensor([[-1., 0.], [0., 1.]]))
    assert head(torch.tensor([[1., 0.]]), torch.tensor([0]))[0, 0].item() == pytest.approx(-56.165, abs=.05)


@pytest.mark.parametrize("name", [h for h in models.HEADS if "elastic" in h])
def test_elastic_margins_have_their_mean_and_spread(name):
    torch.manual_seed(0)
    head, cosine = models.head(name, 4, 3), torch.rand(20_000)
    drawn, setting = head.margins(cosine), head.setting
    assert drawn.mean().item() == pytest.approx(setting.m, abs=.002) and drawn.std().item() == pytest.approx(setting.std, rel=.03)
    if name.endswith("+"): assert (drawn[cosine.argsort(descending=True)].diff() >= 0).all()
    assert not torch.equal(head.margins(cosine), drawn)


def test_no_label_no_margin_and_half_precision_is_left_outside():
    head, x = models.head("arcface", 8, 3), torch.randn(5, 8)
    assert torch.allclose(head(x), 64 * F.normalize(x) @ head.prototypes.T, atol=1e-4)
    y = torch.zeros(5, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16): half = head(x.bfloat16(), y)
    assert half.dtype == torch.float32 and torch.allclose(half, head(x.bfloat16().float(), y), atol=1e-4)
    with pytest.raises(ConfigError, match="m is 4"): models.head("arcface", 8, 3, m=4)


@pytest.mark.parametrize("arch, millions", [
    ("iresnet18", 24.026), ("iresnet34", 34.139), ("iresnet50", 43.591), ("iresnet100", 65.156), ("ir50", 43.575),
    ("ir_se50", 43.798), ("ir100", 65.130), ("ir_se100", 65.502), ("ir152", 70.738), ("ir_se152", 71.149)])
def test_networks_have_the_published_number_of_parameters(arch, millions):
    with torch.device("meta"): net = models.iresnet(arch)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 3) == millions


def test_batch_norm_of_ir_se_50():
    "inter_prototype.md, section 7: 108 tensors of batch norms with 26,368 values, 127 others with 43,771,328."
    with torch.device("meta"): net = models.iresnet("ir_se50")
    norms = [p for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for p in m.parameters(recurse=False)]
    every = list(net.parameters())
    assert (len(norms), sum(p.numel() for p in norms)) == (108, 26_368)
    assert (len(every) - len(norms), sum(p.numel() for p in every) - 26_368) == (127, 43_771_328)


def test_the_maps_halve_from_112_to_7():
    net, x = models.iresnet("tiny", 112).eval(), torch.rand(1, 3, 112, 112)
    x = net.stem(x)
    sides = [x.shape[-1]]
    for k in range(1, 5):
        x = getattr(net, f"stage{k}")(x)
        sides.append(x.shape[-1])
    assert sides == [112, 56, 28, 14, 7]


# --- the command -----------------------------------------------------------------------------------------------------

@pytest.fixture
def facecp(monkeypatch, capfd, store):
    "Run the command in this process; returns (exit code, standard output, standard error)."
    import sys
    from facecp_nb import cli
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["facecp", *map(str, words)])
        try: code = cli.main() or 0
        except SystemExit as e: code = e.code or 0
        return code, *capfd.readouterr()
    return call


@pytest.fixture
def album(tmp_path):
    "Pictures of rendered people, a list of them with one broken row and one missing picture, and the same as a .bin."
    import pickle
    from facecp_nb.data import rendered
    records, lines = rendered().records, []
    for person, rows in list(records[records["split"] == "verification"].groupby("person"))[:6]:
        folder = tmp_path / "album" / person
        folder.mkdir(parents=True)
        for n, raw in enumerate(rows["jpeg"][:4], 1): (folder / f"{person}_{n:04d}.jpg").write_bytes(raw)
        lines += [f"{person} 1 2", f"{person} 3 4"]
    people = [line.split()[0] for line in lines[::2]]
    lines += [f"{p} {n} {q} {n}" for n in (1, 2) for p, q in zip(people, people[1:] + people[:1])]
    lines += [f"{people[0]} x 1", f"{people[0]} 1 9"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    flat = [p.read_bytes() for p in sorted((tmp_path / "album").rglob("*.jpg"))][:16]
    (tmp_path / "set.bin").write_bytes(pickle.dumps((flat + flat[:4] + [flat[k] for k in (0, 5, 1, 9, 2, 13, 6, 14)],
                                                     [True] * 8 + [True] * 2 + [False] * 4)))
    return tmp_path


def a_run(store):
    "A run in the store that was never trained."
    from facecp_nb.core import write_json
    from safetensors.torch import save_file
    torch.manual_seed(0)
    net, where = models.create("small", 5, 32, inputs="centred"), store / "0123456789abcdef"
    where.mkdir(parents=True)
    write_json(where / "config.json", dict(config=dict(arch="small", size=32, inputs="centred", seed=0)))
    save_file(net.state_dict(), where / "weights.safetensors")
    pd.DataFrame([dict(people=5)]).to_parquet(where / "facts.parquet")
    pd.DataFrame([dict(epoch=0)]).to_parquet(where / "history.parquet")
    write_json(where / "done", dict(at="now"))
    return where


def test_a_list_is_scored_with_a_run(facecp, store, album):
    a_run(store)
    code, out, err = facecp("verify", "--pairs", album / "pairs.txt", "--data", album / "album", "--run", "0123",
                            "--align", "whole", "--draws", 50, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["rows"][0]["pairs"] == 24 and [u["line"] for u in found["unscored"]] == [25, 26]
    assert Path(found["figure"]).is_file() and 0 <= found["rows"][0]["auc_low"] <= found["rows"][0]["auc"]
    code, out, err = facecp("verify", "--pairs", album / "set.bin", "--run", "0123", "--draws", 0,
                            "--figure", album / "det.svg")
    assert code == 0 and "alignment: whole; " in out and (album / "det.svg").is_file(), err


@pytest.mark.parametrize("words, says", [
    (["--run", "0123", "--recogniser", "x"], "either --run KEY or --recogniser DIR"), ([], "either --run"),
    (["--run", "ffff"], "0 runs in the store"), (["--run", "*"], "0 runs in the store"), (["--recogniser", "no/where"], "cannot be read"),
    (["--run", "0123", "--align", "maybe"], "auto, detect, whole"), (["--run", "0123", "--metric", "l3"], "cosine, distance"),
    (["--run", "0123", "--draws", "3"], "draws"), (["--run", "0123", "--format", "xls"], "lfw, table"),
    (["--run", "0123", "--data", "no/where"], "no folder"), (["--run", "0123", "--pairs", "no.txt"], "cannot be read"),
    (["--run", "0123", "--figure", "x.pdf", "--align", "whole"], ".html, .png")])
def test_refusals_are_one_sentence_and_exit_2(facecp, store, album, words, says):
    a_run(store)
    given = dict(zip(words[::2], words[1::2]))
    standard = {"--pairs": album / "pairs.txt", "--data": album / "album"} | given
    code, out, err = facecp("verify", *(w for pair in standard.items() for w in pair))
    assert code == 2 and says in err and "Traceback" not in err and out == "", err


# --- real photographs ------------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_masked_faces_are_told_apart_as_the_referee_does(facecp, shared):
    "The AUCs of shared/faces/README.md, all pairs and by the number of masks in the pair."
    faces = shared / "faces"
    code, out, err = facecp("verify", "--pairs", faces / "mfr2" / "pairs.txt", "--data", faces / "mfr2",
                            "--recogniser", faces / "recogniser_128d", "--draws", 100, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["rows"][0]["pairs"] == 848 and found["unscored"] == []
    assert [r["auc"] for r in found["rows"]] == pytest.approx([.939, 1.000, .926, .926], abs=.02)
