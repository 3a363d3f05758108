"The tree stays in step: notebooks, exported modules, README, and the rules that readers rely on"
import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from facecp_nb.packages import PACKAGES
from repository import NBS, ROOT, charts, code, dotted, modules, name, notebooks, parsed, read, source, tags, texts

every = pytest.mark.parametrize("path", notebooks(), ids=name)
chapters = pytest.mark.parametrize("path", notebooks("chapters"), ids=name)
every_module = pytest.mark.parametrize("path", modules(), ids=lambda p: dotted(p) or "facecp_nb")


# --- generated files -------------------------------------------------------------------------------------------------

@pytest.fixture
def copy(tmp_path):
    "A copy of what nbdev reads and writes, so that no test touches the working tree."
    for folder in ("nbs", "facecp_nb"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", ".*", "runs"))
    for file in ("settings.ini", "pyproject.toml"): shutil.copy(ROOT / file, tmp_path)
    return tmp_path

def changed(copy: Path, folder: str, pattern: str) -> list[str]:
    "The files below `folder` that are not the same in the copy and in the repository."
    found = {p.relative_to(base).as_posix() for base in (copy, ROOT) for p in (base / folder).rglob(pattern)
             if not any(part[0] == "." for part in p.relative_to(base).parts)}
    content = lambda p: p.read_bytes() if p.exists() else None
    return sorted(f for f in found if content(copy / f) != content(ROOT / f))

def nbdev(command: str, copy: Path):
    "Run one of nbdev's commands in the copy."
    done = subprocess.run([Path(sys.executable).parent / command], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

def test_export_changes_nothing(copy):
    nbdev("nbdev_export", copy)
    assert changed(copy, "facecp_nb", "*.py") == [], "run nbdev_export and commit what it writes"

def test_clean_changes_nothing(copy):
    nbdev("nbdev_clean", copy)
    assert changed(copy, "nbs", "*.ipynb") == [], "run nbdev_clean and commit what it writes"

def test_every_module_has_its_notebook():
    "nbdev never deletes the module of a notebook that was removed or renamed."
    directives = (re.search(r"^#\|\s*default_exp\s+(\S+)", source(c), re.M) for f in notebooks() for c in code(read(f)))
    exported = {d[1].removesuffix(".__init__") for d in directives if d}
    assert {dotted(p) for p in modules()} - {""} == exported

def test_a_notebook_lies_where_its_module_does():
    "nbs/library/models/02_taps.ipynb writes facecp_nb/models/taps.py; 00_models.ipynb is the face of models."
    for path in notebooks("library"):
        first = next((d for c in code(read(path)) if (d := re.search(r"^#\|\s*default_exp\s+(\S+)", source(c), re.M))), None)
        assert first, f"{name(path)} exports to no module"
        place, word = path.parent.relative_to(NBS / "library").parts, re.sub(r"^\d+[a-z]?_", "", path.stem)
        face = bool(place) and word == place[-1]
        assert first[1] == ".".join((*place, "__init__" if face else word))

def test_readme_is_in_step():
    sys.path.insert(0, str(ROOT / "tools"))
    try: import readme
    finally: sys.path.remove(str(ROOT / "tools"))
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme.text(), "run make readme"
    assert readme.stale_pictures() == [], "run make readme"
    assert len(readme.text().splitlines()) <= 120


# --- every notebook --------------------------------------------------------------------------------------------------

@every
def test_kernelspec(path):
    kernel = read(path)["metadata"].get("kernelspec", {})
    assert (kernel.get("name"), kernel.get("language")) == ("python3", "python")

@every
def test_size(path):
    assert path.stat().st_size <= 300 * 1024

@every
def test_title_cell(path):
    "nbdev drops every other line of the title cell from the site, silently."
    first = read(path)["cells"][0]
    lines = [line for line in source(first).splitlines() if line.strip()]
    assert first["cell_type"] == "markdown" and lines[0].startswith("# ")
    other = [line for line in lines[1:] if not re.match(r"> |- [\w-]+: ", line)]
    assert other == [], "move these lines to the next cell"

@every
def test_imports_stand_alone(path):
    "nbdev runs import cells when it prepares the site; what shares such a cell would run there too."
    mixed = []
    for cell in code(read(path)):
        kinds = {isinstance(node, (ast.Import, ast.ImportFrom)) for node in parsed(cell)}
        if len(kinds) == 2: mixed.append(source(cell))
    assert mixed == []

# /home/x, /tmp/x and the like; a bare word such as /tmp in prose is no path of somebody's machine
ABSOLUTE = re.compile(r"(?:file://|(?<![\w.~/:-]))/(?:work|tmp|root|home|Users|opt|mnt)/[\w.-]+|\b[A-Z]:\\\\?Users")

@every
def test_no_absolute_path(path):
    assert ABSOLUTE.findall(texts(read(path))) == []

def test_absolute_paths_are_seen():
    for text in ("/work/main/x.py", 'File "/root/.pyenv/y"', "at /home/me/z", r"C:\Users\me", "file:///tmp/a"):
        assert ABSOLUTE.search(text), text
    for text in ("runs/ab12", "../shared/faces", "https://example.org/home/page", "eyes/mouth"):
        assert not ABSOLUTE.search(text), text

@every
def test_no_stored_error(path):
    for cell in code(read(path)):
        if "raises-exception" in tags(cell): continue
        assert not any(o["output_type"] == "error" for o in cell["outputs"]), source(cell)
        assert "Traceback (most recent call last)" not in str(cell["outputs"]), source(cell)

@every
def test_charts_have_alt_text(path):
    for spec in charts(read(path)): assert spec.get("description", "").strip(), "a chart without a description"


# --- chapters --------------------------------------------------------------------------------------------------------

@chapters
def test_parameters_cell(path):
    "One cell tagged `parameters`, literals only, so that papermill and `facecp run` know every name and type."
    found = [c for c in code(read(path)) if "parameters" in tags(c)]
    assert len(found) == 1
    values = {}
    for node in parsed(found[0]):
        assert isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name), ast.unparse(node)
        values[node.targets[0].id] = ast.literal_eval(node.value)
    standard = {"profile": "quick", "seed": 0, "data": "rendered", "out": None}
    assert {k: values.get(k, "missing") for k in standard} == standard

@chapters
def test_exports_nothing(path):
    assert not any(re.search(r"^#\|\s*(export|default_exp)", source(c), re.M) for c in code(read(path)))


def test_readme_lists_the_chapters_that_exist():
    linked = re.findall(r"\]\(nbs/(chapters/[^)#]+)\.ipynb\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert sorted(set(linked)) == [name(p) for p in notebooks("chapters")]


# --- modules ---------------------------------------------------------------------------------------------------------

ORDER = [f"{package}.{module}" for package, inside in PACKAGES.items() for module in (*inside, "")]

def place(module: str) -> int:
    "How far right a module stands; the face of a package stands right of what is in it."
    known = module if "." in module else f"{module}."
    assert known in ORDER, f"{module} has no place in packages.PACKAGES"
    return ORDER.index(known)

def imported(tree: ast.AST, here: str = "") -> set[str]:
    """The modules of facecp_nb that `tree`, the module `here`, imports, at the top or inside a function.

    A relative import counts dots from `here`, as Python does."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("facecp_nb.")}
        if isinstance(node, ast.ImportFrom): found |= named(node, here)
    return found - {"__version__", ""}

def named(node: ast.ImportFrom, here: str) -> set[str]:
    "The modules that one `from ... import ...` names."
    if node.level:
        # a face is a package of its own name, any other module lies in the package before its last dot
        package = here.split(".") if here in PACKAGES and PACKAGES[here] else here.split(".")[:-1]
        base = package[:len(package) - node.level + 1]
        inside = ".".join([*base, *([node.module] if node.module else [])])
    elif (node.module or "").split(".")[0] == "facecp_nb": inside = node.module.partition(".")[2]
    else: return set()
    below = {f"{inside}.{a.name}" if inside else a.name for a in node.names}
    known = {b for b in below if b in PACKAGES or b in ORDER}
    return known or ({inside} if inside else set())

def stars(tree: ast.AST) -> list[str]:
    "The modules of which `tree` imports everything."
    froms = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return [node.module or "." for node in froms if node.names[0].name == "*"]

def foreign_private(tree: ast.AST, here: str) -> list[str]:
    "The private names of other packages that `tree` imports or reads, as `_x` of `facecp_nb.data`."
    mine, found, aliases = here.split(".")[0], [], {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom): continue
        for module in named(node, here):
            if module.split(".")[0] == mine: continue
            found += [f"{module}.{a.name}" for a in node.names if a.name.startswith("_") and a.name != "__version__"]
            aliases |= {a.asname or a.name: module for a in node.names if module.split(".")[-1] == a.name}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)): continue
        if node.value.id in aliases and node.attr.startswith("_") and not node.attr.startswith("__"):
            found.append(f"{aliases[node.value.id]}.{node.attr}")
    return found

def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))

def is_package_itself(path: Path) -> bool:
    return dotted(path) == ""

@every_module
def test_module_order(path):
    "A module imports only modules to its left: of packages before its own, and before it in its own."
    here = dotted(path)
    if is_package_itself(path): return
    assert here in PACKAGES or here in ORDER, f"{here} has no place in packages.PACKAGES"
    right = {m for m in imported(tree_of(path), here) if place(m) >= place(here)}
    assert right == set(), f"{here} imports what stands to its right"

def test_every_module_of_the_order_exists():
    there = {dotted(p) for p in modules()}
    assert [m for m in (name.rstrip(".") for name in ORDER) if m not in there] == []

@every_module
def test_imports_are_explicit(path):
    assert stars(tree_of(path)) == []

@every_module
def test_private_names_stay_in_their_package(path):
    assert foreign_private(tree_of(path), dotted(path)) == []

def public(path: Path) -> set[str]:
    "The public names that a module defines itself (`__all__`, as nbdev writes it)."
    for node in tree_of(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__": return set(ast.literal_eval(node.value))
    return set()

def test_no_public_name_stands_in_two_modules():
    "Faces of packages apart, which hand names on."
    where = {}
    for path in modules():
        if path.name == "__init__.py": continue
        for word in public(path): where.setdefault(word, []).append(dotted(path))
    assert [f"{word}: {', '.join(at)}" for word, at in sorted(where.items()) if len(at) > 1] == []

UNPICKLES = {"pickle.load", "pickle.loads", "dill.load", "joblib.load", "pd.read_pickle", "pandas.read_pickle", "load_learner"}

def unpickling(tree: ast.AST) -> list[str]:
    "The calls in `tree` that would run code stored in a file."
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call): continue
        called, said = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if called in UNPICKLES: found.append(called)
        if called == "torch.load" and said.get("weights_only") != "True": found.append(called)
        if called in ("np.load", "numpy.load") and said.get("allow_pickle") == "True": found.append(called)
    return found

@every_module
def test_nothing_is_unpickled(path):
    assert unpickling(tree_of(path)) == []

def test_the_checks_of_modules_can_fail():
    def seen(text: str, here: str = "cli") -> set[str]: return imported(ast.parse(text), here)
    assert seen("from .study import run") == {"study"}
    assert seen("def f():\n  from facecp_nb import cli, core") == {"cli", "core"}
    assert seen("import facecp_nb.plots as p") == {"plots"}
    assert seen("from ..core import home", "data.images") == {"core"}
    assert seen("from .images import crop", "data.sources") == {"data.images"}
    assert seen("from .images import crop", "data") == {"data.images"}
    assert seen("from facecp_nb.data import images", "people.draw") == {"data.images"}
    assert stars(ast.parse("from fastcore.test import *")) == ["fastcore.test"]
    assert foreign_private(ast.parse("from facecp_nb.data import _crop"), "people.draw") == ["data._crop"]
    assert foreign_private(ast.parse("from facecp_nb import data\ndata._crop()"), "people.draw") == ["data._crop"]
    for bad in ("torch.load(f)", "pickle.load(f)", "np.load(f, allow_pickle=True)", "load_learner(f)"):
        assert unpickling(ast.parse(bad)) != [], bad
    assert unpickling(ast.parse("torch.load(f, weights_only=True); np.load(f)")) == []


def test_contributing_tells_the_order():
    "The one list of the order is `packages.PACKAGES`; the line in CONTRIBUTING.md is held to it."
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    line = re.search(r"^packages core .*$", told, re.M)[0]
    assert line.split() == list(PACKAGES), f"write: {' '.join(PACKAGES)}"

def test_ruff_finds_nothing():
    program = Path(sys.executable).parent / "ruff"
    command = [program, "check", "--no-cache", "--output-format", "json",
               "facecp_nb", "tools", "tests", "setup.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = [f for f in json.loads(done.stdout) if not generated(f)]
    assert [f"{f['filename']}:{f['location']['row']} {f['code']} {f['message']}" for f in found] == []

def generated(finding: dict) -> bool:
    "Whether ruff finds the list of public names too long, which nbdev wraps at 130."
    line = Path(finding["filename"]).read_text(encoding="utf-8").splitlines()[finding["location"]["row"] - 1]
    return finding["code"] == "E501" and line.startswith("__all__ = ")


# --- code that is shown ----------------------------------------------------------------------------------------------

def shown(path: Path) -> list[dict]:
    "The code cells that a reader of the site sees as they stand: not hidden, not exported (those are held to 120)."
    hidden = re.compile(r"^#\|\s*(export|exports|exporti|hide|echo:\s*false|default_exp)\b", re.M)
    return [c for c in code(read(path)) if not hidden.search(source(c))]

@every
def test_shown_code_is_at_most_100_wide(path):
    wide = [line for cell in shown(path) for line in source(cell).splitlines() if len(line) > 100]
    assert wide == []


# --- what the repository holds ---------------------------------------------------------------------------------------

def test_no_image_of_a_real_person_is_tracked():
    "Photographs and models never enter the repository."
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode: pytest.skip("not a git checkout")
    files = tracked.stdout.split("\n")
    assert [f for f in files if re.search(r"\.(jpe?g|pgm|bmp|tiff?|pt|pth|pkl|safetensors|ckpt|npy)$", f, re.I)] == []
    assert [f for f in files if f and (ROOT / f).is_file() and (ROOT / f).stat().st_size > 12_000_000] == []

def test_links_in_notebooks_lead_somewhere():
    broken = []
    for path in notebooks():
        for cell in read(path)["cells"]:
            if cell["cell_type"] != "markdown": continue
            for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", source(cell)):
                there = (NBS / target.lstrip("/")) if target.startswith("/") else path.parent / target
                if not there.exists(): broken.append(f"{name(path)}: {target}")
    assert broken == []
