"""How JupyterLab is set up for this repository; `make lab` names this folder in JUPYTER_CONFIG_PATH.

A save changes nothing in git but what was typed or run: a notebook is cleaned as nbdev cleans, and an output that was only
read and written back keeps its numbers as they were spelt (a browser turns 1.0 into 1). No news are asked for.
"""
from pathlib import Path

import nbformat
from nbdev.clean import clean_nb
from nbdev.config import get_config


def stored_outputs(file: Path) -> dict[str, list]:
    "The outputs of the notebook's cells as they lie on disk, by the cell's id."
    if not file.is_file(): return {}
    return {c.get("id"): c.get("outputs", []) for c in nbformat.read(file, 4).cells}

def before_saving(model: dict, path: str, contents_manager, **_):
    "Clean a notebook that is about to be written."
    if model["type"] != "notebook" or model["content"]["nbformat"] != 4: return
    notebook, file = nbformat.from_dict(model["content"]), Path(contents_manager.root_dir) / path.lstrip("/")
    keys = get_config(path=file.parent).allowed_cell_metadata_keys.split()
    clean_nb(notebook, allowed_cell_metadata_keys=keys)
    before = stored_outputs(file)
    for cell in notebook.cells:
        if before.get(cell.get("id")) == cell.get("outputs"): cell.outputs = before[cell.id]
    model["content"] = notebook


c.FileContentsManager.pre_save_hook = before_saving  # noqa: F821, `c` is given by jupyter
c.LabApp.news_url = None  # noqa: F821
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"  # noqa: F821
