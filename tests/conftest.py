"Fixtures that several test files share."
import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared() -> Path:
    "The folder of real photographs and golden values: FACECP_SHARED, else ../shared beside the repository. Skips where it is absent."
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
