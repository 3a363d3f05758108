"Lists of pairs in every form, what is wrong with their rows, and files that are programs"
import io
import os
import pickle
import struct

import numpy as np
import pytest
from facecp_nb import data
from facecp_nb.core import DataError
from PIL import Image


def written(tmp_path, text, name="pairs.txt"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path

def lfw(sets, each):
    lines = [f"{sets}\t{each}"]
    for s in range(sets):
        lines += [f"P_{s}_{k}\t1\t2" for k in range(each)] + [f"P_{s}_{k}\t1\tQ_{s}_{k}\t3" for k in range(each)]
    return lines


def test_lfw_view_two_keeps_its_ten_folds(tmp_path):
    pairs = data.read_pairs(written(tmp_path, "\n".join(lfw(10, 3)) + "\n"))
    assert (pairs.format, len(pairs), len(pairs.broken)) == ("lfw", 60, 0)
    assert pairs.rows.groupby(["fold", "same"]).size().tolist() == [3] * 20
    assert pairs.rows["a"][0] == "P_0_0/P_0_0_0001" and pairs.rows["b"][3] == "Q_0_0/Q_0_0_0003"


def test_a_broken_line_does_not_shift_the_folds(tmp_path):
    lines = lfw(4, 3)
    lines[2], lines[11] = "P_0_1\tone\t2", "P_1_1\t1\t2"  # no number; the wrong kind in a block of two people
    pairs = data.read_pairs(written(tmp_path, "\n".join(lines)))
    assert pairs.broken["line"].tolist() == [3, 12] and len(pairs) == 22
    assert (pairs.rows["fold"] == (pairs.rows["line"] - 2) // 6).all()


def test_a_list_that_was_cut_is_refused(tmp_path):
    with pytest.raises(DataError, match="announces 60 pairs, 59 lines"):
        data.read_pairs(written(tmp_path, "\n".join(lfw(10, 3)[:-1])))


AGED = """1 AgeDB-aligned/1_AnnLee_5_f.jpg AgeDB-aligned/2_AnnLee_40_f.jpg
0 AgeDB-aligned/1_AnnLee_5_f.jpg AgeDB-aligned/9_BobRay_61_m.jpg
1 LAG-aligned/some one/y/a b.png LAG-aligned/some one/c d.JPG
0 LAG-aligned/some one/y/a b.png LAG-aligned/other/e.jpg
1 LAG-aligned/x/y/Childhood LAG-aligned/model"""

def test_age_lists_give_ages_people_and_their_broken_rows(tmp_path):
    pairs = data.read_pairs(written(tmp_path, AGED))
    assert pairs.broken["line"].tolist() == [5] and len(pairs) == 4
    assert pairs.rows["age_b"].dropna().tolist() == [40, 61]
    assert pairs.rows["person_a"].tolist() == ["AnnLee", "AnnLee", "some one", "some one"]
    assert pairs.rows["b"][2] == "LAG-aligned/some one/c d.JPG"


@pytest.mark.parametrize("text, format", [
    ("a/1.jpg,a/2.jpg,1\na/1.jpg,b/2.jpg,0\n", "labelled"),
    ("a/1.jpg;a/2.jpg;same\na/1.jpg;b/2.jpg;different\n", "labelled"),
    ("a/1.jpg\ta/2.jpg\tTrue\r\na/1.jpg\tb/2.jpg\tFalse", "labelled"),
    ("a/1.jpg a/2.jpg 1\na/1.jpg b/2.jpg 0", "labelled"),
    ("a/1 a/2 1\na/1 b/2 0", "bare"),
    ("path1,path2,label\na/1.jpg,a/2.jpg,1\na/1.jpg,b/2.jpg,0\n", "table"),
    ("issame;img_b;img_a;fold\n1;a/2.jpg;a/1.jpg;3\n0;b/2.jpg;a/1.jpg;4", "table"),
    ("a/1.jpg 1\na/2.jpg 1\na/1.jpg 0\nb/2.jpg 0", "two-line"),
    ("\ufeff# a comment\n\na 1 2\na 1 b 2\n", "named")])
def test_every_form_reads_the_same_two_pairs(tmp_path, text, format):
    pairs = data.read_pairs(written(tmp_path, text))
    assert (pairs.format, pairs.rows["same"].tolist()) == (format, [True, False])
    assert pairs.rows[["person_a", "person_b"]].to_numpy().tolist() == [["a", "a"], ["a", "b"]]


@pytest.mark.parametrize("text, said", [
    ("", "is empty"), ("hello\nworld\nthere is\nno list here at all\n", "no known form"),
    ("a 1 2\nb 1 2\n", "one kind only"), ("a\0b", "no text"), ("10 300\na 1 2", "announces")])
def test_what_is_no_list_is_refused(tmp_path, text, said):
    with pytest.raises(DataError, match=said): data.read_pairs(written(tmp_path, text))


def test_no_line_is_lost_or_counted_twice(tmp_path):
    "Random damage to a labelled list: rows and broken rows together are the lines, once each."
    rng = np.random.default_rng(0)
    lines = [f"{k % 2} p{k % 2 * (k % 7)}/{k}.jpg p{k % 2 * (k % 7) + (k + 1) % 2}/{k + 1}.jpg" for k in range(200)]
    for k in rng.choice(200, 40, replace=False): lines[k] = lines[k][:rng.integers(1, len(lines[k]) - 6)]
    pairs = data.read_pairs(written(tmp_path, "\n".join(lines)))
    assert sorted([*pairs.rows["line"], *pairs.broken["line"]]) == list(range(1, 201)) and len(pairs.broken) == 40


def test_labels_against_names_are_broken_rows_if_few(tmp_path):
    lines = [f"1 p{k}/1.jpg p{k}/2.jpg\n0 p{k}/1.jpg q{k}/1.jpg" for k in range(100)] + ["1 p1/3.jpg p2/3.jpg"]
    pairs = data.read_pairs(written(tmp_path, "\n".join(lines)))
    assert pairs.broken["line"].tolist() == [201] and pairs.people == "named"


def test_where_folders_name_no_people_pictures_are_joined_up(tmp_path):
    text = "1 all/1.jpg all/2.jpg\n1 all/2.jpg all/3.jpg\n0 all/1.jpg all/4.jpg\n0 all/3.jpg all/5.jpg"
    pairs = data.read_pairs(written(tmp_path, text))
    assert pairs.people == "joined" and pairs.rows["person_a"].nunique() == 1 and pairs.rows["person_b"].nunique() == 3


# --- pictures --------------------------------------------------------------------------------------------------------

def png(grey=0):
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (grey,) * 3).save(buffer, "PNG")
    return buffer.getvalue()

def test_pictures_are_found_by_the_names_of_lists(tmp_path):
    for file in ("a/a_0001.jpg", "a/a_0002.PNG", "s1/7.pgm", "x/same.jpg", "y/same.jpg", "deep/x/one.jpg"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(png())
    folder = data.Folder(tmp_path)
    for name, file in [("a/a_0001", "a_0001.jpg"), ("sets/a/a_0002.png", "a_0002.PNG"), ("s1/s1_0007", "7.pgm"),
                       ("x/same.jpg", "same.jpg"), ("one.jpg", "one.jpg")]:
        assert folder.find(name).name == file
    with pytest.raises(DataError, match="fits 2"): folder.find("same.jpg")
    with pytest.raises(DataError, match="not there"): folder.find("a/a_0003")


def test_masks_of_mfr2(tmp_path):
    pairs = data.read_pairs(written(tmp_path, "a 1 2\na 1 b 1\nb 1 2\n"))
    labels = written(tmp_path, "a, 1, no-mask\na, 2, cloth\nb, 1, surgical_blue\n", "labels.txt")
    assert data.with_masks(pairs, labels).rows["masked"].tolist() == [1, 1, -1]


# --- a list that is a program ----------------------------------------------------------------------------------------

def bin_of(tmp_path, value, protocol=4):
    path = tmp_path / "x.bin"
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
    return path

@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["bytes", "arrays", "numpy flags", "array of flags"])
def test_an_honest_bin_is_read(tmp_path, protocol, kind):
    pictures, flags = [png(k) for k in range(6)], [True, False, True]
    shown = [np.frombuffer(p, np.uint8) for p in pictures] if kind == "arrays" else pictures
    said = {"numpy flags": [np.bool_(f) for f in flags], "array of flags": np.array(flags)}.get(kind, flags)
    pairs = data.read_bin(bin_of(tmp_path, (shown, said), protocol))
    assert list(pairs.images.values()) == pictures and pairs.rows["same"].tolist() == flags
    assert pairs.rows["line"].tolist() == [1, 2, 3]


def test_a_bin_of_python_two_is_read(tmp_path):
    "Strings of Python 2 are bytes: SHORT_BINSTRING and BINSTRING."
    a, b = b"\xff" * 10, b"\x89" * 300
    program = b"\x80\x02](U" + bytes([len(a)]) + a + b"T" + struct.pack("<i", len(b)) + b + b"U\x01aU\x01be](\x88\x89e\x86."
    assert list(data.read_bin(bin_of(tmp_path, program)).images.values()) == [a, b, b"a", b"b"]


class Calls:
    def __init__(self, function, *arguments): self.function, self.arguments = function, arguments
    def __reduce__(self): return self.function, self.arguments

class Stated:
    def __reduce__(self): return np.ndarray, ((0,),), (1, (1,), np.dtype("u1"), False, Calls(os.system, "touch hacked"))

def by_name(module, name, argument=b"S'touch hacked'\n"): return f"c{module}\n{name}\n(".encode() + argument + b"tR."

ATTACKS = {
    "os.system": (Calls(os.system, "touch hacked"), [True]),
    "builtins.eval": (Calls(eval, "open('hacked', 'w')"), [True]),
    "builtins.exec": by_name("builtins", "exec"),
    "python 2 builtins": by_name("__builtin__", "eval"),
    "object array": (np.array([Calls(os.system, "touch hacked"), None], object), [True]),
    "object array of bytes": (np.array([b"x", b"y"], object), [True]),
    "a state that calls": ([Stated(), b"x"], [True]),
    "nested": ([b"x", [[Calls(os.system, "touch hacked")]]], [True]),
    "codecs.decode": by_name("codecs", "decode"),
    "_codecs.encode to a codec": b"c_codecs\nencode\n(Vx\nVzip\ntR.",
    "on the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch hacked\x85R.",
    "on the stack, from the memo": b"\x80\x04\x8c\x02os\x940\x8c\x06system\x940h\x00h\x01\x93\x8c\x0ctouch hacked\x85R.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x1andarray.__class__.__base__\x93.",
    "numpy's own loader": by_name("numpy", "load"),
    "numpy's ctypes": by_name("numpy.ctypeslib", "load_library"),
    "old instance": b"(S'touch hacked'\nios\nsystem\n.",
    "an object instruction": b"(cos\nsystem\nS'touch hacked'\no.",
    "a persistent name": b"Pos.system\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "a state for a stand-in": b"cnumpy\nndarray\n}S'made'\nNsb.",
    "a slot of a stand-in": b"\x80\x02cnumpy\nndarray\nN}U\x04madeNs\x86b.",
    "a huge memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a huge array": b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.",
    "an endless text": b"X\xff\xff\xff\x7fabc.",
    "a structured array": (np.zeros(2, [("a", "u1")]), [True]),
    "floats": (np.zeros(2), [True]),
    "text for pictures": (["a", "b"], [True]),
    "too few flags": ([b"a", b"b"], [True, False]),
    "another thing": {"a": 1},
    "nothing": b"", "a cut file": pickle.dumps(([b"a" * 100, b"b"], [True]))[:60], "a picture": png()}

