"""A folder with everything wrong that a folder can have: every file gets a row with a reason or is read correctly.

The faces are rendered people where the shipped file is there, found by MTCNN; otherwise plain pictures and a stand-in for MTCNN."""
import io
import os
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from facecp_nb import data
from facecp_nb.core import ConfigError, DataError, StoreError
from facecp_nb.data import detection

SIZE = 160


def flat(k):
    "A stand-in for a photograph: a bright square off the centre, so that a wrong turn shows."
    image = Image.new("RGB", (SIZE, SIZE), (40, 50 + k, 60))
    image.paste((200, 160, 3 * k % 250), (50, 20, 110, 90))
    return image


def find_square(self, images):
    "A stand-in for MTCNN: one face where the bright square is."
    found = []
    for image in images:
        y, x = np.nonzero(image[..., 0] > 150)
        if len(x) < 50: found.append(np.zeros((0, 15))); continue
        x0, x1, y0, y1 = x.min(), x.max() + 1, y.min(), y.max() + 1
        w, h = x1 - x0, y1 - y0
        found.append(np.array([[x0, y0, x1, y1, .99, x0 + .3 * w, y0 + .3 * h, x0 + .7 * w, y0 + .3 * h, x0 + .5 * w, y0 + .5 * h,
                                x0 + .3 * w, y0 + .8 * h, x0 + .7 * w, y0 + .8 * h]], float))
    return found


