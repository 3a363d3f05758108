"Fixtures that several test files share."
import os
from pathlib import Path

import pytest

# before torch is loaded: waiting threads sleep, also in the kernels and programs that tests start
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))

torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))


@pytest.fixture(scope="session")
def shared() -> Path:
    "Real photographs and golden values: FACECP_SHARED, else ../shared beside the repository; skips where it is absent."
    folder = Path(os.environ.get("FACECP_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no folder of shared photographs and golden values at {folder} (set FACECP_SHARED)")
    return folder


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    "An empty run store, so that no test reads or leaves anything in the reader's own."
    folder = tmp_path / "store"
    monkeypatch.setenv("FACECP_HOME", str(folder))
    return folder


@pytest.fixture
def lab(tmp_path):
    "The address of a JupyterLab of this test's own."
    from browser import jupyterlab
    with jupyterlab(tmp_path) as address: yield address


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    "Long tests begin first, so that two workers end together; a file that builds something once stays with one worker."
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if item.path.name in TOGETHER: item.add_marker(pytest.mark.xdist_group(item.path.stem))


TOGETHER = {"test_site.py", "test_lab.py", "test_widgets.py"}
