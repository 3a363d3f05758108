"A chapter in JupyterLab, as a reader runs it: opened in a browser, Run All, every cell numbered, no error"
import json, os, shutil, signal, socket, subprocess, sys, time
from urllib.request import urlopen

import pytest
from browser import chromium, external, requests
from repository import NBS, ROOT, charts, code, notebooks, read
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.support.ui import WebDriverWait

CHAPTER = (notebooks("chapters") or notebooks("library"))[0]
TOKEN = "a-token-for-this-test"

def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]

@pytest.fixture
def lab(tmp_path):
    "The address of a JupyterLab that serves a copy of the notebooks; its kernels run at smoke, with a run store of their own."
    shutil.copytree(NBS, tmp_path / "nbs", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "settings.ini", tmp_path)
    settings = tmp_path / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    # all cells stand in the page, also those that are not in view, so that they can be counted
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    own = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind.lower()) for kind in ("CONFIG", "RUNTIME", "DATA")}
    environment = {**os.environ, **own, "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"), "IN_TEST": "1", "FACECP_HOME": str(tmp_path / "runs")}
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={tmp_path}", "--LabApp.news_url=None",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.extension_manager=readonly"]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            until(lambda: answers(f"{address}/api/status?token={TOKEN}"), 60, lambda: (tmp_path / "lab.log").read_text())
            yield address
        finally:
            server.send_signal(signal.SIGTERM)
            try: server.wait(20)
            except subprocess.TimeoutExpired: server.kill()

def answers(address: str):
    "The JSON at `address`, or None while nobody answers there."
    try:
        with urlopen(address, timeout=5) as reply: return json.load(reply)
    except OSError: return None

def until(condition, seconds: float, explain=lambda: ""):
    "Wait until `condition()` is true and return it."
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s in vain\n{explain()}"
        time.sleep(.3)
    return value

def kernel_is_ready(address: str) -> bool:
    "The notebook says idle before its kernel is connected, and a Run All in between is lost; the server knows."
    kernels = answers(f"{address}/api/kernels?token={TOKEN}") or []
    return any(k["execution_state"] == "idle" and k["connections"] > 0 for k in kernels)

def test_run_all(lab):
    wanted = read(CHAPTER)
    with chromium() as window:
        window.get(f"{lab}/lab/tree/{CHAPTER.relative_to(ROOT).as_posix()}?reset&token={TOKEN}")
        find = lambda selector: window.find_elements("css selector", selector)
        wait = lambda condition, seconds: WebDriverWait(window, seconds).until(lambda _: condition())
        wait(lambda: len(find(".jp-Notebook .jp-CodeCell")) == len(code(wanted)), 60)
        # stored charts show before anything has run
        wait(lambda: len(find(".jp-Notebook .vega-embed")) == len(charts(wanted)), 30)
        until(lambda: kernel_is_ready(lab), 60)

        menu = next(e for e in find("li.lm-MenuBar-item") if e.text == "Run")
        ActionChains(window).move_to_element(menu).click().perform()
        wait(lambda: find('li[data-command="runmenu:run-all"]'), 10)[0].click()
        numbers = lambda: [e.get_attribute("textContent") for e in find(".jp-Notebook .jp-CodeCell .jp-InputPrompt")]
        wait(lambda: all(n.strip("[]: ").isdigit() for n in numbers()), 180)

        assert find('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]') == []
        wait(lambda: len(find(".jp-Notebook .vega-embed")) >= max(1, len(charts(wanted))), 30)
        assert external(requests(window)) == []
