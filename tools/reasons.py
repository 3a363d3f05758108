"""Write data/reasons.parquet, which chapter 13 quotes: `python tools/reasons.py [FOLDER]`.

The points of the study `scale` that are in the store, the whole story on a folder of photographs (numbers only), and
the first epoch after lifting. Trains nothing: `facecp study scale` and `facecp study whole-story --data FOLDER` do."""
import sys
import time
from pathlib import Path

import pandas as pd
from facecp_nb import evaluation, study
from facecp_nb.core import digest
from facecp_nb.study.tables import needed_runs

DATA = Path(__file__).parent.parent / "data"
GAPS = {"fall": ("early", "late"), "lasting": study.TWINS, "past": ("untrained+late", "late")}


def is_whole(plan): return all(map(study.is_done, plan.config))


def minutes_of(plan): return sum(study.run(c).own_seconds.iloc[0] for c in needed_runs(plan.config)[0]) / 60


def end_of(point, condition, found):
    "Accuracy of a condition with its interval, and that of each seed."
    bounds = evaluation.interval(found)
    each = found.groupby("seed").correct.mean().round(6).tolist()
    return dict(point=point, family="accuracy", what=f"{point} | {condition}", value=bounds["mean"],
                low=bounds["low"], high=bounds["high"], each=each)


def scale_rows():
    "The three gaps at every point that has been run, intervals simultaneous over the points; and accuracies."
    found, minutes = {}, {}
    for point, plan in study.scale("quick").groupby("point", sort=False):
        if not is_whole(plan): continue
        plan = plan.assign(condition=plan.condition.str.removesuffix(f" | {point}"))
        found[point] = {c: study.tested(plan, c) for c in plan.condition.unique()}
        minutes[point] = minutes_of(plan)
    out = [end_of(point, c, t) for point, of in found.items() for c, t in of.items()]
    for family, (a, b) in GAPS.items():
        gaps = evaluation.compare_all({point: (of[a], of[b]) for point, of in found.items()})
        for row in gaps.to_dict("records"):
            point = row["comparison"]
            first, second = (found[point][c].groupby("seed").correct.mean() for c in (a, b))
            out.append(dict(point=point, family=family, what=f"{point} | {family}", value=row["difference"],
                            low=row["low"], high=row["high"], p=row["p"], each=(first - second).round(6).tolist()))
    return pd.DataFrame(out).assign(trained=lambda t: t.point.map(minutes).where(t.family == "fall"))


def photograph_rows(folder):
    "The whole story on photographs: accuracies, and the differences of chapter 00 with their families."
    plans = [study.whole_story("quick", 0, folder, taught=taught) for taught in (True, False)]
    whole = [plan.groupby("seed").filter(is_whole) for plan in plans]  # seeds of which nothing is missing
    plan = next((some for some in whole if some.seed.nunique() > 1), None)
    if plan is None: return pd.DataFrame()
    out = [end_of("photographs", c, study.tested(plan, c)) for c in plan.condition.unique()]
    gaps = study.study_contrasts("whole-story", "quick", plan)
    dots = study.seed_differences(study.table(plan), list(zip(gaps.a, gaps.b)))
    dots = dots.groupby("comparison").difference.agg(list)
    for row in gaps.to_dict("records"):
        what = row["comparison"]
        out.append(dict(point="photographs", family=row["family"], what=f"photographs | {what}",
                        value=row["difference"],
                        low=row["low"], high=row["high"], p=row["p"], each=[round(d, 6) for d in dots[what]]))
    records = study.faces_of(plan.config.iloc[0]).records
    size = dict(people=records.person.nunique(), **records.groupby("split").size())
    print("photographs:", size)
    return pd.DataFrame(out).assign(trained=[minutes_of(plan)] + [None] * (len(out) - 1))


def first_epochs():
    "Validation accuracy after the first epoch of whole faces, with and without a teacher."
    plan, out = study.whole_story("quick"), []
    for name in ("late", "late+kd+at"):
        lives = [(c, study.history(c)) for c in plan.config[plan.condition == name]]
        each = [float(h[h.epoch == c.onset].valid_accuracy.iloc[0]) for c, h in lives]
        found = evaluation.over_seeds(each)
        out.append(dict(point=name, family="first epoch", what=f"{name} | first epoch", each=each)
                   | {k: found[k] for k in ("value", "low", "high")})
    return pd.DataFrame(out)


def made_of(folder):
    "A digest of all networks that the rows are about: configurations and faces."
    plans = [study.scale("quick"), study.whole_story("quick")]
    if folder: plans.append(study.whole_story("quick", 0, folder))
    asked = [c for plan in plans for c in plan.config if study.is_done(c)]
    return digest([[c.canonical(), study.faces_of(c).fingerprint] for c in asked])


if __name__ == "__main__":
    begin, folder = time.process_time(), sys.argv[1] if len(sys.argv) > 1 else None
    parts = [scale_rows(), *([photograph_rows(folder)] if folder else []), first_epochs()]
    rows = pd.concat([part for part in parts if len(part)], ignore_index=True).assign(profile="quick")
    minutes = (time.process_time() - begin) / 60
    study.ship_rows(rows, "reasons", DATA, "facecp_nb.study.scoring", made_of(folder), minutes)
    print(rows[["what", "value", "low", "high", "trained"]].round(4).to_string())