@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_or_damaged_bin_is_refused(tmp_path, monkeypatch, attack):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="x.bin"): data.read_bin(bin_of(tmp_path, ATTACKS[attack]))
    assert not (tmp_path / "hacked").exists()


def test_an_attack_leaves_the_reader_as_it_was(tmp_path):
    for attack in ATTACKS.values():
        with pytest.raises(DataError): data.read_bin(bin_of(tmp_path, attack))
    test_an_honest_bin_is_read(tmp_path, 4, "arrays")


# --- aligned sources -------------------------------------------------------------------------------------------------

MAGIC = struct.pack("<I", 0xced7230a)

def record(raw, kind=0): return MAGIC + struct.pack("<I", kind << 29 | len(raw)) + raw + bytes(-len(raw) % 4)

def test_a_record_that_holds_the_magic_number_is_joined_again(tmp_path):
    header = struct.pack("<IfQQ", 0, 5., 1, 0)
    (tmp_path / "t.rec").write_bytes(record(header + b"abcd", 1) + record(b"efgh", 2) + record(b"ij", 3))
    (tmp_path / "t.idx").write_text("1\t0\n")
    file = data.RecordFile(tmp_path / "t.rec")
    assert file[0] == (5, b"abcd" + MAGIC + b"efgh" + MAGIC + b"ij") and len(file) == 1


