"Decoding, crops, splits, fingerprints and tables of facecp_nb.data, beyond what the notebook shows."
import io
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import resized_crop

from facecp_nb import data
from facecp_nb.data import faceset, sources
from facecp_nb.data import records as records_
from facecp_nb.core import BOX_COLUMNS, LANDMARK_COLUMNS, ConfigError, DataError


def written(image, format="PNG", **how):
    stream = io.BytesIO()
    image.save(stream, format, **how)
    return stream.getvalue()


def noise(height=30, width=40, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def table(people=6, images=8, **columns):
    rows = []
    for p in range(people):
        for k in range(images):
            points = np.array([10, 10, 30, 10, 20, 16, 12, 24, 28, 24]) + k / 10
            rows.append(dict(image=f"p{p}/{k}.png", person=f"p{p}", width=40, height=30, **dict(zip(LANDMARK_COLUMNS, points)),
                             **dict(zip(BOX_COLUMNS, (5., 4., 35., 28.))), jpeg=written(noise(seed=100 * p + k))))
    return data.assign_splits(pd.DataFrame(rows)).assign(**columns)


# ---------------------------------------------------------------- decoding
def test_decode_is_plain_pillow_for_an_ordinary_jpeg():
    raw = written(noise(), "JPEG", quality=90)
    assert np.array_equal(data.decode(raw).permute(1, 2, 0), Image.open(io.BytesIO(raw)).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_back_upright(orientation):
    upright = noise()
    undo = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}
    tag = Image.Exif()
    tag[0x0112] = orientation
    stored = upright if orientation == 1 else upright.transpose(undo[orientation])
    assert np.array_equal(data.decode(written(stored, exif=tag)).permute(1, 2, 0), upright)


def grey16(format):
    levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    return written(Image.fromarray(levels), format)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_keeps_all_256_levels(format):
    image = data.decode(grey16(format))
    assert torch.equal(image[0].flatten(), torch.arange(256, dtype=torch.uint8))
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])


def test_transparent_pixels_become_mid_grey_and_opaque_ones_stay():
    image = np.zeros((2, 3, 4), np.uint8)
    image[..., 0] = 200
    image[0, :, 3], image[1, :, 3] = 0, 255
    for mode in ("RGBA", "PA"):
        source = Image.fromarray(image)
        raw = written(source if mode == "RGBA" else source.quantize(4))
        assert data.decode(raw)[:, 0, 0].tolist() == [128, 128, 128], mode
        assert abs(int(data.decode(raw)[0, 1, 0]) - 200) <= 2, mode
    grey = Image.fromarray(np.array([[[50, 0], [50, 255]]], np.uint8), "LA")
    assert data.decode(written(grey))[:, 0].tolist() == [[128, 50]] * 3


