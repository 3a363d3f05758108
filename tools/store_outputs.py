"""Run notebooks and keep their outputs: `python tools/store_outputs.py [notebook or folder ...]` (default: nbs/).

Library notebooks run as nbdev's tests run them: IN_TEST=1 (so every profile is smoke), an empty run store, and the
cells with a flag from `tst_flags` or `#| eval: false` left out; those keep the outputs they have. Chapters and the
index run as a reader runs them, at the values of their own parameters cell, from the reader's run store. A notebook
that fails is left as it was.
"""
import json
import os
import re
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbdev.clean import nbdev_clean
from nbdev.config import get_config

from facecp_nb.cli import kernel_manager

ROOT = Path(__file__).resolve().parent.parent
VIEW, STATE = (f"application/vnd.jupyter.widget-{kind}+json" for kind in ("view", "state"))

@contextmanager
def environment(**values: str | None):
    "Set environment variables for the block; None removes one."
    before = {k: os.environ.get(k) for k in values}
    def put(changes):
        for k, v in changes.items():
            if v is None: os.environ.pop(k, None)
            else: os.environ[k] = v
    put(values)
    try: yield
    finally: put(before)

def skipped(cell, flags: set[str]) -> bool:
    "Whether nbdev's tests would leave `cell` out."
    directives = re.findall(r"^#\|\s*([\w-]+)(:\s*\w+)?", cell.source, re.M)
    def leaves_out(word: str, value: str) -> bool:
        return word in flags or (word, value.replace(" ", "").lower()) == ("eval", ":false")
    return any(leaves_out(word, value) for word, value in directives)

def without_styles(nb):
    "Leave out the style sheet that pandas repeats with every table; JupyterLab and the site bring their own."
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                data["text/html"] = re.sub(r"<style scoped>.*?</style>\n?", "", data["text/html"], flags=re.S)
    return nb

def stable_widgets(nb):
    "Name widget models 0, 1, 2 in the order in which outputs refer to them, so that a second run changes no line."
    state = nb.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    names = {}
    def visit(model):
        if model in names or model not in state: return
        names[model] = f"{len(names):032x}"
        for child in re.findall(r"IPY_MODEL_([0-9a-f]{32})", json.dumps(state[model], sort_keys=True)): visit(child)
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if VIEW in output.get("data", {}): visit(output["data"][VIEW]["model_id"])
    for unseen in set(state) - set(names): del state[unseen]
    if not state: nb.metadata.pop("widgets", None)
    text = nbformat.writes(nb)
    for old, new in names.items(): text = text.replace(old, new)
    return nbformat.reads(text, 4)

def without_live_views(nb):
    "Where a widget brings a picture of itself, keep the picture alone: it shows without a kernel."
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if "image/jpeg" in output.get("data", {}): output["data"].pop(VIEW, None)
    return nb

def without_places(nb, store: str):
    "Shorten the paths of this computer in the text of outputs, as they stand in warnings."
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            holder, key = (output, "text") if "text" in output else (output.get("data", {}), "text/plain")
            if key not in holder: continue
            text = holder[key].replace(store, "runs").replace(f"{ROOT}/", "")
            holder[key] = re.sub(r"\S*/ipykernel_\d+/\d+\.py", "<cell>", text)
    return nb

def execute(path: Path):
    "Run the notebook at `path` in a kernel of its own and return it with new outputs."
    nb = nbformat.read(path, 4)
    library = "library" in path.parts
    flags = set(get_config().tst_flags.split()) if library else set()
    left_out = [c for c in nb.cells if c.cell_type == "code" and library and skipped(c, flags)]
    sources = [c.source for c in left_out]
    outputs = [c.outputs for c in left_out]
    for cell in left_out: cell.source = ""
    with tempfile.TemporaryDirectory() as store:
        as_tested = dict(IN_TEST="1", FACECP_HOME=store) if library else dict(IN_TEST=None)
        with environment(**as_tested):
            client = NotebookClient(
                nb, timeout=None, record_timing=False, coalesce_streams=True, kernel_name="python3",
                kernel_manager_class=kernel_manager(Path(store) / "kernel.log"),
                resources={"metadata": {"path": str(path.parent)}},
            )
            client.execute()
    for cell, source, output in zip(left_out, sources, outputs): cell.source, cell.outputs = source, output
    return without_styles(stable_widgets(without_live_views(without_places(nb, store))))

def store(path: Path):
    "Run the notebook at `path` and write it back with its outputs, cleaned as nbdev cleans."
    before = path.read_bytes()
    done = execute(path)
    if path.read_bytes() != before:
        sys.exit(f"{path.name} was edited while it ran; nothing was written. Run this again.")
    nbformat.write(done, path)
    nbdev_clean(fname=str(path))

def main(arguments: list[str]):
    places = [Path(a).resolve() for a in arguments] or [ROOT / "nbs"]
    files = [f for p in places for f in (sorted(p.rglob("*.ipynb")) if p.is_dir() else [p])]
    os.chdir(ROOT)
    for f in files:
        if any(part[0] in "._" for part in f.relative_to(ROOT).parts): continue
        began = time.time()
        print(f.relative_to(ROOT), end=" ", flush=True)
        store(f)
        print(f"{time.time() - began:.0f} s")

if __name__ == "__main__": main(sys.argv[1:])