@pytest.mark.parametrize("index, said", [("1\t4\n", "does not begin"), ("one two\n", "a number and a place")])
def test_a_damaged_index_is_refused(tmp_path, index, said):
    (tmp_path / "t.rec").write_bytes(record(struct.pack("<IfQQ", 0, 5., 1, 0) + png()) * 2)
    (tmp_path / "t.idx").write_text(index)
    with pytest.raises(DataError, match=said): data.recordio(tmp_path / "t.rec")


def test_open_faces_knows_aligned_folders_and_record_files(tmp_path):
    for k in range(6):
        (tmp_path / f"p{k % 2}").mkdir(exist_ok=True)
        (tmp_path / f"p{k % 2}" / f"{k}.png").write_bytes(png(40 * k))
    faces = data.open_faces(f"aligned:{tmp_path}")
    assert len(faces) == 6 and faces.boxes[0].tolist() == [0, 0, 2, 2]
    assert abs(faces.landmarks[0, 0, 0] - 38.2946 * 2 / 112) < 1e-5
    raws = [struct.pack("<IfQQ", 0, float(k % 2), k, 0) + png(40 * k) for k in range(6)]
    (tmp_path / "train.rec").write_bytes(b"".join(map(record, raws)))
    at = np.cumsum([0, *(len(record(r)) for r in raws)])
    (tmp_path / "train.idx").write_text("".join(f"{k}\t{at[k]}\n" for k in range(6)))
    assert data.open_faces(tmp_path / "train.rec").people == ["000000", "000001"]


