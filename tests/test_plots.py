"What the plots notebooks do not teach: every figure is valid, described, small, self-contained, and equal on a re-run."

import json
import re
import subprocess
import sys

import altair as alt
import numpy as np
import pandas as pd
import pytest
import vl_convert

from facecp_nb import plots
from facecp_nb.core import ConfigError, DataError

VIEWS = ("full", "eyes", "mouth", "forehead")
LONG = "late with equal clean epochs - its twin that was never deprived"  # a comparison of the length chapters use


def rows(n=3):
    return pd.DataFrame(
        [
            dict(
                condition=c,
                accuracy=a,
                low=a - 0.05,
                high=a + 0.05,
                rearing="full",
                seeds=[0, 1],
                epochs=12,
                seconds=8.0,
            )
            for c, a in zip(("full", "early", "late")[:n], (0.9, 0.8, 0.6))
        ]
    )


def history(seeds=(0, 1), epochs=6, names=("full", "late")):
    return pd.DataFrame(
        [
            dict(
                condition=c,
                seed=s,
                epoch=e,
                view="mouth" if e < o else "full",
                rate=0.1 * 0.5**e,
                train_loss=2.0 / (e + 1),
                valid_loss=3.0 / (e + 1),
                valid_accuracy=0.1 * e + 0.01 * s,
            )
            for c, o in zip(names, (0, 4, 2, 3, 1))
            for s in seeds
            for e in range(epochs)
        ]
    )


def each(table, value, seeds=5):
    "The same table once a seed, moved by a point each."
    return pd.concat([table.assign(seed=s, **{value: table[value] + 0.01 * (s - 2)}) for s in range(seeds)])


def contrasts():
    return pd.DataFrame(
        [
            dict(comparison=c, difference=d, low=d - 0.05, high=d + 0.05)
            for c, d in (("early - late", 0.2), (LONG, -0.01))
        ]
    )


def matrix(views=VIEWS):
    return [dict(reared=a, tested=b, accuracy=0.9 if a == b else 0.3, low=0.2, high=0.95) for a in views for b in views]


def curve(arms=("replayed", "equal-clean", "untrained")):
    return pd.DataFrame(
        [
            dict(arm=a, onset=o, accuracy=0.9 - 0.04 * o, low=0.8 - 0.04 * o, high=0.95 - 0.04 * o)
            for a in arms
            for o in (1, 5, 9)
        ]
    )


def orders():
    return pd.DataFrame(
        [
            dict(order=o, accuracy=a, low=a - 0.02, high=a + 0.02)
            for o, a in (("c>c>c", 0.86), ("m>c>c", 0.85), ("c>m>c", 0.84))
        ]
    )


def harms():
    return pd.DataFrame(
        [
            dict(contrast=c, onset=o, difference=0.02 * o, low=0.02 * o - 0.03, high=0.02 * o + 0.03)
            for c in ("harm of a past", "harm of deprivation")
            for o in (1, 4, 9)
        ]
    )


def search():
    return pd.DataFrame(
        [
            dict(regime=r, view=v, seed=s, accuracy=a + 0.01 * s)
            for r, a in ((".02 in steps", 0.8), (".01 halved each third, averaged", 0.85))
            for v in ("full", "mouth")
            for s in range(3)
        ]
    )


def realism(check):
    "Rows as `nbs/benchmarks/realism.ipynb` stores them, invented."
    if check == "distances":
        return [
            dict(set=s, pairs=p, distance=d / 10, share=0.25 if first <= d < first + 4 else 0.0)
            for s in ("a", "b")
            for p, first in (("one person", 1), ("two people", 4))
            for d in range(10)
        ]
    if check == "conditions":
        return [
            dict(factor=f, level=v, quantity=q, accuracy=a, low=a - 0.05, high=a + 0.01)
            for f in ("yaw", "age")
            for v, a in (("small", 0.98), ("large", 0.8))
            for q in ("AUC", "rank-1")
        ]
    return [
        dict(set=s, people=n, accuracy=a, low=a - 0.05, high=a + 0.01)
        for s in ("a", "b")
        for n, a in ((50, 0.98), (100, 0.91))
    ]


