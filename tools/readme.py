"""Write README.md from nbs/index.ipynb: `python tools/readme.py`.

Prose is taken as it stands, code cells marked `#| echo: false` or `#| hide` lose their code, and each stored chart
becomes an SVG in nbs/images/ that carries the digest of the chart it was drawn from, so that a test can see when it
is out of date.
"""
import hashlib
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / "nbs" / "index.ipynb"
CHART = re.compile(r"application/vnd\.vegalite\.v\d+\+json")
NOTE = "<!-- Written by `make readme` from nbs/index.ipynb; edit that notebook. -->"

def cells() -> list[dict]:
    return json.loads(INDEX.read_text(encoding="utf-8"))["cells"]

def pictures() -> list[tuple[Path, dict]]:
    "The stored charts of the index, in order, each with the place of its picture."
    shown = [output.get("data", {}) for cell in cells() for output in cell.get("outputs", [])]
    specs = [data[kind] for data in shown for kind in data if CHART.fullmatch(kind)]
    return [(INDEX.parent / "images" / f"index-{i}.svg", spec) for i, spec in enumerate(specs, 1)]

def mark(spec: dict) -> str:
    "The comment in a picture that says which chart it shows."
    return f"<!-- chart {hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]} -->"

def stale_pictures() -> list[str]:
    "The names of pictures that are missing or show an older chart."
    def is_stale(path: Path, spec: dict) -> bool:
        return not path.exists() or not path.read_text(encoding="utf-8").endswith(mark(spec) + "\n")
    return [path.name for path, spec in pictures() if is_stale(path, spec)]

def from_root(text: str) -> str:
    "Links relative to nbs/ rewritten as links relative to the root."
    return re.sub(r"\]\((?!https?:|mailto:|#)/?([^)]+)\)", r"](nbs/\1)", text)

def text() -> str:
    "What README.md should hold."
    shown, drawn = [NOTE], iter(pictures())
    for cell in cells():
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown": shown.append(from_root(source))
        if cell["cell_type"] != "code": continue
        if not re.search(r"^#\|\s*(hide|echo:\s*false)", source, re.M): shown.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if any(CHART.fullmatch(k) for k in data):
                path, spec = next(drawn)
                shown.append(f"![{' '.join(spec['description'].split())}]({path.relative_to(ROOT).as_posix()})")
            elif "text/markdown" in data: shown.append(from_root("".join(data["text/markdown"]).strip()))
    return "\n\n".join(shown) + "\n"

def main():
    import vl_convert
    for path, spec in pictures():
        path.parent.mkdir(exist_ok=True)
        drawn = vl_convert.vegalite_to_svg(spec, vl_version="5.20").rstrip()
        path.write_text(f"{drawn}\n{mark(spec)}\n", encoding="utf-8")
    (ROOT / "README.md").write_text(text(), encoding="utf-8")
    print(f"README.md: {len(text().splitlines())} lines, {len(pictures())} pictures")

if __name__ == "__main__": main()
