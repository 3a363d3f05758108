"The tree stays in step: notebooks, exported modules, README, and the rules that readers rely on"
import ast, re, shutil, subprocess, sys
from pathlib import Path

import pytest
from repository import NBS, PACKAGE, ROOT, charts, code, name, notebooks, parsed, read, source, tags, texts

every = pytest.mark.parametrize("path", notebooks(), ids=name)
chapters = pytest.mark.parametrize("path", notebooks("chapters"), ids=name)
modules = pytest.mark.parametrize("path", sorted(p for p in PACKAGE.glob("*.py") if p.name[0] != "_"), ids=lambda p: p.stem)

ORDER = ("core people faces data sets detection foveation masks models heads training recovery verification evaluation "
         "study plots widgets cli").split()


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
    exported = {m[1] for f in notebooks("library") for c in code(read(f))
                if (m := re.search(r"^#\|\s*default_exp\s+(\S+)", source(c), re.M))}
    assert {p.stem for p in PACKAGE.glob("*.py") if p.name[0] != "_"} == exported

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

def imported(tree: ast.AST) -> set[str]:
    "The modules of facecp_nb that `tree` imports, at the top or inside a function."
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("facecp_nb.")}
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level or module.split(".")[0] == "facecp_nb":
                inside = module if node.level else module.partition(".")[2]
                found |= {inside.split(".")[0]} if inside else {a.name for a in node.names}
    return found - {"__version__"}

@modules
def test_module_order(path):
    "A module imports only modules to its left."
    assert path.stem in ORDER, f"{path.stem} has no place in the order {ORDER}"
    left = set(ORDER[:ORDER.index(path.stem)])
    assert imported(ast.parse(path.read_text())) - left == set()

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

@modules
def test_nothing_is_unpickled(path):
    assert unpickling(ast.parse(path.read_text())) == []

def test_the_checks_of_modules_can_fail():
    assert imported(ast.parse("from .study import run")) == {"study"}
    assert imported(ast.parse("def f():\n  from facecp_nb import cli, core")) == {"cli", "core"}
    assert imported(ast.parse("import facecp_nb.plots as p")) == {"plots"}
    for bad in ("torch.load(f)", "pickle.load(f)", "np.load(f, allow_pickle=True)", "load_learner(f)"):
        assert unpickling(ast.parse(bad)) != [], bad
    assert unpickling(ast.parse("torch.load(f, weights_only=True); np.load(f)")) == []


def test_ruff_finds_nothing():
    done = subprocess.run([Path(sys.executable).parent / "ruff", "check", "--no-cache", "--output-format", "concise", "facecp_nb", "tools", "tests"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


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
