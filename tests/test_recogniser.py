"The trained recogniser on real photographs, where they are at hand, and files that only pretend to hold one"
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from facecp_nb import data, models
from facecp_nb.core import LANDMARK_COLUMNS, ConfigError, DataError


@pytest.fixture(scope="module")
def weights(shared):
    return shared / "faces" / "recogniser_128d"


@pytest.fixture(scope="module")
def london(shared, weights):
    "Codes of neutral and smiling faces, (102,128) each, in the order of the people."
    net, codes = models.recogniser(weights), []
    for folder in ("neutral_front", "smiling_front"):
        paths = sorted((shared / "faces/london" / folder).glob("*.jpg"))
        rows = pd.DataFrame(data.examine(paths, dict(min_face=40, probability=.9)))
        assert len(rows) == 102 and (rows["reason"] == "").all()
        points = torch.tensor(rows[list(LANDMARK_COLUMNS)].to_numpy(np.float32)).reshape(-1, 5, 2)
        codes.append(models.embed(net, [data.decode(p) for p in paths], points))
    return codes


def test_the_london_people_are_found_again(london):
    "The published check of these files: rank-1 of 100 % among 102."
    neutral, smiling = london
    assert (torch.cdist(smiling, neutral).argmin(1) == torch.arange(102)).float().mean() >= .99


def test_point_six_divides_the_london_people(london):
    distance = torch.cdist(london[1], london[0])
    own, others = distance.diagonal(), distance[~torch.eye(102, dtype=bool)]
    assert (own < models.Recogniser.same).float().mean() >= .98
    assert (others > models.Recogniser.same).float().mean() >= .98


@pytest.fixture
def copy(weights, tmp_path):
    for f in weights.glob("face_recognition_model*"): shutil.copyfile(f, tmp_path / f.name)
    return tmp_path


def rewrite(folder, change):
    "Change the list of arrays in the manifest."
    path = folder / models.MANIFEST
    groups = json.loads(path.read_text())
    change(groups[0]["weights"])
    path.write_text(json.dumps(groups))


def swap(arrays): arrays[0]["shape"] = arrays[0]["shape"][::-1]
def rename(arrays): arrays[8]["name"] = "conv33"
def drop(arrays): arrays.pop()
def widen(arrays): arrays[1]["shape"] = [64]
def other_type(arrays): arrays[0]["quantization"]["dtype"] = "int4"


@pytest.mark.parametrize("change, said", [
    (swap, "belong together"), (rename, "has no array"), (drop, "too many"), (widen, "ends at byte"),
    (other_type, "no manifest")])
def test_a_changed_manifest_is_refused(copy, change, said):
    rewrite(copy, change)
    with pytest.raises(DataError, match=said): models.recogniser(copy)


def test_a_file_cut_short_or_missing_is_refused(copy):
    binary = copy / "face_recognition_model.bin"
    binary.write_bytes(binary.read_bytes()[:-1])
    with pytest.raises(DataError, match="ends at byte 6,444,031"): models.recogniser(copy)
    binary.unlink()
    with pytest.raises(DataError, match="cannot be read"): models.recogniser(copy)


@pytest.mark.parametrize("text", [
    "", "[", "{}x", "null", "3", '"a"', '{"a": 1}', '[{"weights": 1, "paths": []}]',
    '[{"paths": ["../x"], "weights": []}]', "\xff"])
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / models.MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError): models.recogniser(tmp_path)


@pytest.mark.parametrize("size", [60, 150])
def test_alignment_finds_the_same_face_at_any_size_and_place(size):
    "A smooth picture, drawn at three sizes and shifted: aligned, it is the same picture."
    def drawn(scale, dx):
        y, x = torch.meshgrid(*(torch.arange(n) + .5 for n in (round(200 * scale), round(240 * scale))), indexing="ij")
        x, y = x / scale - dx, y / scale
        waves = [torch.sin(x / 13), torch.cos(y / 17), torch.sin((x + y) / 21)]
        return ((torch.stack(waves) + 1) * 127).to(torch.uint8), scale * (points + torch.tensor([dx, 0.]))
    points = torch.tensor([[80., 70.], [125., 70.], [100., 95.], [83., 118.], [122., 118.]])
    drawings = drawn(1, 0), drawn(4, 0), drawn(1, 12)
    faces = [models.aligned(image[None], where[None], size)[0].float() for image, where in drawings]
    assert max((f - faces[0]).abs().mean() for f in faces) < 1.5


def picture(n): return torch.zeros(n, 3, 20, 20, dtype=torch.uint8)


@pytest.mark.parametrize("images, points, batch, said", [
    (torch.zeros(2, 3, 20, 20), torch.rand(2, 5, 2), 32, "uint8"),
    (picture(2), torch.rand(2, 68, 2), 32, "landmarks"),
    (picture(2), torch.rand(5, 5, 2), 2, "as many"),
    (picture(0), torch.rand(0, 5, 2), 32, "number of images"),
    (picture(2), torch.rand(2, 5, 2), 0, "batch")])
def test_images_that_do_not_fit_are_refused(images, points, batch, said):
    with pytest.raises((DataError, ConfigError), match=said):
        models.embed(lambda x: x.flatten(1), images, points, batch)


def test_pictures_of_many_shapes_are_aligned_as_each_alone():
    g = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=g)
              for shape in ((40, 50), (60, 40), (40, 50), (33, 33))]
    points = torch.rand(4, 5, 2, generator=g) * 30
    points[:, [1, 4], 0] += 10
    together = models.aligned(images, points, 30)
    for k, image in enumerate(images): assert torch.equal(together[k], models.aligned([image], points[k:k + 1], 30)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_alignment_and_codes_follow_their_devices():
    g = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, n, n), dtype=torch.uint8, generator=g) for n in (90, 120, 90)]
    points = 60 * torch.rand(3, 5, 2, generator=g) + 15
    net = models.Recogniser().eval()
    here, mixed = models.aligned(images, points), models.aligned([i.cuda() for i in images], points)
    assert mixed.is_cuda and (mixed.cpu().float() - here.float()).abs().max() <= 1
    codes = models.embed(net.cuda(), images, points, batch=2)
    assert codes.is_cuda and torch.isfinite(codes).all()
