"The site as a reader meets it: built once from a copy of the tree, served here, opened in a real browser"
import functools
import html
import http.server
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import chromium, errors, external, requests
from repository import ROOT, charts, name, notebooks, read, source
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.slow

every = pytest.mark.parametrize("path", notebooks(), ids=name)

@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    "The folder of the built site."
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("nbs", "facecp_nb", "tools"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", ".*", "runs"))
    for file in ("settings.ini", "pyproject.toml", "_quarto.yml"): shutil.copy(ROOT / file, copy)
    done = subprocess.run([sys.executable, "tools/build_site.py"], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy / "_docs"

def page(site: Path, path: Path) -> str:
    return (site / f"{name(path)}.html").read_text(encoding="utf-8")

@every
def test_page(site, path):
    "Each notebook has its page, linked from the index, with its charts, callouts and formulas turned into what a browser shows."
    text, nb = page(site, path), read(path)
    assert text.count("data-vega=") == len(charts(nb))
    assert not re.search(r'class="math|katex', text)
    prose = "\n".join(source(c) for c in nb["cells"] if c["cell_type"] == "markdown")
    wanted = re.findall(r"^> \*\*(?:Predict|Look|Check|Explain|Warning)\b", prose, re.M)
    assert len(re.findall(r'<div class="callout[ "]', text)) == len(wanted)
    # solutions are folded, and the wrong answers that the tests try are nowhere
    assert text.count("<details") >= prose.count("<details>") and "<!-- wrong" not in text
    assert f"{name(path)}.html" in (site / "index.html").read_text(encoding="utf-8")

@every
def test_links_lead_somewhere(site, path):
    "Every file, page and place in a page that a page names is there."
    here, missing = site / f"{name(path)}.html", []
    for target in re.findall(r'\b(?:href|src)="([^"]*)"', page(site, path)):
        parts = urlsplit(html.unescape(target))
        if parts.scheme or parts.netloc: continue
        there = here.parent / unquote(parts.path) if parts.path else here
        if not there.exists(): missing.append(target)
        elif parts.fragment and f'id="{unquote(parts.fragment)}"' not in there.read_text(encoding="utf-8"): missing.append(target)
    assert missing == []

@pytest.fixture(scope="module")
def served(site):
    "The address of the site, served from this machine."
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *message): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()

@pytest.fixture(scope="module")
def window():
    with chromium() as browser: yield browser

def count(window, selector: str) -> int:
    "How many elements that match `selector` take up room on the page."
    return window.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter(e => e.getBoundingClientRect().height > 5).length",
        selector)

@every
def test_page_in_a_browser(served, window, path):
    "Every stored chart is drawn, every formula takes up room, nothing fails, and no other host is asked for anything."
    requests(window), errors(window)
    window.get(f"{served}/{name(path)}.html")
    wanted = len(charts(read(path)))
    WebDriverWait(window, 20).until(lambda w: count(w, ".vega-fig svg") == wanted)
    assert count(window, "math") == window.execute_script("return document.querySelectorAll('math').length")
    assert errors(window) == []
    asked = requests(window)
    assert asked and external(asked) == []

# what is wider than the window, and what a chart or a table shows cut off
WIDE = """
const wide = document.documentElement.clientWidth, found = [];
if (document.documentElement.scrollWidth > wide + 1) {
  for (const e of document.querySelectorAll('main *')) {
    let box = e.parentElement, inside = false;
    while (box && !inside) { inside = getComputedStyle(box).overflowX !== 'visible'; box = box.parentElement; }
    if (!inside && e.getBoundingClientRect().right > wide + 1) found.push(e.outerHTML.slice(0, 80));
  }
  found.push('the page scrolls sideways: ' + document.documentElement.scrollWidth);
}
for (const svg of document.querySelectorAll('.vega-fig svg')) {
  const held = svg.closest('.vega-fig').getBoundingClientRect(), drawn = svg.getBoundingClientRect();
  if (drawn.right > held.right + 1 || drawn.right > wide + 1) found.push('cut: ' + svg.closest('.vega-fig').ariaLabel);
}
return found;
"""

@every
def test_page_fits(served, window, path):
    "At the widths of a telephone, a tablet and a laptop no page scrolls sideways and no chart is cut."
    window.get(f"{served}/{name(path)}.html")
    wanted, wrong = len(charts(read(path))), {}
    WebDriverWait(window, 20).until(lambda w: count(w, ".vega-fig svg") == wanted)
    for width in (390, 768, 1280):
        metrics = dict(width=width, height=900, deviceScaleFactor=1, mobile=width == 390)
        window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        found = window.execute_script(WIDE)
        if found: wrong[width] = found[-3:]
    window.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wrong == {}

def test_search(served, window):
    "A reader who types a function's name is shown its page."
    window.get(f"{served}/index.html")
    box = WebDriverWait(window, 10).until(lambda w: w.find_element("css selector", "#quarto-search input"))
    box.send_keys("resolve_profile")
    def found(w) -> list[str]:
        links = w.find_elements("css selector", "#quarto-search .smalldocs-search-results a")
        return [a.get_attribute("href") or "" for a in links]
    WebDriverWait(window, 10).until(lambda w: any("00_core.html" in href for href in found(w)))
    assert external(requests(window)) == []

def test_other_hosts_would_be_seen(window, served):
    "The check of requests sees a page that asks another host."
    requests(window)
    window.get("data:text/html,<img src='http://elsewhere.invalid/x.png'>")
    assert external(requests(window)) == ["http://elsewhere.invalid/x.png"]
    errors(window)