def test_one_bit_and_grey_have_three_equal_channels():
    for mode in ("1", "L"):
        image = data.decode(written(noise().convert(mode)))
        assert image.dtype == torch.uint8 and torch.equal(image[0], image[2])


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("side", [1024, 1500, 4100])
def test_a_large_photograph_is_reduced_on_reading(format, side):
    "A ramp from left to right and from top to bottom stays that ramp."
    ramp = torch.zeros(side // 2, side, 3, dtype=torch.uint8)
    ramp[..., 0], ramp[..., 1] = torch.linspace(0, 255, side).byte(), torch.linspace(0, 255, side // 2).byte()[:, None]
    raw = written(Image.fromarray(ramp.numpy()), format, **dict(quality=97, subsampling=0) if format == "JPEG" else {})
    image, notes = data.open_image(raw)
    assert image.size == (1024, 512) and (notes == []) == (side == 1024)
    small = torch.from_numpy(np.array(image)).float()
    assert (small[..., 0] - torch.linspace(0, 255, 1024)).abs().max() < 4 and (small[..., 1] - torch.linspace(0, 255, 512)[:, None]).abs().max() < 4


def test_floating_point_levels_are_refused_in_words():
    with pytest.raises(DataError, match="floating-point"):
        data.decode(written(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="pipe"):
        data.decode(tmp_path / "pipe.jpg")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"x")

    def refuse(self): raise PermissionError(13, "Permission denied")
    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(DataError, match="permission denied"):
        data.decode(tmp_path / "a.jpg")


def test_a_file_that_is_too_long(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as f: f.truncate(data.MAX_BYTES + 1)
    with pytest.raises(DataError, match="100,000,000 are read"):
        data.decode(tmp_path / "a.jpg")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_end_in_a_picture_or_a_DataError(seed):
    rng = np.random.default_rng(seed)
    raw = bytearray(written(noise(), ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM"][seed % 7]))
    for at in rng.integers(0, len(raw), 12): raw[at] = rng.integers(256)
    raw = bytes(raw[:rng.integers(1, len(raw) + 1)])
    try: assert data.decode(raw).shape[0] == 3
    except DataError as e: assert str(e)


# ---------------------------------------------------------------- crops
@pytest.mark.parametrize("size", [8, 32, 64])
def test_crop_agrees_with_pillow_and_torchvision(size):
    rng = np.random.default_rng(size)
    images = torch.from_numpy(rng.integers(0, 256, (24, 3, 70, 90), dtype=np.uint8))
    low = np.stack([rng.integers(0, 60, 24), rng.integers(0, 40, 24)], 1)
    high = np.minimum(low + rng.integers(4, 90, (24, 2)), [90, 70])
    boxes = torch.from_numpy(np.hstack([low, high]))
    ours = data.crop(images, boxes, size).int()
    for image, box, our in zip(images, boxes.tolist(), ours):
        pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).crop(box).resize((size, size), Image.Resampling.BILINEAR)
        assert np.abs(np.array(pillow, int).transpose(2, 0, 1) - our.numpy()).max() <= 1
        vision = resized_crop(image, box[1], box[0], box[3] - box[1], box[2] - box[0], [size, size], antialias=True).int()
        assert (vision - our).abs().max() <= 1


def test_crop_of_a_batch_is_the_crops_of_its_images():
    images = torch.rand(5, 3, 40, 50, generator=torch.manual_seed(0)) * 255
    boxes = torch.tensor([[-8.5, -3, 30, 31.2], [0, 0, 50, 40], [44, 33, 61, 49], [10.25, 3.5, 13, 5], [-20, 5, 70, 25]])
    together = data.crop(images, boxes, 24)
    alone = torch.cat([data.crop(i[None], b[None], 24) for i, b in zip(images, boxes)])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=0)


def test_crop_mirrors_with_its_image():
    image = torch.rand(1, 3, 40, 50, generator=torch.manual_seed(1))
    box = torch.tensor([[3.3, -4.0, 41.7, 36.5]])
    mirrored = torch.tensor([[50 - 41.7, -4.0, 50 - 3.3, 36.5]])
    torch.testing.assert_close(data.crop(image, box, 20), data.crop(image.flip(3), mirrored, 20).flip(3), atol=1e-4, rtol=0)


def test_crop_moves_smoothly_with_its_box():
    image = torch.rand(1, 1, 40, 40, generator=torch.manual_seed(2))
    boxes = torch.tensor([[5 + t / 50, 5., 30 + t / 50, 30] for t in range(101)])
    steps = data.crop(image.expand(101, -1, -1, -1), boxes, 10)
    assert (steps[1:] - steps[:-1]).abs().max() < .05 < (steps[-1] - steps[0]).abs().max()


def test_crop_of_a_flat_image_is_flat_beyond_every_edge():
    image = torch.full((1, 3, 20, 20), 77, dtype=torch.uint8)
    assert (data.crop(image, torch.tensor([[-15., -15, 38, 38]]), 13) == 77).all()


@pytest.mark.parametrize("box", [[5, 5, 5, 10], [9, 5, 5, 10], [50, 5, 60, 10], [-30, 2, -10, 9], [0, 0, 1e6, 5], [0, 0, float("nan"), 5]])
def test_crop_names_a_box_that_cannot_be_cut(box):
    with pytest.raises(DataError, match="Box 1 "):
        data.crop(torch.zeros(2, 3, 20, 20), torch.tensor([[0, 0, 5, 5], box], dtype=torch.float32), 8)


@pytest.mark.parametrize("seed", range(5))
def test_a_table_without_problems_can_be_cut_and_one_that_cannot_has_a_problem(seed):
    "Boxes of every kind, also such as float32 rounds away: `problems` refuses a row where `crop` does, and no other."
    rng = np.random.default_rng(seed)
    some = table(1, 200, jpeg=written(noise()))
    some["split"] = "train"
    middle, half = rng.normal(20, 25, (200, 2)), np.exp(rng.normal(2, 2, (200, 2)))
    boxes = np.hstack([middle - half, middle + half])
    boxes[:5] = [[5, 5, 5 + 1e-9, 9], [-40, -30, 80, 60], [-40.001, 0, 9, 9], [3, 3, np.inf, 9], [0, 0, 1e39, 5]]
    some[list(BOX_COLUMNS)] = boxes
    refused = set()
    for k in range(200):
        try: assert data.crop(torch.rand(1, 3, 30, 40), torch.tensor(boxes[[k]], dtype=torch.float32), 8).isfinite().all()
        except DataError: refused.add(k)
    assert refused == {k for k in range(200) if data.problems(some.iloc[[k]])} and 20 < len(refused) < 180
    good = some.drop(index=list(refused))
    assert len(data.FaceSet(good).crops(8)) == len(good)


@pytest.mark.parametrize("size", [2.5, 0, -3, True, "8", None])
def test_a_size_that_is_no_number_of_pixels_is_refused(size):
    with pytest.raises(ConfigError, match="size of crop"):
        data.crop(torch.zeros(1, 3, 9, 9), torch.tensor([[0., 0, 5, 5]]), size)
    with pytest.raises(ConfigError, match="size of crops"): data.FaceSet(table(2, 4)).crops(size)


@pytest.mark.parametrize("images, boxes, words", [
    (torch.zeros(3, 9, 9), torch.zeros(1, 4), "B, C, H, W"), (torch.zeros(2, 3, 9, 9), torch.zeros(1, 4), "boxes"),
    (torch.zeros(1, 3, 9, 9, dtype=torch.int64), torch.zeros(1, 4), "floating point"), (np.zeros((1, 3, 9, 9)), torch.zeros(1, 4), "ndarray")])
def test_crop_names_what_it_cannot_take(images, boxes, words):
    with pytest.raises(DataError, match=words): data.crop(images, boxes, 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_crop_stays_on_the_device_of_its_images():
    images, box = torch.rand(2, 3, 30, 40), torch.tensor([[2., 3, 30, 28]] * 2)
    there = data.crop(images.cuda(), box, 16)
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), data.crop(images, box, 16), atol=1e-4, rtol=0)
    faces = data.FaceSet(table(2, 4))
    there = faces.crops(16, device="cuda")
    assert there.device.type == "cuda" and (there.cpu().int() - faces.crops(16).int()).abs().max() <= 1


def test_pictures_of_one_shape_are_grouped_in_order():
    shapes = ["a", "b", "a", "c", "a", "b"]
    assert list(data.by_shape(shapes)) == [[0, 2, 4], [1, 5], [3]]
    assert list(data.by_shape(shapes, limit=2)) == [[0, 2], [4], [1, 5], [3]]
    assert list(data.by_shape([])) == []


def test_the_face_of_the_package_is_light_and_hands_on_every_name():
    code = ("import sys, facecp_nb.data as d; assert 'facenet_pytorch' not in sys.modules; "
            "assert 'facecp_nb.data.detection' not in sys.modules; d.rendered; d.examine; "
            "assert all(getattr(d, n) is not None for n in d.__all__) and set(d.__all__) <= set(dir(d)); "
            "assert 'facenet_pytorch' not in sys.modules; print('light')")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "light", answer.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"): data.nothing


def test_crops_of_mixed_sizes_are_the_single_crops():
    some = table(2, 6)
    some.loc[3, "jpeg"], some.loc[3, ["width", "height"]] = written(noise(60, 50, seed=9)), [50, 60]
    faces = data.FaceSet(some)
    sheet = faces.crops(16, [4, 3, 0])
    assert sheet.shape == (3, 3, 16, 16) and sheet.dtype == torch.uint8
    for one, row in zip(sheet, [4, 3, 0]):
        assert torch.equal(one, data.crop(faces.read([row])[0][None], faces.boxes[[row]], 16)[0])


# ---------------------------------------------------------------- splits
@pytest.mark.parametrize("n", range(1, 46))
def test_the_sizes_of_the_splits(n):
    records = pd.DataFrame(dict(image=[f"{i}.jpg" for i in range(n)], person="a"))
    counts = data.assign_splits(records, held_out=0)["split"].value_counts()
    train, validation = int(np.floor(round(.6 * n, 9))), int(np.floor(round(.15 * n, 9)))
    if n >= 3: train, validation = max(train, 1), max(validation, 1)
    assert (counts.get("train", 0), counts.get("validation", 0), counts.sum()) == (train, validation, n)
    assert n < 3 or counts["test"] >= 1


@pytest.mark.parametrize("people, held", [(2, 0), (4, 0), (5, 1), (49, 9), (50, 10), (200, 10)])
def test_how_many_people_are_held_out(people, held):
    records = pd.DataFrame([(f"{p}/{i}", f"{p}") for p in range(people) for i in range(5)], columns=["image", "person"])
    done = data.assign_splits(records)
    assert done.loc[done["split"] == "verification", "person"].nunique() == held
    assert not records_._split_problems(done)


def test_a_split_is_the_same_on_every_machine():
    "Frozen on 2026-11-22: images ranked by SHA-256 of their names."
    records = pd.DataFrame([(f"{p}/{i}.jpg", p) for p in "abcde" for i in range(7)], columns=["image", "person"])
    done = data.assign_splits(records)
    assert "".join(done["split"].str[:2].tolist()) == FROZEN
    composed, decomposed = "J\u00fcrgen", "Ju\u0308rgen"
    assert records_._rank([f"{composed}/{i}" for i in range(9)]) == [n.replace(decomposed, composed) for n in records_._rank([f"{decomposed}/{i}" for i in range(9)])]


FROZEN = "trtrtrtevatetrtrtrtrtrtevatetrtrtevatrtrtevevevevevevevevatrtrtetetrtr"


@pytest.mark.parametrize("held_out, error", [(5, "at most 4"), (-1, "at most 4"), (["nobody"], "nobody")])
def test_held_out_values_that_cannot_be(held_out, error):
    with pytest.raises(ConfigError, match=error):
        data.assign_splits(table(), held_out=held_out)


@pytest.mark.parametrize("held_out", [["p1", "p4"], ("p1", "p4"), {"p1", "p4"}, np.array(["p1", "p4"]), pd.Index(["p1", "p4"])])
def test_people_may_be_held_out_by_name(held_out):
    done = data.assign_splits(table(), held_out=held_out)
    assert set(done.loc[done["split"] == "verification", "person"]) == {"p1", "p4"}
    assert data.assign_splits(table(), held_out=np.int64(2))["split"].eq("verification").sum() == 16


def test_majority_of_uneven_people():
    people = ["a"] * 6 + ["b"] * 3 + ["a"] * 3 + ["b"] * 1
    assert data.majority(pd.DataFrame(dict(person=people, split=["train"] * 9 + ["test"] * 4))) == .75


# ---------------------------------------------------------------- sets
def test_nothing_is_decoded_before_it_is_read(monkeypatch):
    calls = []
    monkeypatch.setattr(faceset, "decode", lambda s, real=data.decode: calls.append(1) or real(s))
    faces = data.FaceSet(table())
    faces.fingerprint, faces.labels, faces.boxes, faces.split("train")
    assert not calls
    assert [len(images) for _, images in faces.batches(20)] == [20, 20, 8] and len(calls) == 48


def test_labels_agree_across_splits_even_where_a_person_is_missing():
    some = table()
    present = some["split"].ne("test") | some["person"].ne(some.loc[some["split"] == "test", "person"].iloc[0])
    faces = data.FaceSet(some[present])
    names = {}
    for name in ("train", "validation", "test"):
        part = faces.split(name)
        for label, person in zip(part.labels.tolist(), part.records["person"]): assert names.setdefault(label, person) == person
    assert len(names) == 5


def test_subsets_by_mask_positions_and_slices():
    faces = data.FaceSet(table())
    mask = torch.tensor([i % 5 == 0 for i in range(48)])
    assert faces.subset(mask).records["image"].tolist() == faces.subset(range(0, 48, 5)).records["image"].tolist()
    assert len(faces.subset([])) == 0 and faces.subset([]).landmarks.shape == (0, 5, 2)
    with pytest.raises(DataError, match="47 values"): faces.subset(mask[:47])
    with pytest.raises(DataError, match="rows 0 to 47"): faces.subset([48])


def test_writing_into_the_records_does_not_reach_the_set():
    faces = data.FaceSet(table())
    before = faces.fingerprint
    mine = faces.records
    mine.loc[0, "width"] = 9
    mine["person"] = "x"
    assert data.FaceSet(faces.records).fingerprint == before


@pytest.mark.parametrize("column", ["image", "person", "width", *LANDMARK_COLUMNS, *BOX_COLUMNS, "jpeg", "yaw", "style", "lit", "parts"])
def test_every_column_reaches_the_fingerprint(column):
    some = table(yaw=.5, style="bald", lit=True)
    some["parts"] = [np.arange(3.) for _ in range(len(some))]
    other = some.copy()
    row = int(np.flatnonzero(some["split"] == "train")[0])
    new = {"image": "new", "width": 41, "jpeg": written(noise(seed=5)), "style": "curly", "lit": False, "parts": np.array([0, 1, 2.5])}
    if column == "person": other["person"] = other["person"].replace("p0", "q0")
    else: other.at[row, column] = new[column] if column in new else some.at[row, column] + 1e-6
    assert data.FaceSet(other).fingerprint != data.FaceSet(some).fingerprint


def test_the_fingerprint_is_the_same_in_another_process(tmp_path):
    some = table(2, 5, yaw=[None, *range(9)])
    some.to_parquet(tmp_path / "t.parquet")
    code = f"import pandas as pd; from facecp_nb.data import FaceSet; print(FaceSet(pd.read_parquet({str(tmp_path / 't.parquet')!r})).fingerprint)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert answer.stdout.strip() == data.FaceSet(some).fingerprint


def test_the_fingerprint_does_not_ask_how_wide_a_float_was_stored():
    wide = table()
    narrow = wide.astype({c: "float32" for c in BOX_COLUMNS} | {"width": "int32"})
    assert data.FaceSet(wide).fingerprint == data.FaceSet(narrow).fingerprint


# ---------------------------------------------------------------- tables
@pytest.mark.parametrize("column, value, words", [
    ("image", "p0/1.png", "occurred before"), ("image", "", "not a name"), ("person", None, "not a name"), ("split", "exam", "not one of"),
    ("split", None, "not one of"), ("mouth_left_x", np.nan, "not a finite"), ("nose_y", np.inf, "not a finite"), ("box_y1", 4., "no area"),
    ("width", 0, "below one pixel"), ("width", 40.5, "whole number"), ("height", 2000, "exceeds 1024"), ("mouth_right_y", 1e39, "not a finite"),
    ("box_x0", 60., "no area"), ("box_x0", -41., "own size"), ("box_y1", 61., "own size"), ("jpeg", b"", "no image bytes"), ("jpeg", "text", "no image bytes")])
def test_a_wrong_cell_is_named_by_row_and_column(column, value, words):
    some = table()
    some[column] = some[column].astype(object)
    some.at[6, column] = value
    if column not in ("image", "person", "split", "jpeg"): some[column] = some[column].astype(float)
    with pytest.raises(DataError) as e: data.FaceSet(some)
    assert "row 6" in str(e.value) and column.split("_")[0] in str(e.value) and words in str(e.value)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "", None])
