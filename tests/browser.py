"A real browser for the tests of the site and of JupyterLab: Debian's chromium and chromedriver, or those named by CHROMIUM and CHROMEDRIVER"
import json, os, shutil, signal, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from repository import NBS, ROOT
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.support.ui import WebDriverWait

TOKEN = "a-token-for-this-test"

@contextmanager
def chromium():
    "A headless chromium that is closed at the end; the test is skipped where there is none."
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    if not (browser and driver): pytest.skip("no chromium and chromedriver on the PATH (apt install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking",
                 "disable-component-update", "disable-sync", "no-first-run", "window-size=1400,1600"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    try: yield window
    finally: window.quit()

def requests(window) -> list[str]:
    "The addresses that pages asked for since the last call."
    events = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

def external(urls: list[str]) -> list[str]:
    "Those of `urls` that leave this machine."
    inside = ("data", "blob", "about", "chrome", "devtools", "file")
    return [u for u in urls if urlsplit(u).scheme not in inside and urlsplit(u).hostname not in ("127.0.0.1", "localhost")]

def errors(window) -> list[str]:
    "What pages complained about since the last call, warnings apart."
    return [entry["message"] for entry in window.get_log("browser") if entry["level"] == "SEVERE"]


# --- JupyterLab ------------------------------------------------------------------------------------------------------

def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]

@contextmanager
def jupyterlab(folder: Path):
    "The address of a JupyterLab that serves a copy of the notebooks in `folder`; its kernels run at smoke, with a run store of their own."
    shutil.copytree(NBS, folder / "nbs", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "settings.ini", folder)
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    # all cells stand in the page, also those that are not in view, so that they can be counted
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "RUNTIME", "DATA")}
    environment = {**os.environ, **own, "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "IN_TEST": "1", "FACECP_HOME": str(folder / "runs")}
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.extension_manager=readonly"]
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            until(lambda: answers(f"{address}/api/status?token={TOKEN}"), 60, lambda: (folder / "lab.log").read_text())
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

class OpenNotebook:
    "The notebook at `path` in the JupyterLab at `address`, as a reader has it on the screen."

    def __init__(self, window, address: str, path: Path):
        self.window, self.address = window, address
        window.get(f"{address}/lab/tree/{path.relative_to(ROOT).as_posix()}?reset&token={TOKEN}")

    def find(self, selector: str) -> list:
        return self.window.find_elements("css selector", selector)

    def wait(self, condition, seconds: float):
        return WebDriverWait(self.window, seconds).until(lambda _: condition())

    def run_all(self):
        "Choose Run All and wait until every code cell has its number."
        until(lambda: kernel_is_ready(self.address), 60)
        menu = next(e for e in self.find("li.lm-MenuBar-item") if e.text == "Run")
        ActionChains(self.window).move_to_element(menu).click().perform()
        self.wait(lambda: self.find('li[data-command="runmenu:run-all"]'), 10)[0].click()
        numbers = lambda: [e.get_attribute("textContent") for e in self.find(".jp-Notebook .jp-CodeCell .jp-InputPrompt")]
        self.wait(lambda: all(n.strip("[]: ").isdigit() for n in numbers()), 180)
