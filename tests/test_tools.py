"The tools that store outputs, write the README and prepare the site"
import json
import runpy
from types import SimpleNamespace

import nbformat
import pytest
from repository import ROOT

@pytest.fixture(scope="module", autouse=True)
def tools():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        yield

def notebook(*sources: str):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    nb.metadata.kernelspec = dict(name="python3", language="python", display_name="python3")
    return nb

@pytest.fixture
def library(tmp_path):
    "A folder for library notebooks in a project of its own."
    (tmp_path / "settings.ini").write_text((ROOT / "settings.ini").read_text())
    (tmp_path / "nbs" / "library").mkdir(parents=True)
    return tmp_path / "nbs" / "library"

def run(path, monkeypatch):
    import store_outputs
    monkeypatch.chdir(path.parents[2])
    store_outputs.store(path)

def test_outputs_are_stored_as_tests_see_them(library, monkeypatch):
    path = library / "00_x.ipynb"
    before = notebook("import os; os.environ['IN_TEST']", "#| slow\n'new'", "import tqdm.auto\n1 + 1")
    before.cells[1].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "'old'"})]
    nbformat.write(before, path)
    run(path, monkeypatch)
    after = nbformat.read(path, 4)
    assert [c.outputs[0].data["text/plain"] for c in after.cells] == ["'1'", "'old'", "2"]
    assert [c.source for c in after.cells] == [c.source for c in before.cells]
    stored = path.read_bytes()
    run(path, monkeypatch)
    assert path.read_bytes() == stored

def test_no_place_of_this_computer_is_stored(library, monkeypatch):
    path = library / "00_x.ipynb"
    nbformat.write(notebook("import os, warnings", "warnings.warn('mind')", "print(os.environ['FACECP_HOME'])", f"{str(ROOT / 'nbs')!r}"), path)
    run(path, monkeypatch)
    outputs = [o for c in nbformat.read(path, 4).cells for o in c.outputs]
    assert [o.get("text") or o.data["text/plain"] for o in outputs] == ["<cell>:1: UserWarning: mind\n  warnings.warn('mind')\n", "runs\n", "'nbs'"]

def test_a_failing_notebook_is_left_as_it_was(library, monkeypatch):
    path = library / "00_x.ipynb"
    nbformat.write(notebook("1", "1 / 0"), path)
    stored = path.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"): run(path, monkeypatch)
    assert path.read_bytes() == stored

def test_widgets_keep_their_names(library, monkeypatch):
    path = library / "00_x.ipynb"
    nbformat.write(notebook("import ipywidgets as w\nw.VBox([w.IntSlider(3), w.Label('x')])"), path)
    run(path, monkeypatch)
    stored = path.read_bytes()
    run(path, monkeypatch)
    assert path.read_bytes() == stored and b"IntSliderModel" in stored

def test_a_widget_that_brings_a_picture_is_stored_as_the_picture(library, monkeypatch):
    path = library / "00_x.ipynb"
    nbformat.write(notebook("""import base64, ipywidgets as w
class Shown(w.IntSlider):
    def _repr_mimebundle_(self, **kwargs): return super()._repr_mimebundle_(**kwargs) | {"image/jpeg": base64.b64encode(b"a picture").decode()}
Shown()"""), path)
    run(path, monkeypatch)
    stored = path.read_bytes()
    assert b"image/jpeg" in stored and b"widget-view" not in stored and b"IntSliderModel" not in stored

