"What follows its input to a GPU: the same answers there as on the processor, and one whole run. Needs CUDA; skips without."
import numpy as np
import pytest
import torch

from facecp_nb import data, foveation, models, study

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

VIEWS = sorted(foveation.VIEWS)


@pytest.fixture(scope="module")
def faces():
    return data.rendered().subset(np.arange(len(data.rendered())) < 16)


@pytest.fixture(scope="module")
def cropped(faces):
    "Sixteen faces and their landmarks, on the processor."
    return foveation.crop(faces, 64) if hasattr(foveation, "crop") else (faces.images, faces.landmarks)


def close(there: torch.Tensor, here: torch.Tensor, steps: float):
    "Both lie within so many grey levels of each other; `there` lies on the GPU."
    assert there.device.type == "cuda" and there.dtype == here.dtype and there.shape == here.shape
    difference = (there.cpu().float() - here.float()).abs().max().item()
    assert difference <= steps, f"up to {difference} apart"


@pytest.mark.parametrize("view", [view for view in VIEWS if not foveation.VIEWS[view].after])
def test_foveate_follows_its_images(cropped, view):
    images, landmarks = cropped
    here = foveation.look(images, landmarks, view)
    close(foveation.look(images.cuda(), landmarks, view), here, steps=1)
    close(foveation.look(images.cuda(), landmarks.cuda(), view), here, steps=1)


@pytest.mark.parametrize("view", VIEWS)
def test_see_gives_the_same_views_on_both(faces, view, monkeypatch):
    seen = {}
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("FACECP_DEVICE", device)
        seen[device] = foveation.see(faces, view, 36)
    difference = (seen["cuda"].cpu().float() - seen["cpu"].cpu().float()).abs().max().item()
    assert difference <= 1, f"up to {difference} grey levels apart"


def test_aligned_follows_its_images(cropped):
    images, landmarks = cropped
    close(models.aligned(images.cuda(), landmarks), models.aligned(images, landmarks), steps=1)


def test_embed_follows_its_network(cropped):
    images, landmarks = cropped
    torch.manual_seed(0)
    net = models.Recogniser().eval()
    here = models.embed(net, images, landmarks)
    there = models.embed(net.cuda(), images, landmarks)
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), here, atol=1e-2, rtol=1e-2)


def test_a_smoke_run_on_the_gpu(store, monkeypatch):
    "It trains, is stored, and is read back."
    monkeypatch.setenv("FACECP_DEVICE", "cuda")
    config = study.configure("smoke", rearing="mouth:1 > full")
    first = study.grid(study.plan({"late": config}, [0]))
    again = study.grid(study.plan({"late": config}, [0]))
    assert len(first) == 1 and 0 <= first.accuracy_full.item() <= 1
    assert first.accuracy_full.equals(again.accuracy_full)