@pytest.fixture(scope="session")
def people():
    "Forty-five pictures in which one face is found, and whether they are rendered."
    try: faces = data.rendered()
    except DataError as e:
        if "missing beside" not in str(e): raise
        return [flat(k) for k in range(45)], False
    rows = range(0, len(faces), len(faces) // 60)
    images = [Image.fromarray(i.permute(1, 2, 0).numpy()).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for i in faces.read(rows)]
    found = detection.find_faces(np.stack(images))
    return [i for i, f in zip(images, found) if detection.assess(f)["reason"] == ""][:45], True


@pytest.fixture
def photographs(people, monkeypatch, store):
    images, are_rendered = people
    if not are_rendered: monkeypatch.setattr(detection.Mtcnn, "__call__", find_square)
    return list(images)


def fill(folder, pictures, person, n):
    "n ordinary photographs of a person."
    (folder / person).mkdir(parents=True, exist_ok=True)
    for k in range(n): pictures.pop().save(folder / person / f"ordinary {k}.png")


def declared(side):
    "A PNG of a few bytes whose header declares a huge picture."
    def chunk(kind, body): return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def row(faces, file):
    rows = faces.manifest[faces.manifest["file"] == file]
    assert len(rows) == 1, f"{file} has {len(rows)} rows"
    return rows.iloc[0]


def grey(picture):
    "The luminance of a uint8 picture (3,H,W) at 40 x 40 pixels."
    luminance = (picture.float() * torch.tensor([.299, .587, .114])[:, None, None]).sum(0)
    return torch.nn.functional.interpolate(luminance[None, None], (40, 40), mode="area")[0, 0]


# ---------------------------------------------------------------- files that are read, in spite of their form
def tagged(image, orientation, undo):
    tag = Image.Exif()
    tag[0x0112] = orientation
    return dict(image=image.transpose(undo), format="JPEG", quality=95, exif=tag)


READ = {
    "png named.jpg": (lambda i: dict(image=i, format="PNG"), ""),
    "no extension": (lambda i: dict(image=i, format="JPEG", quality=95), ""),
    "cmyk.jpg": (lambda i: dict(image=i.convert("CMYK"), format="JPEG", quality=95), "mode CMYK"),
    "grey.pgm": (lambda i: dict(image=i.convert("L"), format="PPM"), ""),
    "16 bit.png": (lambda i: dict(image=Image.fromarray(np.asarray(i.convert("L")).astype(np.uint16) * 257), format="PNG"), "16-bit"),
    "palette.png": (lambda i: dict(image=i.quantize(256), format="PNG"), "mode P"),
    "alpha.png": (lambda i: dict(image=i.convert("RGBA"), format="PNG"), "transparency"),
    "on its side.jpg": (lambda i: tagged(i, 6, Image.Transpose.ROTATE_90), "upright"),
    "on its head.jpg": (lambda i: tagged(i, 3, Image.Transpose.ROTATE_180), "upright"),
    "animated.gif": (lambda i: dict(image=i, format="GIF", save_all=True, append_images=[Image.new("RGB", i.size)]), "first of 2 frames"),
    "small.bmp": (lambda i: dict(image=i.resize((100, 100), Image.Resampling.BICUBIC), format="BMP"), "enlarged 1.60 times"),
    "large.jpg": (lambda i: dict(image=i.resize((1600, 1600), Image.Resampling.BICUBIC), format="JPEG"), "reduced from 1600 x 1600 to 1024 x 1024; reduced to 640 x 640"),
    "Фото 写真 صورة.png": (lambda i: dict(image=i, format="PNG"), ""),
}


def test_every_readable_form_is_read_and_found_where_it_is(photographs, tmp_path):
    originals, folder = {}, tmp_path / "f"
    (folder / "Ōta Ł").mkdir(parents=True)
    for file, (how, _) in READ.items():
        originals[file] = photographs.pop()
        how = how(originals[file])
        how.pop("image").save(folder / "Ōta Ł" / file, **how)
    fill(folder, photographs, "other", 5)
    faces = detection.from_folder(folder)
    expected = detection.find_faces(np.stack(list(originals.values())))
    for (file, image), found in zip(originals.items(), expected):
        got = row(faces, f"Ōta Ł/{file}")
        assert got["status"] == "kept", f"{file}: {got['reason']}"
        assert READ[file][1] in got["notes"], f"{file}: {got['notes']!r}"
        scale = got["width"] / SIZE
        # grey, quantising, JPEG and resizing move MTCNN's points by a few pixels; a wrong turn moves them by fifty
        assert np.abs(got[list(detection.LANDMARK_COLUMNS)].to_numpy(float) / scale - found[0, 5:]).max() < 12, file
        at = int(np.flatnonzero(faces.records["image"] == f"Ōta Ł/{file}")[0])
        assert (grey(faces.read([at])[0]) - grey(torch.from_numpy(np.array(image)).permute(2, 0, 1))).abs().mean() < 5, file


# ---------------------------------------------------------------- files that are dropped, and why
def make_dropped(folder, photographs):
    "Everything that cannot be used, beside twelve ordinary photographs of two people; file -> words of the reason."
    fill(folder, photographs, "anna", 6); fill(folder, photographs, "boris", 6)
    anna, jpeg = folder / "anna", io.BytesIO()
    photographs.pop().save(jpeg, "JPEG")
    whole = jpeg.getvalue()
    (anna / "zero.jpg").touch()
    (anna / "truncated.jpg").write_bytes(whole[:len(whole) // 2])
    (anna / "truncated.png").write_bytes(png(photographs.pop())[:200])
    (anna / "diary.jpg").write_text("dear diary, this is no photograph")
    (anna / "list.csv").write_text("a,b\n1,2\n")
    (anna / "bomb.png").write_bytes(declared(60_000))
    (anna / "small bomb.png").write_bytes(declared(8_000))
    (anna / "broken link.jpg").symlink_to("gone.jpg")
    (anna / "ring.jpg").symlink_to("ring.jpg")
    os.mkfifo(anna / "pipe.jpg")
    (anna / ".hidden.jpg").write_bytes(whole)
    (anna / "nested").mkdir(); (anna / "nested/deep.jpg").write_bytes(whole)
    (anna / "empty").mkdir()
    (anna / "up").symlink_to(folder)
    (anna / "sliver.png").write_bytes(png(Image.new("RGB", (900, 20))))
    (anna / "sky.png").write_bytes(png(Image.new("RGB", (SIZE, SIZE), (90, 120, 140))))
    (anna / "z copy.png").write_bytes((anna / "ordinary 0.png").read_bytes())
    (folder / "boris/of anna.png").write_bytes((anna / "ordinary 1.png").read_bytes())
    (folder / "stray.jpg").write_bytes(whole)
    (folder / "loop").symlink_to(folder)
    (folder / "gone").symlink_to("nowhere")
    (folder / ".git").mkdir()
    (folder / "once").mkdir(); photographs.pop().save(folder / "once/only.png")
    (folder / "nobody").mkdir()
    open(os.fsencode(anna) + b"/caf\xe9.jpg", "wb").write(whole)
    return {"anna/zero.jpg": "zero bytes", "anna/truncated.jpg": "cannot be decoded", "anna/truncated.png": "cannot be decoded",
            "anna/diary.jpg": "not an image", "anna/list.csv": "not an image", "anna/bomb.png": "pixels", "anna/small bomb.png": "8,000 x 8,000 pixels; at most 50,000,000",
            "anna/broken link.jpg": "points to nothing", "anna/ring.jpg": "back to itself", "anna/pipe.jpg": "pipe", "anna/.hidden.jpg": "hidden",
            "anna/nested/deep.jpg": "folder within a person's folder", "anna/empty": "empty folder", "anna/up": "linked folder", "anna/sliver.png": "too narrow",
            "anna/sky.png": "no face", "anna/z copy.png": "same bytes as anna/ordinary 0.png", "anna/ordinary 1.png": "more than one person", "boris/of anna.png": "more than one person",
            "stray.jpg": "beside the people's folders", "loop": "leads back up", "gone": "points to nothing", ".git": "hidden", "once/only.png": "only 1 usable image",
            "nobody": "empty folder", "anna/caf\\xe9.jpg": "not UTF-8"}


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_every_file_that_cannot_be_used_has_a_row_with_its_reason(photographs, tmp_path):
    folder = tmp_path / "f"
    reasons = make_dropped(folder, photographs)
    faces = detection.from_folder(folder)
    for file, words in reasons.items():
        got = row(faces, file)
        assert got["status"] == "dropped" and words in got["reason"], f"{file}: {got['status']}, {got['reason']!r}"
    kept = faces.manifest.loc[faces.manifest["status"] == "kept", "file"].tolist()
    assert len(kept) == 11 and set(faces.records["image"]) == set(kept) and len(faces.manifest) == 11 + len(reasons)
    on_disk = {os.fsencode(os.path.join(at, f)) for at, _, files in os.walk(folder) for f in files}
    assert len(on_disk) <= len(faces.manifest)
    assert pd.read_csv(next((tmp_path / "store/detections").glob("*.csv")))["file"].tolist() == faces.manifest["file"].tolist()


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    (tmp_path / "bomb.png").write_bytes(declared(20_000))
    monkeypatch.setattr(Image.core, "new", lambda *a: pytest.fail("memory was asked for"))
    with pytest.raises(DataError, match="pixels"): data.decode(tmp_path / "bomb.png")


def test_a_file_and_a_folder_that_may_not_be_read(photographs, tmp_path, monkeypatch):
    "Root may read everything, so the refusal is played: the system calls raise what they raise for others."
    folder = tmp_path / "f"
    fill(folder, photographs, "anna", 6); fill(folder, photographs, "boris", 6); fill(folder, photographs, "closed", 1)
    read, listing = type(folder).read_bytes, os.listdir

    def read_bytes(self):
        if self.name == "ordinary 3.png": raise PermissionError(13, "Permission denied")
        return read(self)

    def listdir(path="."):
        if str(path).endswith("closed"): raise PermissionError(13, "Permission denied")
        return listing(path)
    monkeypatch.setattr(type(folder), "read_bytes", read_bytes)
    monkeypatch.setattr(os, "listdir", listdir)
    faces = detection.from_folder(folder)
    assert "permission denied" in row(faces, "anna/ordinary 3.png")["reason"]
    assert "cannot be listed (Permission denied)" in row(faces, "closed")["reason"] and len(faces) == 10


def test_names_that_differ_in_case_or_accents_are_both_read_and_say_so(photographs, tmp_path):
    folder = tmp_path / "f"
    fill(folder, photographs, "anna", 5); fill(folder, photographs, "boris", 5)
    names = ["A.png", "a.png", "J\u00fcrgen.png", "Ju\u0308rgen.png"]
    for name in names: photographs.pop().save(folder / "anna" / name)
    faces = detection.from_folder(folder)
    for name in names:
        got = row(faces, f"anna/{name}")
        assert got["status"] == "kept" and "only in case or accents" in got["notes"]
    assert row(faces, "anna/ordinary 0.png")["notes"].find("case") < 0


def test_odd_names_of_files_and_people_are_read(photographs, tmp_path):
    "Line breaks, quotes, the narrow space of screenshots, joiners of Persian and of emoji, and words that tables take for missing values."
    folder = tmp_path / "f"
    names = ["two\nlines.png", "a, \"b\" 'c' $d;e.png", "Screenshot 3.00\u202fPM.png", "\u0645\u06cc\u200c\u062e\u0648.png", "\U0001f469\u200d\U0001f52c.png", "=1+1.png", "NA.png"]
    for person in ("nan", "None"): fill(folder, photographs, person, 5)
    for name in names: photographs.pop().save(folder / "nan" / name)
    faces = detection.from_folder(folder)
    again = detection.from_folder(folder)  # from the store
    assert faces.people == again.people == ["None", "nan"] and again.fingerprint == faces.fingerprint
    for name in names: assert row(again, f"nan/{name}")["status"] == "kept"
    assert len(again.read()) == 17


def test_a_store_that_cannot_be_written(photographs, tmp_path, monkeypatch):
    for person in ("anna", "boris"): fill(tmp_path / "f", photographs, person, 5)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FACECP_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="cannot be written.*FACECP_HOME"): detection.from_folder(tmp_path / "f")


# ---------------------------------------------------------------- folders that leave too little
def one_clear_sentence(error):
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text and text.endswith((".", ".csv.")), text
    return text


def test_an_empty_folder(store, tmp_path):
    (tmp_path / "f").mkdir()
    with pytest.raises(DataError, match="is empty; it should hold one sub-folder") as e: detection.from_folder(tmp_path / "f")
    one_clear_sentence(e)


def test_photographs_without_sub_folders(photographs, tmp_path):
    (tmp_path / "f").mkdir()
    for k in range(4): photographs.pop().save(tmp_path / "f" / f"{k}.png")
    with pytest.raises(DataError, match="4 of 4 files were dropped.*beside the people's folders") as e: detection.from_folder(tmp_path / "f")
    one_clear_sentence(e)


def test_one_image_per_person(photographs, tmp_path):
    for p in range(6): fill(tmp_path / "f", photographs, f"p{p}", 1)
    with pytest.raises(DataError, match="0 people .* only 1 usable image; 5 are needed") as e: detection.from_folder(tmp_path / "f")
    one_clear_sentence(e)


def test_one_person_only(photographs, tmp_path):
    fill(tmp_path / "f", photographs, "anna", 6)
    with pytest.raises(DataError, match="leaves 1 person") as e: detection.from_folder(tmp_path / "f")
    one_clear_sentence(e)


def test_nothing_but_broken_files(store, tmp_path):
    for p in range(3):
        (tmp_path / "f" / str(p)).mkdir(parents=True)
        for k in range(8): (tmp_path / "f" / str(p) / f"{k}.jpg").write_bytes(b"\xff\xd8\xff" + bytes([p, k]))
    with pytest.raises(DataError, match="24 of 24 files were dropped, most often") as e: detection.from_folder(tmp_path / "f")
    one_clear_sentence(e)


def test_a_folder_that_is_a_file_or_missing(tmp_path):
    (tmp_path / "file").write_text("x")
    for name in ("file", "missing"):
        with pytest.raises(ConfigError, match="is not a folder") as e: detection.from_folder(tmp_path / name)
        one_clear_sentence(e)
