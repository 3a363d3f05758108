"A real browser for the tests of the site and of JupyterLab: Debian's chromium and chromedriver, or those named by CHROMIUM and CHROMEDRIVER"
import json, os, shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

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
