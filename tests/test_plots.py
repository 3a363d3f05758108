"What the plots notebook does not teach: every figure is a valid, described, self-contained specification that re-runs to the same bytes."
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from facecp_nb import plots
from facecp_nb.core import ConfigError, DataError

VIEWS = ("full", "eyes", "mouth", "forehead")


def rows(n=3):
    return pd.DataFrame([dict(condition=c, accuracy=a, low=a - .05, high=a + .05, rearing="full", seeds=[0, 1], epochs=12, seconds=8.)
                         for c, a in zip(("full", "early", "late")[:n], (.9, .8, .6))])


def history(seeds=(0, 1), epochs=6):
    return pd.DataFrame([dict(condition=c, seed=s, epoch=e, view="mouth" if e < o else "full", rate=.1 * .5**e, train_loss=2. / (e + 1),
                              valid_loss=3. / (e + 1), valid_accuracy=.1 * e + .01 * s) for c, o in (("full", 0), ("late", 4)) for s in seeds for e in range(epochs)])


def figures():
    curve = pd.DataFrame([dict(arm="late", onset=o, accuracy=.9 - .04 * o, low=.8 - .04 * o, high=.95 - .04 * o) for o in (1, 5, 9)])
    matrix = [dict(reared=a, tested=b, accuracy=.9 if a == b else .3, low=.2, high=.95) for a in VIEWS for b in VIEWS]
    return {"conditions": lambda: plots.conditions(rows(), chance=.02), "rearings": lambda: plots.rearings(history()),
            "differences": lambda: plots.differences([dict(comparison="early - late", difference=.2, low=.1, high=.3)]),
            "learning_curves": lambda: plots.learning_curves(history()), "rates": lambda: plots.rates(history()),
            "onset_curve": lambda: plots.onset_curve(curve, references={"chance": .02}), "confusion_of_views": lambda: plots.confusion_of_views(matrix),
            "faces": lambda: plots.faces(np.full((4, 3, 8, 8), 99, np.uint8), list("abcd"), columns=2, title="Four greys")}


@pytest.mark.parametrize("name", figures())
def test_every_figure_is_described_titled_and_inline(name):
    spec = figures()[name]().to_dict()
    assert len(spec["description"]) > 20
    assert spec["title"]["text"] and spec["title"]["text"][0]
    text = json.dumps(spec)
    assert "http" not in text.replace(spec["$schema"], "")
    assert len(text) < 40_000


def test_the_same_rows_give_the_same_bytes_in_a_fresh_process():
    code = "import sys; sys.path.insert(0, 'tests'); import json, test_plots as t; print(json.dumps({n: f().to_dict() for n, f in t.figures().items()}))"
    one, two = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert one == two and len(one) > 1000


def test_the_description_follows_the_rows():
    changed = rows()
    changed.loc[2, ["accuracy", "low", "high"]] = .123, .1, .15
    assert "late 12 % (10 to 15)" in plots.conditions(changed).description
    assert "late 60 %" in plots.conditions(rows()).description


@pytest.mark.parametrize("draw", [plots.conditions, plots.differences, plots.learning_curves, plots.rates, plots.rearings, plots.onset_curve,
                                  plots.confusion_of_views, plots.paper_and_ours])
def test_wrong_rows_are_named(draw):
    with pytest.raises(DataError, match="needs the column"): draw([{"nothing": 1}])


def test_empty_and_per_cent_tables_are_refused():
    with pytest.raises(DataError, match="without rows"): plots.conditions(rows().iloc[:0])
    with pytest.raises(DataError, match="not per cent"): plots.conditions(rows().assign(accuracy=94.))
    with pytest.raises(DataError, match="no images"): plots.faces([])
    with pytest.raises(ConfigError, match="Choose one of"): plots.learning_curves(history(), metric="loss")


