"""Build the site: `python tools/build_site.py` writes _docs/ at the root of the checkout.

nbdev prepares copies of the notebooks (hidden cells, show_doc, links, and the processors of docproc), smalldocs
renders them as the Quarto project that _quarto.yml describes, and this script makes the pages complete in themselves:
charts are drawn by a vega.js served with them, formulas become MathML, which browsers draw. No page asks another host
for anything.
"""
import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
DRAW = """for (const s of document.querySelectorAll('script[data-vega]'))
  vegaEmbed('#' + s.dataset.vega, JSON.parse(s.textContent), {actions: false, renderer: 'svg'});"""
MATHS = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.S)
KATEX = re.compile(r'\s*<(?:link|script)[^>]*cdn\.jsdelivr\.net/npm/katex[^>]*>(?:</script>)?')
# what a browser fetches by itself when it opens a page
FETCHED = re.compile(r'<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc="(https?:)?//[^"]*"'
                     r'|<link\b[^>]*\bhref="(?:https?:)?//[^"]*"|@import\s+url\(["\']?https?:', re.I)

class SiteError(Exception):
    "The site cannot be built as it stands; the message says which page and why."

def mathml(tex: str, display: str) -> str:
    "The MathML of a formula; `SiteError` where the converter did not understand it."
    from latex2mathml.converter import convert
    # a nested alignment is the same table as a displayed one
    known = re.sub(r"\\(begin|end)\{(aligned|gathered)\}", r"\\\1{align*}", tex)
    try:
        text = convert(known, display="block" if display == "display" else "inline")
        if "\\" in "".join(ElementTree.fromstring(text).itertext()): raise ValueError("an unknown command")
    except Exception as error: raise SiteError(f"this formula cannot be shown on the site ({error}): {tex}") from None
    return text

def complete(page: Path, site: Path):
    "Make the page's formulas and charts independent of other hosts."
    text = page.read_text(encoding="utf-8")
    try: text = MATHS.sub(lambda m: mathml(html.unescape(m[2]), m[1]), text)
    except SiteError as error: raise SiteError(f"{page.relative_to(site)}: {error}") from None
    text = KATEX.sub("", text)
    if "data-vega=" in text:
        script = os.path.relpath(site / "site_libs" / "vega" / "vega.js", page.parent)
        text = text.replace("</body>", f'<script src="{script}"></script></body>')
    if found := FETCHED.search(text): raise SiteError(f"{page.relative_to(site)} asks another host: {found[0]}")
    page.write_text(text, encoding="utf-8")

def write_vega(folder: Path):
    "One script with vega, vega-lite and vega-embed that draws every chart of the page that loads it."
    import vl_convert
    folder.mkdir(parents=True, exist_ok=True)
    # not a module: browsers refuse modules on pages opened from disk
    bundle = vl_convert.javascript_bundle(DRAW, vl_version="5.20")
    (folder / "vega.js").write_text(f"(()=>{{{bundle}}})();", encoding="utf-8")

def build(root: Path = ROOT, workers: int = 2) -> Path:
    "Build the site of the checkout at `root` and return its folder, _docs."
    root = Path(root).resolve()
    for needed in ("settings.ini", "_quarto.yml", "nbs"):
        if (root / needed).exists(): continue
        raise SiteError(f"{root.name}/ holds no {needed}: the site is built from a checkout of the repository.")
    before = Path.cwd(), sys.path[:], os.environ.get("PYTHONPATH")
    os.chdir(root)
    # nbdev's workers are processes of their own and look for docproc by name
    sys.path.insert(0, str(root / "tools"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root / "tools"), before[2]]))
    try:
        from nbdev.serve import proc_nbs
        shutil.rmtree(root / "_proc", ignore_errors=True)
        shutil.rmtree(root / "_docs", ignore_errors=True)
        try: pages = proc_nbs(n_workers=workers, force=True)
        except Exception as error: raise SiteError(f"nbdev could not prepare the notebooks. {error}") from None
        shutil.copy(root / "_quarto.yml", pages)
        command = [Path(sys.executable).parent / "smalldocs", "render", "--strict", str(pages)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode: raise SiteError(f"smalldocs refused the pages:\n{done.stdout}{done.stderr}")
    finally:
        os.chdir(before[0])
        sys.path[:] = before[1]
        if before[2] is None: os.environ.pop("PYTHONPATH", None)
        else: os.environ["PYTHONPATH"] = before[2]
    site = root / "_docs"
    write_vega(site / "site_libs" / "vega")
    for page in sorted(site.rglob("*.html")): complete(page, site)
    return site

def main():
    "Build the site of this checkout and say where it is."
    try: print(f"The site is in {build().relative_to(ROOT)}/")
    except SiteError as error: sys.exit(str(error))

if __name__ == "__main__": main()