def processed(processor: str, cell: dict) -> dict:
    import docproc
    from execnb.nbio import dict2nb
    nb = dict2nb({"cells": [{"metadata": {}, **cell}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    made = getattr(docproc, processor)(nb)
    if hasattr(made, "begin"): made.begin()
    made.cell(nb.cells[0])
    return nb.cells[0]

def test_quotes_become_callouts():
    source = "Before.\n\n> **Predict.** Which one\n> is larger?\n\nAfter.\n\n> An ordinary quote"
    got = processed("site_callouts", dict(cell_type="markdown", source=source)).source
    assert '::: {.callout-note title="Predict"}\nWhich one\nis larger?\n:::' in got
    assert got.startswith("Before.") and "After." in got and got.endswith("> An ordinary quote")

def test_solutions_stay_folded_and_wrong_answers_go():
    folded = "<details>\n<summary>A solution</summary>\n\n```python\ny = 1\n```\n\n</details>\n"
    wrong = "<!-- wrong: too large\n```python\ny = 2\n```\n-->\n"
    cell = dict(cell_type="markdown", source=folded + wrong + wrong, metadata={"tags": ["solution"]})
    assert processed("site_solutions", cell).source == folded

def test_charts_become_places_to_draw():
    spec = dict(description='accuracy "by" onset', title="</script>")
    output = dict(output_type="display_data", metadata={}, data={"application/vnd.vegalite.v5+json": spec, "text/plain": "<VegaLite 5 object>"})
    got = processed("site_outputs", dict(cell_type="code", source="", outputs=[output])).outputs[0]["data"]["text/html"]
    assert 'aria-label="accuracy &quot;by&quot; onset"' in got
    script = got.split('data-vega="vega-1">')[1]
    assert script.count("</script>") == 1 and json.loads(script.removesuffix("</script>")) == spec

@pytest.mark.parametrize("tex", [r"\sigma = \frac{a}{b}", r"\mathcal{L} = \alpha T^2 \mathrm{KL}(p \,\|\, q)", r"\hat{y}_{\text{late}} \le 0.5",
                                 r"\begin{aligned} a &= b \\ c &= d \end{aligned}", r"\operatorname{softmax}(z / T)", "a < b"])
def test_formulas_become_mathml(tex):
    from build_site import mathml
    assert mathml(tex, "display").startswith("<math") and "&</mi>" not in mathml(tex, "inline")

def test_unknown_formulas_stop_the_build():
    from build_site import SiteError, mathml
    with pytest.raises(SiteError, match="nosuch"): mathml(r"\nosuch{x}", "inline")

def test_pages_that_ask_other_hosts_stop_the_build(tmp_path):
    from build_site import SiteError, complete
    page = tmp_path / "a.html"
    page.write_text('<body><a href="https://ok.example">a link is fine</a></body>')
    complete(page, tmp_path)
    page.write_text('<body><script src="https://cdn.example/x.js"></script></body>')
    with pytest.raises(SiteError, match="asks another host"): complete(page, tmp_path)

def test_readme_links_start_at_the_root():
    import readme
    assert readme.from_root("[a](library/00_core.ipynb) [b](https://x.y) [c](#here)") == "[a](nbs/library/00_core.ipynb) [b](https://x.y) [c](#here)"


# --- how JupyterLab shows and stores ---------------------------------------------------------------------------------

@pytest.fixture
def contents():
    "What tools/jupyter/jupyter_server_config.py defines."
    return runpy.run_path(str(ROOT / "tools/jupyter/jupyter_server_config.py"), {"c": Settings()})

class Settings:
    "Stands for jupyter's `c`: any name, any value."
    def __getattr__(self, name): return SimpleNamespace()

def test_a_notebook_that_was_only_shown_is_stored_as_it_was(contents, library):
    path = library / "00_x.ipynb"
    nb = notebook("1")
    chart = {"application/vnd.vegalite.v5+json": {"width": 48.0, "description": "x"}, "text/plain": ["a\n", "b"]}
    nb.cells[0].outputs = [nbformat.v4.new_output("display_data", chart)]
    nb.metadata.kernelspec.display_name = "python3"
    nbformat.write(nb, path)
    stored, shown = path.read_bytes(), nbformat.read(path, 4)
    contents["dress"](shown)
    assert "language_info" in shown.metadata and "image/png" in shown.cells[0].outputs[0].data
    # a browser's numbers: 48.0 comes back as 48
    back = nbformat.from_dict(json.loads(json.dumps(shown).replace("48.0", "48")))
    back.cells[0].execution_count = 3
    contents["undress"](back, path)
    nbformat.write(back, path)
    assert path.read_bytes() == stored
