"What the tests of the tree read: the repository's notebooks and modules"
import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
PACKAGE = ROOT / "facecp_nb"
CHART = re.compile(r"application/vnd\.vegalite\.v\d+\+json")

def notebooks(folder: str = "", recursive: bool = True) -> list[Path]:
    "The notebooks below nbs/`folder`, in order; a name or folder that starts with `_` or `.` is not of the course."
    found = sorted((NBS / folder).rglob("*.ipynb") if recursive else (NBS / folder).glob("*.ipynb"))
    return [f for f in found if not any(part[0] in "._" for part in f.relative_to(NBS).parts)]

def name(path: Path) -> str:
    "A notebook as pytest shows it: its place below nbs/, without the suffix."
    return path.relative_to(NBS).with_suffix("").as_posix()

def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))

def source(cell: dict) -> str:
    return "".join(cell["source"])

def code(nb: dict) -> list[dict]:
    return [c for c in nb["cells"] if c["cell_type"] == "code"]

def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])

def python(cell: dict) -> str:
    "The cell's code without IPython's own lines (`%magic`, `!shell`) and nbdev's directives."
    return "\n".join(line for line in source(cell).splitlines() if not line.lstrip().startswith(("%", "!", "#|")))

def parsed(cell: dict) -> list[ast.stmt]:
    return ast.parse(python(cell)).body

def modules() -> list[Path]:
    "The modules of the package, in the order of their paths; `_modidx` is nbdev's own."
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name == "__init__.py" or p.name[0] != "_")

def dotted(path: Path) -> str:
    "A module's name inside the package: `data.images`, `data` for the face of data, `` for the package itself."
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


# --- exercises -------------------------------------------------------------------------------------------------------

PARTS = "exercise", "check", "solution"
FENCE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
FOLDED = re.compile(r"<details>(.*?)</details>", re.S)
WRONG = re.compile(r"<!-- wrong\b(.*?)-->", re.S)

def exercises(nb: dict) -> list[dict[str, dict]]:
    "The exercises of a notebook: a cell tagged `exercise` (the stub) opens one; `check` and `solution` follow."
    found = []
    for cell in nb["cells"]:
        kind = next((k for k in PARTS if k in tags(cell)), None)
        if kind == "exercise": found.append({})
        if kind and found: found[-1][kind] = cell
    return found

def solution(cell: dict) -> str | None:
    "The Python that is folded away in a solution cell, or None."
    folded = FOLDED.search(source(cell))
    fenced = folded and FENCE.search(folded[1])
    return fenced[1] if fenced else None

def wrong_answers(cell: dict) -> list[str]:
    "The wrong answers that a solution cell keeps in comments, for the tests alone."
    return [fenced for comment in WRONG.findall(source(cell)) for fenced in FENCE.findall(comment)]


# --- what a reader sees ----------------------------------------------------------------------------------------------

def charts(nb: dict) -> list[dict]:
    "The Vega-Lite specs stored in the outputs of `nb`."
    return [data[kind] for c in code(nb) for o in c["outputs"] for data in [o.get("data", {})]
            for kind in data if CHART.fullmatch(kind)]

def texts(nb: dict) -> str:
    "Everything a reader may see of `nb`, pictures apart: sources and the text of outputs."
    parts = [source(c) for c in nb["cells"]]
    for c in code(nb):
        for o in c["outputs"]:
            data = {k: v for k, v in o.get("data", {}).items() if not k.startswith("image/")}
            parts.append(json.dumps({**o, "data": data}, ensure_ascii=False))
    return "\n".join(parts)