def factors(levels=5):
    return [
        dict(factor=f, level=f"{10 * v} to {10 * v + 10}°", quantity="rank-1", accuracy=0.9, low=0.85, high=0.95)
        for f in ("yaw", "azimuth", "age gap")
        for v in range(levels)
    ]


def waves():
    return [
        dict(pyramid=p, eccentricity=e, frequency=f, signal=1 - f, false_detail=f)
        for p in ("published", "antialiased")
        for e in (10.0, 40.0, 80.0, 160.0)
        for f in (0.1, 0.3)
    ]


def left():
    return [
        dict(view=v, part=p, pyramid=y, ratio=0.5)
        for v in ("full", "eyes", "mouth", "forehead")
        for p in ("eyes", "mouth")
        for y in ("published", "antialiased")
    ]


def figures():
    levels = {"no deficit": 0.93, "chance": 0.02}
    many = [f"replayed {n}%" for n in (10, 25, 50, 75, 90)]
    return {
        "conditions": lambda: plots.conditions(rows(), chance=0.02),
        "conditions with seeds": lambda: plots.conditions(rows(), seeds=each(rows(), "accuracy"), chance=0.02),
        "rearings": lambda: plots.rearings(history()),
        "differences": lambda: plots.difference_chart(contrasts(), adjusted="simultaneous over 2 comparisons"),
        "differences with seeds": lambda: plots.difference_chart(
            contrasts(), seeds=each(contrasts(), "difference"), margin=None
        ),
        "learning_curves": lambda: plots.learning_curves(history()),
        "many learning_curves": lambda: plots.learning_curves(history(names=many)),
        "rates": lambda: plots.rates(history()),
        "many rates": lambda: plots.rates(history(names=many)),
        "onset_curve": lambda: plots.onset_chart(curve(), references=levels),
        "onset_curve with seeds": lambda: plots.onset_chart(
            curve(), seeds=each(curve(), "accuracy"), references=levels
        ),
        "confusion_of_views": lambda: plots.confusion_of_views(matrix()),
        "big confusion_of_views": lambda: plots.confusion_of_views(matrix([*VIEWS, "both", "nose", "none", "chin"])),
        "order_test": lambda: plots.order_chart(orders(), seeds=each(orders(), "accuracy")),
        "harm": lambda: plots.harm(harms(), seeds=each(harms(), "difference")),
        "regimes": lambda: plots.regime_chart(search(), chosen=".02 in steps"),
        "faces": lambda: plots.faces(
            np.full((16, 3, 8, 8), 99, np.uint8), list("abcdefghijklmnop"), columns=8, size=112, title="Sixteen greys"
        ),
        "fovea": lambda: plots.fovea([dict(distance=d, level=v, fovea="a") for d, v in ((1, 1), (8, 4), (64, 7))]),
        "transfer": lambda: plots.transfer_chart(waves()),
        "left_over": lambda: plots.left_over_chart(left()),
        "distance_histograms": lambda: plots.distance_histograms(realism("distances")),
        "by_condition": lambda: plots.by_condition(factors(), columns=3),
        "saturation": lambda: plots.saturation(realism("saturation")),
    }


@pytest.mark.parametrize("name", figures())
def test_every_figure_is_described_titled_small_and_inline(name):
    "Drawn, it is at most 660 pixels wide, title and labels included, and its title has at most two lines."
    spec = figures()[name]().to_dict()
    assert len(spec["description"]) > 20
    assert 1 <= len(spec["title"]["text"]) <= 2 and spec["title"]["text"][0]
    assert spec["config"]["axis"]["labelFlush"] is False  # the labels at the ends stay on their ticks
    text = json.dumps(spec)
    assert "http" not in text.replace(spec["$schema"], "")
    assert len(text) < 40_000
    svg = vl_convert.vegalite_to_svg(spec, vl_version="5.20")
    assert float(re.search(r'<svg[^>]*? width="([\d.]+)"', svg)[1]) <= 660