# --- alignment -------------------------------------------------------------------------------------------------------

def test_alignment_is_opencvs():
    "The transform to .01 px of what OpenCV fits, and its bilinear pixels where nothing is reduced."
    cv2 = pytest.importorskip("cv2")
    import torch
    rng = np.random.default_rng(0)
    waves = [np.add.outer(np.arange(90) * (c + 1), np.arange(80) * 2) % 256 for c in range(3)]
    picture = np.stack(waves, -1).astype(np.uint8)
    picture = cv2.GaussianBlur(picture, (0, 0), 3)
    for _ in range(5):
        angle, scale = rng.normal(0, .2), rng.uniform(.4, .6)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = data.TEMPLATE.numpy() @ turn.T + rng.uniform(8, 16, 2) + rng.normal(0, .7, (5, 2))
        a, b = data.similarity(torch.tensor(points)[None], data.TEMPLATE)
        mine = np.array([[a.real[0], -a.imag[0], b.real[0]], [a.imag[0], a.real[0], b.imag[0]]])
        z, w = (p - p.mean(0) for p in (points, data.TEMPLATE.numpy()))  # Umeyama, by his singular values
        u, d, vt = np.linalg.svd(w.T @ z)
        s = np.diag([1, np.sign(np.linalg.det(u @ vt))])
        rotation = d @ np.diag(s) / (z ** 2).sum() * (u @ s @ vt)
        assert np.ptp(points @ rotation.T - points @ mine[:, :2].T, axis=0).max() < .01
        theirs = cv2.warpAffine(picture, mine, (112, 112))
        ours = data.align(torch.tensor(picture).permute(2, 0, 1)[None], torch.tensor(points).float()[None])[0]
        inside = theirs.min(2) > 0
        away = np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs)[inside]
        assert np.percentile(away, 99) <= 2 and inside.mean() > .5