def test_a_path_that_leaves_the_root_is_refused(path, tmp_path):
    some = table().drop(columns="jpeg").assign(path="a.jpg")
    some.at[2, "path"] = path
    with pytest.raises(DataError, match="row 2.*below the root"): data.FaceSet(some, tmp_path)


def test_text_where_numbers_belong_is_a_DataError():
    with pytest.raises(DataError, match="box_x0"): data.FaceSet(table().assign(box_x0="wide"))


def test_a_picture_of_another_size_than_recorded_is_named():
    some = table()
    some.at[4, "jpeg"] = written(noise(31, 40))
    with pytest.raises(DataError, match="row 4.*40 x 31.*40 x 30"): data.FaceSet(some).read([4])


# ---------------------------------------------------------------- the shipped people
@pytest.mark.parametrize("content, words", [(b"not parquet", "cannot be read"), (None, "missing column: nose_x")])
def test_a_damaged_shipped_file_is_a_DataError(tmp_path, monkeypatch, content, words):
    path = tmp_path / "faces.parquet"
    if content: path.write_bytes(content)
    else: table().drop(columns="nose_x").to_parquet(path)
    monkeypatch.setattr(sources, "shipped", lambda name: path)
    with pytest.raises(DataError, match=words): data.rendered()


def test_the_shipped_people_are_usable():
    try: faces = data.rendered()
    except DataError as e:
        if "missing beside" not in str(e): raise
        pytest.skip("data/faces.parquet is not shipped yet")
    assert set(faces.records["split"]) == {"train", "validation", "test", "verification"}
    known = set(faces.split("train").people)
    assert known == set(faces.split("test").records["person"]) and not known & set(faces.split("verification").people)
    assert len(faces.crops(32, range(0, len(faces), 50))) > 20


@pytest.mark.parametrize("rows", [[.7], ["1"], [[0, 1]]])
def test_positions_that_are_not_whole_numbers_are_refused(rows):
    faces = data.FaceSet(table(people=2, images=4))
    with pytest.raises(DataError, match="whole numbers"): faces.read(rows)
    assert len(faces.read([])) == 0
