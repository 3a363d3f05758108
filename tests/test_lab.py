"JupyterLab as `make lab` starts it: a chapter runs, a notebook is clean on open, a save changes only what was typed"
import json
import time
from pathlib import Path

import pytest
from browser import OpenNotebook, chromium, external, lab_command, requests
from repository import NBS, charts, code, name, notebooks, read

pytestmark = pytest.mark.slow

CHAPTER = (notebooks("chapters") or notebooks("library"))[0]
# the ones with charts, with pictures and with widgets: all chapters, and the module of widgets
OPENED = [*notebooks("chapters"), *(p for p in notebooks("library") if "widgets" in p.stem)]

def test_run_all(lab):
    wanted = read(CHAPTER)
    with chromium() as window:
        page = OpenNotebook(window, lab, CHAPTER)
        page.wait_for_cells(len(code(wanted)))
        # stored charts show before anything has run
        page.wait(lambda: len(page.find(".jp-Notebook .vega-embed")) == len(charts(wanted)), 30)
        page.run_all()
        assert page.find('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]') == []
        page.wait(lambda: len(page.find(".jp-Notebook .vega-embed")) >= max(1, len(charts(wanted))), 30)
        assert external(requests(window)) == []

def copy_of(path: Path, folder: Path) -> Path:
    "The file that the JupyterLab of this test serves for the notebook at `path`."
    return folder / "nbs" / path.relative_to(NBS)

def test_opening_and_saving_change_nothing(lab, tmp_path):
    "A notebook is clean on open and asks nothing; saving it unchanged writes the very bytes that are in git."
    changed = []
    with chromium() as window:
        for path in OPENED:
            page, file = OpenNotebook(window, lab, path), copy_of(path, tmp_path)
            page.wait_for_cells(len(code(read(path))))
            # the kernel's answer is what JupyterLab writes into a notebook when nobody has typed anything
            page.wait(page.kernel_is_known, 60)
            time.sleep(1)
            if page.is_dirty(): changed.append(f"{name(path)} is dirty on open")
            assert page.find(".jp-toast-button, .Toastify__toast, .jp-Dialog") == [], "something is asked of the reader"
            page.save()
            page.close()
            if file.read_bytes() != path.read_bytes(): changed.append(f"{name(path)} is changed by a save")
    assert changed == []

def test_a_save_keeps_only_what_was_typed(lab, tmp_path):
    file = copy_of(CHAPTER, tmp_path)
    with chromium() as window:
        page = OpenNotebook(window, lab, CHAPTER)
        page.wait_for_cells(len(code(read(CHAPTER))))
        page.wait(page.kernel_is_known, 60)
        page.type_into_first_code_cell("# typed\n")
        page.save()
    before, after = json.loads(CHAPTER.read_text()), json.loads(file.read_text())
    first = code(after)[0]
    assert first["source"].pop(0) == "# typed\n"
    assert after == before

def test_kernels_of_the_lab_wait_asleep():
    variables, command = lab_command()
    assert variables["OMP_WAIT_POLICY"] == "PASSIVE" and command[1] == "lab"
