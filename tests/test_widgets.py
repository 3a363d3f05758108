"The explorer: each control does what it says and no more, the code makes the same picture, and moves do not queue"
import asyncio
import json
import subprocess
import sys

import pytest
import torch
from browser import OpenNotebook, chromium, external, requests
from repository import ROOT
from selenium.webdriver.common.keys import Keys

from facecp_nb import people, widgets
from facecp_nb.core import ConfigError, DataError

renders = pytest.mark.skipif(not people.can_render(),
                             reason="anny and warp are not installed (pip install 'facecp_nb[render]')")

@pytest.fixture
def explorer(monkeypatch):
    "An explorer of small pictures, which counts in `.rendered` how many it has made."
    view = widgets.face_explorer(size=64)
    view.rendered = 0
    def counted(*arguments):
        view.rendered += 1
        return people.render(*arguments)
    monkeypatch.setattr(widgets, "render", counted)
    return view

def evaluated(view) -> torch.Tensor:
    "The picture that the code in the view's box makes."
    space = {}
    exec(view.code.value, space)
    return space["pictures"].images

MOVES = {"person": 7, "second": 9, "morph": .4, "swap": "mouth", "age": 70, "tone_shift": .3, "yaw": 30, "pitch": -12,
         "roll": 10, "light_azimuth": -60, "light_elevation": 60, "smile": .8, "jaw": .5, "hair_style": "afro",
         "glasses": "round",
         "mask": "surgical", "background": 5}

@renders
def test_every_control_changes_the_picture(explorer):
    "Alone, from the start; the code makes the new picture; a second look renders nothing."
    assert set(MOVES) == set(explorer.controls)
    before = explorer.image.value
    for name, value in MOVES.items():
        explorer.reset()
        if name == "second": explorer.controls["morph"].value = .5  # alone it gives nothing
        explorer.refresh()
        start, rendered = explorer.image.value, explorer.rendered
        explorer.controls[name].value = value
        explorer.refresh()
        assert explorer.image.value != start, name
        assert explorer.rendered == rendered + 1, name
        assert torch.equal(evaluated(explorer), explorer.pictures.images), name
        explorer.refresh()
        assert explorer.rendered == rendered + 1, name
    explorer.reset()
    explorer.refresh()
    assert explorer.image.value == before

@renders
def test_all_at_once_and_another_population(explorer):
    for view in (explorer, widgets.face_explorer(size=48, seed=4)):
        for name, value in MOVES.items(): view.controls[name].value = value
        view.refresh()
        assert torch.equal(evaluated(view), view.pictures.images)
    assert "seed=4" in view.code.value

@renders
def test_marks_render_nothing(explorer):
    plain, seen = explorer.image.value, {explorer.image.value}
    for name, value in (("five", True), ("dense", True), *(("region", r) for r in people.REGIONS)):
        explorer.marks[name].value = value
        explorer.refresh()
        seen.add(explorer.image.value)
    assert len(seen) == 7 and explorer.rendered == 0
    explorer.reset()
    assert explorer.snapshot().size == (64, 64) and explorer.image.value == plain

@renders
def test_a_second_person_who_gives_nothing_changes_nothing(explorer):
    explorer.controls["second"].value = 12
    explorer.refresh()
    assert explorer.rendered == 0

@renders
def test_moves_do_not_queue(explorer):
    "Fifty moves, between which the loop may run, as a kernel's does between messages."
    async def drag():
        for angle in range(50):
            explorer.controls["yaw"].value = angle
            await asyncio.sleep(0)
        while explorer._due is not None: await asyncio.sleep(.01)
    asyncio.run(drag())
    assert 1 <= explorer.rendered <= 10
    assert "yaw=49.0" in explorer.code.value

@renders
def test_a_picture_stands_in_for_the_view(explorer):
    bundle = explorer._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/jpeg"} <= set(bundle)

def test_importing_changes_nothing():
    "In a fresh process: altair's theme and renderer and torch's threads stay as they were."
    code = """
import json, altair as alt, torch
state = lambda: [alt.theme.active, alt.renderers.active, sorted(alt.theme.names()), torch.get_num_threads()]
before = state()
import facecp_nb.widgets
print(json.dumps([before, state()]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = json.loads(run.stdout)
    assert before == after

def test_silly_requests_are_refused():
    with pytest.raises(ConfigError, match="people is 1"): widgets.face_explorer(people=1)

@renders
def test_silly_sizes_are_refused():
    with pytest.raises(ConfigError, match="size"): widgets.face_explorer(size=4)

def test_without_the_renderer_a_sentence_helps(monkeypatch):
    monkeypatch.setattr("facecp_nb.people.head.can_render", lambda: False)
    with pytest.raises(DataError, match="pip install"): widgets.face_explorer()

@renders
def test_in_a_browser(lab):
    "A slider moved by the keyboard changes the picture and the code; no other host is asked."
    with chromium() as window:
        page = OpenNotebook(window, lab, ROOT / "nbs" / "library" / "16_widgets.ipynb")
        page.wait(lambda: page.find(".jp-Notebook .jp-CodeCell"), 60)
        page.run_all()
        assert page.find('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]') == []
        picture = page.wait(lambda: page.find(".jp-Notebook img.widget-image"), 30)[0]
        labels = page.find(".jp-Notebook .widget-label, .jp-Notebook .widget-label-basic span")
        cut = "const e = arguments[0]; return e.scrollWidth > e.clientWidth && e.clientWidth > 0"
        clipped = [e.text for e in labels if window.execute_script(cut, e)]
        assert len(labels) > 15 and clipped == []
        slider = next(e for e in page.find(".jp-Notebook .widget-slider") if e.text.startswith("yaw"))
        code = page.find(".jp-Notebook .widget-textarea textarea")[0]
        before = picture.get_attribute("src")
        slider.find_element("css selector", "[role=slider]").send_keys(*[Keys.ARROW_RIGHT] * 5)
        page.wait(lambda: "yaw=5.0" in code.get_attribute("value"), 30)
        page.wait(lambda: picture.get_attribute("src") != before, 30)
        assert external(requests(window)) == []