def test_a_title_is_cut_at_two_lines():
    title = plots.conditions(rows(), title="a word and " * 40).title.text
    assert len(title) == 2 and title[-1].endswith("\u2026")


def test_the_same_rows_give_the_same_bytes_in_a_fresh_process():
    code = """
import json, sys
sys.path.insert(0, "tests")
import test_plots
print(json.dumps({name: figure().to_dict() for name, figure in test_plots.figures().items()}))
"""
    one, two = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert one == two and len(one) > 1000


def test_importing_changes_nothing_and_a_figure_still_looks_like_one_of_ours():
    "In a fresh process: theme, renderer and torch's threads stay; a chart is one bare specification with its own look."
    code = """
import json, altair as alt, torch
before = alt.theme.active, alt.renderers.active, torch.get_num_threads(), sorted(alt.theme.names())
from facecp_nb import plots
rows = [dict(condition=c, accuracy=.5, low=.4, high=.6) for c in ("full", "late")]
bundle, _ = plots.conditions(rows)._repr_mimebundle_()
after = alt.theme.active, alt.renderers.active, torch.get_num_threads(), sorted(alt.theme.names())
config = bundle["application/vnd.vegalite.v5+json"]["config"]
print(json.dumps([before, after, list(bundle), config["title"]["anchor"]]))
"""
    before, after, kinds, anchor = json.loads(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )
    assert before == after
    assert "application/vnd.vegalite.v5+json" in kinds and "text/html" not in kinds and anchor == "start"


def test_a_chart_stays_one_of_ours_when_it_is_changed():
    wider = plots.conditions(rows()).properties(width=100)
    assert list(wider._repr_mimebundle_()[0]) == ["application/vnd.vegalite.v5+json", "text/plain"]
    assert isinstance(wider, alt.LayerChart) and wider.copy().to_dict() == wider.to_dict()


def test_use_renderer_is_asked_for():
    try:
        assert plots.use_renderer() == "mimetype" and alt.theme.active == "facecp"
    finally:
        alt.renderers.enable("default")
        alt.theme.enable("default")
        alt.theme.unregister("facecp")


def test_what_is_no_chart_and_what_has_no_words_is_refused():
    with pytest.raises(DataError, match="finish takes"):
        plots.finish("a picture", "title", "words")
    with pytest.raises(ConfigError, match="no description"):
        plots.finish(alt.Chart(), "title", "")


def test_the_description_follows_the_rows():
    changed = rows()
    changed.loc[2, ["accuracy", "low", "high"]] = 0.123, 0.1, 0.15
    assert "late 12 % (10 to 15)" in plots.conditions(changed).description
    assert "late 60 %" in plots.conditions(rows()).description


@pytest.mark.parametrize(
    "draw",
    [
        plots.conditions,
        plots.difference_chart,
        plots.learning_curves,
        plots.rates,
        plots.rearings,
        plots.onset_chart,
        plots.confusion_of_views,
        plots.paper_and_ours,
        plots.order_chart,
        plots.harm,
        plots.regime_chart,
    ],
)
def test_wrong_rows_are_named(draw):
    with pytest.raises(DataError, match=draw.__name__):
        draw([{"nothing": 1}])


def test_empty_and_per_cent_tables_are_refused():
    with pytest.raises(DataError, match="row"):
        plots.conditions(rows().iloc[:0])
    with pytest.raises(DataError, match="not per cent"):
        plots.conditions(rows().assign(accuracy=94.0))
    with pytest.raises(DataError, match="not per cent"):
        plots.difference_chart(contrasts().assign(difference=5.0))
    with pytest.raises(DataError, match="no images"):
        plots.faces([])
    with pytest.raises(ConfigError, match="Choose one of"):
        plots.learning_curves(history(), metric="loss")
    with pytest.raises(DataError, match="seed"):
        plots.conditions(rows(), seeds=rows())
    with pytest.raises(ConfigError, match="is no phase"):
        plots.order_chart(orders().assign(order="m>>c"))
    with pytest.raises(DataError, match="not among the rows"):
        plots.regime_chart(search(), chosen="another")


