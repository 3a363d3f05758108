"A real browser for the tests of the site and of JupyterLab: chromium, or what CHROMIUM and CHROMEDRIVER name"
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
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
    here = "127.0.0.1", "localhost"
    return [u for u in urls if urlsplit(u).scheme not in inside and urlsplit(u).hostname not in here]

def errors(window) -> list[str]:
    "What pages complained about since the last call, warnings apart."
    return [entry["message"] for entry in window.get_log("browser") if entry["level"] == "SEVERE"]


# --- JupyterLab ------------------------------------------------------------------------------------------------------

def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]

def lab_command() -> tuple[dict[str, str], list[str]]:
    "What `make lab` runs: the variables that it sets and the program with its arguments, as make itself says."
    # the tests may themselves run under make, with arguments of their own
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS")
    own = {k: v for k, v in os.environ.items() if k not in outer}
    said = subprocess.run(["make", "-n", "--no-print-directory", "lab", "READY="], cwd=ROOT, env=own, capture_output=True,
                          text=True, check=True).stdout
    # make prints the shell's line; the shell that reads it back says how its words fall
    line = said.replace("\\\n", " ").strip()
    words = shlex.split(subprocess.run(["sh", "-c", f"set -f; printf '%s ' {line}"], capture_output=True, text=True).stdout)
    variables = [w for w in words if "=" in w and not w.startswith("-")]
    return dict(w.split("=", 1) for w in variables), words[len(variables):]

@contextmanager
def jupyterlab(folder: Path):
    """The address of a JupyterLab, started as `make lab` starts it, on a copy of the notebooks in `folder`.

    Its kernels run at smoke, with a run store of their own."""
    shutil.copytree(NBS, folder / "nbs", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "settings.ini", folder)
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    # all cells stand in the page, also those that are not in view, so that they can be counted
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    variables, command = lab_command()
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "RUNTIME", "DATA")}
    tested = dict(JUPYTERLAB_SETTINGS_DIR=str(folder / "settings"), IN_TEST="1", FACECP_HOME=str(folder / "runs"))
    inherited = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    port = free_port()
    arguments = [a for a in command[1:] if not a.startswith("--ServerApp.root_dir")]
    command = [
        sys.executable, "-m", "jupyter", *arguments, "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={folder}", "--LabApp.extension_manager=readonly", "--LabApp.expose_app_in_browser=True",
    ]
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, cwd=folder, env=inherited | own | tested | variables, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            until(lambda: answers(f"{address}/api/status?token={TOKEN}"), 60, (folder / "lab.log").read_text)
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

    def wait_for_cells(self, number: int):
        self.wait(lambda: len(self.find(".jp-Notebook .jp-CodeCell")) == number, 60)

    def close(self):
        "Shut the notebook's kernel down, so that the next one has the machine to itself."
        self.window.execute_async_script(
            "const done = arguments[0]; const w = window.jupyterapp.shell.currentWidget;"
            "w.context.sessionContext.shutdown().then(() => done(), () => done())")

    def is_dirty(self) -> bool:
        "Whether JupyterLab thinks that the notebook has changes that are not saved."
        return self.window.execute_script("return window.jupyterapp.shell.currentWidget.context.model.dirty")

    def kernel_is_known(self) -> bool:
        "Whether the notebook has heard from its kernel, language and all."
        return self.window.execute_script(
            "return !!window.jupyterapp.shell.currentWidget?.context?.sessionContext?.session?.kernel?.info"
            " && window.jupyterapp.shell.currentWidget.context.isReady")

    def type_into_first_code_cell(self, text: str):
        "Put `text` before the source of the first code cell, as its editor would."
        self.window.execute_script(
            "const cells = window.jupyterapp.shell.currentWidget.content.widgets;"
            "const model = cells.find(c => c.model.type === 'code').model.sharedModel;"
            "model.setSource(arguments[0] + model.getSource())", text)

    def save(self):
        "Save, and wait until the file is written."
        self.window.execute_async_script(
            "const done = arguments[0]; window.jupyterapp.shell.currentWidget.context.save().then(() => done(), done)")

    def run_all(self):
        "Choose Run All and wait until every code cell has its number."
        until(lambda: kernel_is_ready(self.address), 60)
        menu = next(e for e in self.find("li.lm-MenuBar-item") if e.text == "Run")
        ActionChains(self.window).move_to_element(menu).click().perform()
        self.wait(lambda: self.find('li[data-command="runmenu:run-all"]'), 10)[0].click()
        self.wait(self.all_numbered, 180)

    def all_numbered(self) -> bool:
        prompts = self.find(".jp-Notebook .jp-CodeCell .jp-InputPrompt")
        return all(p.get_attribute("textContent").strip("[]: ").isdigit() for p in prompts)
