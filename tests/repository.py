"What the tests of the tree read: the repository's notebooks and modules"
import ast, json, re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
PACKAGE = ROOT / "facecp_nb"
CHART = re.compile(r"application/vnd\.vegalite\.v\d+\+json")

def notebooks(folder: str = "") -> list[Path]:
    "The notebooks below nbs/`folder`, in order; those whose name or folder starts with `_` or `.` are not part of the course."
    found = sorted((NBS / folder).rglob("*.ipynb"))
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