def test_odd_rows_are_drawn():
    assert (
        "mouth:3 > nose"
        in plots.conditions(rows(1).assign(condition="mouth:3 > nose", low=np.nan, high=np.nan)).description
    )
    assert "no network changes its view" in plots.rates(history().query("condition == 'full'")).description
    assert plots.onset_chart(curve().query("onset == 5")).to_dict()


def drawn(chart, mark):
    "The layers of a chart that are drawn with `mark`, as (specification, rows)."
    spec = chart.to_dict()
    return [
        (la, spec["datasets"][la.get("data", spec.get("data"))["name"]])
        for la in spec["layer"]
        if (la["mark"] if isinstance(la["mark"], str) else la["mark"]["type"]) == mark
    ]


def test_a_difference_is_in_points_and_filled_where_zero_is_excluded():
    chart = plots.difference_chart(contrasts(), adjusted="simultaneous over 2 comparisons")
    spec, data = drawn(chart, "point")[0]
    assert [(r["difference_points"], r["zero"]) for r in data] == [
        (20, "interval excludes zero"),
        (-1, "zero is inside"),
    ]
    assert spec["encoding"]["x"]["title"] == [
        "difference in points (95 % interval)",
        "intervals: simultaneous over 2 comparisons",
        "pale band: within \u00b13 points",
    ]
    assert drawn(chart, "rect")[0][1] == [{"low": -3, "high": 3}]
    assert (
        "early - late: +20 points (+15 to +25)" in chart.description and "within 3 points of zero" in chart.description
    )
    without = plots.difference_chart(contrasts(), margin=None)
    assert drawn(without, "rect") == [] and "pale band" not in without.description


@pytest.mark.parametrize(
    "chart, seeds",
    [
        (plots.conditions(rows(), seeds=each(rows(), "accuracy")), 15),
        (plots.onset_chart(curve(), seeds=each(curve(), "accuracy")), 45),
        (plots.harm(harms(), seeds=each(harms(), "difference")), 30),
    ],
)
def test_every_seed_is_a_dot(chart, seeds):
    assert [len(data) for _, data in drawn(chart, "point")][-1] == seeds
    assert "Small dots: 5 seeds." in chart.description


def test_arms_stand_beside_each_other():
    "No two bars at one place, and the pointer still reads the true onset."
    _, data = drawn(plots.onset_chart(curve()), "rule")[0]
    assert len({r["at"] for r in data}) == len(data) and {r["onset"] for r in data} == {1, 5, 9}


def test_equal_rates_share_a_line_with_a_diamond_each():
    chart = plots.rates(history(names=("full", "late", "early")))
    ((_, line),) = drawn(chart, "line")
    ((_, turns),) = drawn(chart, "point")
    assert {r["line"] for r in line} == {"full, early, late"} and {r["condition"] for r in turns} == {"early", "late"}
    assert len(line) == 7, "six epochs, and the end of the last one"
    other = history(names=("full", "late")).assign(rate=lambda t: t.rate * np.where(t.condition == "late", 2, 1))
    assert len(drawn(plots.rates(other), "line")) == 2
    many = plots.rates(history(names=[f"replayed {n}%" for n in (10, 25, 50, 75, 90)]))
    assert many.title.text == ["4 onsets, at rates from 0.05 to 0.0063, on 1 staircase"]
    assert {r["line"] for r in drawn(many, "line")[0][1]} == {"replayed 10% and 4 more"}


def test_onsets_are_marked_in_learning_curves():
    chart = plots.learning_curves(history())
    assert [(r["condition"], r["epoch"]) for _, data in drawn(chart, "rule") for r in data] == [("late", 4)]
    assert "late turns to full in epoch 4." in chart.description
    assert drawn(plots.learning_curves(history().drop(columns="view")), "rule") == []


