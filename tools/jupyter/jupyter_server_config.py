"""How JupyterLab is set up for this repository; `make lab` names this folder in JUPYTER_CONFIG_PATH.

A notebook in git is clean: no name of a kernel's version, no pictures of charts. JupyterLab adds such things to every
notebook that it opens, and so takes it for changed. `CleanContents` shows it the notebook with them and stores it
without: opening asks for no save, and a save changes nothing in git but what was typed or run.
"""
import json
import re
from pathlib import Path

import nbformat
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelspec import get_kernel_dict
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from nbdev.clean import clean_nb
from nbdev.config import get_config

CHART = re.compile(r"application/vnd\.vegalite\.v\d+\+json")
# JupyterLab draws a PNG of each chart that has none; a clear pixel keeps it from that
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="


def charts(notebook) -> list[dict]:
    "The data of the outputs that hold a chart."
    held = [output.get("data", {}) for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return [data for data in held if any(CHART.fullmatch(kind) for kind in data)]

def dress(notebook):
    "Add what JupyterLab would add when it has heard from the kernel."
    spec = get_kernel_dict()
    kernel = dict(name="python3", display_name=spec["display_name"], language=spec["language"])
    # as it comes over the wire
    language = json.loads(json.dumps(IPythonKernel.language_info))
    notebook["metadata"].update(kernelspec=kernel, language_info=language)
    for data in charts(notebook): data.setdefault("image/png", PIXEL)

def undress(notebook, file: Path):
    "Clean the notebook as nbdev cleans; `file` is where it lies."
    for data in charts(notebook): data.pop("image/png", None)
    clean_nb(notebook, allowed_cell_metadata_keys=get_config(path=file.parent).allowed_cell_metadata_keys.split())
    if not file.is_file(): return
    # a browser turns 1.0 into 1: an output that was only shown goes back as it was spelt
    before = {cell.get("id"): cell.get("outputs") for cell in nbformat.read(file, 4).cells}
    for cell in notebook["cells"]:
        if "outputs" in cell and before.get(cell["id"]) == cell["outputs"]: cell["outputs"] = before[cell["id"]]

def is_notebook(model: dict) -> bool:
    return model["type"] == "notebook" and bool(model.get("content")) and model["content"]["nbformat"] == 4


class CleanContents(AsyncLargeFileManager):
    "Files, of which notebooks are shown as JupyterLab wants them and stored as git wants them."

    async def get(self, path, *args, **kwargs):
        model = await super().get(path, *args, **kwargs)
        if is_notebook(model): dress(model["content"])
        return model

    async def save(self, model, path=""):
        if is_notebook(model):
            model["content"] = nbformat.from_dict(model["content"])
            undress(model["content"], Path(self.root_dir) / path.lstrip("/"))
        return await super().save(model, path)


c.ServerApp.contents_manager_class = CleanContents  # noqa: F821, `c` is given by jupyter
c.LabApp.news_url = None  # noqa: F821
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"  # noqa: F821