def test_odd_rows_are_drawn():
    assert "mouth:3 > nose" in plots.conditions(rows(1).assign(condition="mouth:3 > nose", low=np.nan, high=np.nan)).description
    assert "no network changes its view" in plots.rates(history().query("condition == 'full'")).description


@pytest.mark.parametrize("shape", [(3, 9, 7), (9, 7, 3), (9, 7), (1, 9, 7)])
def test_any_layout_of_an_image_is_read(shape):
    assert plots.data_uri(np.zeros(shape, np.float32)).startswith("data:image/jpeg;base64,")


def test_png_and_page_are_written_without_a_network(tmp_path):
    assert plots.save(plots.conditions(rows()), tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert "cdn.jsdelivr.net" not in plots.save(plots.conditions(rows()), tmp_path / "a.html").read_text()


def test_a_notebook_gets_one_bare_specification():
    bundle, _ = plots.conditions(rows())._repr_mimebundle_()
    assert "application/vnd.vegalite.v5+json" in bundle and "text/html" not in bundle


def test_figures_of_the_fovea_chapter():
    reach = plots.fovea([dict(distance=d, level=v, fovea="a") for d, v in ((1, 1), (8, 4), (64, 7))])
    assert "level 7.0 at 64 pixels" in reach.description
    left = plots.left_over([dict(view=v, part="eyes", pyramid=p, share=.5) for v in ("full", "mouth") for p in ("published", "antialiased")])
    assert "mouth view, eyes, published: 50 %" in left.description
    waves = plots.transfer([dict(pyramid="published", eccentricity=10., frequency=f, signal=1 - f, false_detail=f) for f in (.1, .3)])
    assert "at most 30 % false detail, at 10 pixels" in waves.description


def realism(check):
    "Rows as `nbs/benchmarks/realism.ipynb` stores them, invented."
    if check == "distances": return [dict(set=s, pairs=p, distance=d / 10, share=.25 if first <= d < first + 4 else 0.) for s in ("a", "b") for p, first in (("one person", 1), ("two people", 4)) for d in range(10)]
    if check == "conditions": return [dict(factor=f, level=v, quantity=q, accuracy=a, low=a - .05, high=a + .01) for f in ("yaw", "age") for v, a in (("small", .98), ("large", .8)) for q in ("AUC", "rank-1")]
    return [dict(set=s, people=n, accuracy=a, low=a - .05, high=a + .01) for s in ("a", "b") for n, a in ((50, .98), (100, .91))]


REALISM = {"distances": plots.distance_histograms, "conditions": plots.by_condition, "saturation": plots.saturation}


@pytest.mark.parametrize("check, said, titled", [
    ("distances", "a: 100.0 % of the pairs of one person and 50.0 % of the pairs of two people lie below 0.6", "Below 0.6: a 100\u00a0% of one person, 50\u00a0% of two"),
    ("conditions", "age large, rank-1 80.0 % (75.0 to 81.0)", "AUC is lowest at yaw large: 80\u00a0%"), ("saturation", "b, 100 people: 91.0 % (86.0 to 92.0)", "A: 91\u00a0% among 100")])
def test_figures_of_the_realism_check(check, said, titled):
    chart = REALISM[check](realism(check))
    assert said in chart.description and titled in " ".join(chart.title.text)
    assert len(json.dumps(chart.to_dict())) < 20_000
    with pytest.raises(DataError, match="needs the column"): REALISM[check]([{"nothing": 1}])


def test_a_quantity_that_never_moves_is_said_to_be_constant():
    rows = pd.DataFrame(realism("conditions")).assign(accuracy=1., low=1., high=1.)
    chart = plots.by_condition(rows)
    assert "AUC is 100\u00a0% throughout" in " ".join(chart.title.text)
    assert '"domain": [0.9, 1]' in json.dumps(chart.to_dict())


def test_pairs_of_another_kind_are_refused():
    with pytest.raises(ConfigError, match="one person, two people"): plots.distance_histograms([dict(set="a", pairs="three people", distance=.1, share=1.)])