def test_the_phases_of_an_order_stand_beside_its_end():
    chart = plots.order_chart(orders())
    assert "m>c>c, that is mouth, then full, then full: 85 % (83 to 87)" in chart.description
    assert plots.phases_of("mouth:2 > e")[["view", "start", "end"]].values.tolist() == [["mouth", 0, 2], ["eyes", 2, 3]]


def test_new_names_have_their_own_colours():
    for name in (
        "full+equal-updates",
        "late+equal-clean",
        "untrained+late",
        "late+kd+at",
        "replayed",
        "equal-clean",
        "untrained",
        "equal-updates",
        "window",
    ):
        assert name in plots.COLOURS and name in plots.SHAPES and name in plots.CONDITIONS
    assert len({plots.COLOURS[n] for n in plots.ARM_COLOURS}) == len(plots.ARM_COLOURS)
    assert len({plots.SHAPES[n] for n in plots.ARM_COLOURS}) == len(plots.ARM_COLOURS)


def test_claims_are_a_small_table():
    assert plots.check({"one": True, "two": np.False_}, enforce=False).to_dict("list") == {
        "claim": ["one", "two"],
        "holds": [True, False],
    }
    with pytest.raises(AssertionError, match="two"):
        plots.check({"one": True, "two": False})


@pytest.mark.parametrize("shape", [(3, 9, 7), (9, 7, 3), (9, 7), (1, 9, 7)])
def test_any_layout_of_an_image_is_read(shape):
    assert plots.data_uri(np.zeros(shape, np.float32)).startswith("data:image/jpeg;base64,")


def test_png_and_page_are_written_without_a_network(tmp_path):
    assert plots.save(plots.conditions(rows()), tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert "cdn.jsdelivr.net" not in plots.save(plots.conditions(rows()), tmp_path / "a.html").read_text()


def test_figures_of_the_fovea_chapter():
    assert "level 7.0 at 64 pixels" in figures()["fovea"]().description
    assert "mouth view, eyes, published: 0.50" in plots.left_over_chart(left()).description
    assert "at most 30 % false detail, at 10 pixels" in plots.transfer_chart(waves()).description
    sure = [r | dict(low=0.4, high=0.6) for r in left()]
    assert "mouth view, eyes, published: 0.50 (0.40 to 0.60)" in plots.left_over_chart(sure).description


REALISM = {"distances": plots.distance_histograms, "conditions": plots.by_condition, "saturation": plots.saturation}


@pytest.mark.parametrize(
    "check, said, titled",
    [
        (
            "distances",
            "a: 100.0 % of the pairs of one person and 50.0 % of the pairs of two people lie below 0.6",
            "Below 0.6: a 100\u00a0% of one person, 50\u00a0% of two",
        ),
        ("conditions", "age large, rank-1 80.0 % (75.0 to 81.0)", "AUC is lowest at yaw large: 80\u00a0%"),
        ("saturation", "b, 100 people: 91.0 % (86.0 to 92.0)", "A: 91\u00a0% among 100"),
    ],
)
def test_figures_of_the_realism_check(check, said, titled):
    chart = REALISM[check](realism(check))
    assert said in chart.description and titled in " ".join(chart.title.text)
    assert len(json.dumps(chart.to_dict())) < 20_000
    with pytest.raises(DataError):
        REALISM[check]([{"nothing": 1}])


def test_a_quantity_that_never_moves_is_said_to_be_constant():
    constant = pd.DataFrame(realism("conditions")).assign(accuracy=1.0, low=1.0, high=1.0)
    chart = plots.by_condition(constant)
    assert "AUC is 100\u00a0% throughout" in " ".join(chart.title.text)
    assert '"domain": [0.9, 1]' in json.dumps(chart.to_dict())


def test_pairs_of_another_kind_are_refused():
    with pytest.raises(ConfigError, match="one person, two people"):
        plots.distance_histograms([dict(set="a", pairs="three people", distance=0.1, share=1.0)])
