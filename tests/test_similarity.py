"Recordings made to do harm are refused by name; the bootstrap's intervals are rsatoolbox's; real ones give the numbers on file"
import zlib

import numpy as np
import pandas as pd
import pytest
from scipy import io
from scipy.io import matlab

from facecp_nb import evaluation
from facecp_nb.core import ConfigError, DataError, shipped
from facecp_nb.evaluation import brains

HEAD = b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM"


def mat73(path, fill):
    "An HDF5 file with MATLAB's head, filled by `fill`."
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as f: fill(f, h5py)
    with open(path, "r+b") as f: f.write(HEAD)
    return path

def numbers(f, h5py):
    f.create_dataset("rdms", data=np.arange(6.).reshape(3, 2)).attrs["MATLAB_class"] = np.bytes_("double")
    f.create_dataset("who", data=np.array([104, 105], "u2")).attrs["MATLAB_class"] = np.bytes_("char")
    f.create_group("area").attrs["MATLAB_class"] = np.bytes_("struct")
    f["area"].create_dataset("RDM", data=np.eye(2)).attrs["MATLAB_class"] = np.bytes_("double")

def test_version_73_gives_numbers_the_right_way_round(tmp_path):
    found = evaluation.load_brain(mat73(tmp_path / "a.mat", numbers))
    assert set(found) == {"rdms", "area.RDM"}
    assert found["rdms"].tolist() == [[0, 2, 4], [1, 3, 5]]

def _cell(f, h5py):
    numbers(f, h5py)
    f.create_dataset("bad", data=np.array([f["rdms"].ref], h5py.ref_dtype)).attrs["MATLAB_class"] = np.bytes_("cell")
def _function(f, h5py): f.create_group("bad").attrs["MATLAB_class"] = np.bytes_("function_handle")
def _object(f, h5py):
    f.create_dataset("bad", data=np.zeros(3)).attrs["MATLAB_class"] = np.bytes_("double")
    f["bad"].attrs["MATLAB_object_decode"] = np.int32(3)
def _elsewhere(f, h5py): f["bad"] = h5py.ExternalLink("/etc/hostname", "/x")
def _soft(f, h5py): f["bad"] = h5py.SoftLink("/nothing")
def _file(f, h5py): f.create_dataset("bad", (3,), "f8", external=[("/etc/hostname", 0, 24)])
def _inner(f, h5py):
    f.create_group("bad").attrs["MATLAB_class"] = np.bytes_("struct")
    f["bad"]["x"] = h5py.ExternalLink("other.h5", "/x")

@pytest.mark.parametrize("fill", [_cell, _function, _object, _elsewhere, _soft, _file, _inner])
def test_version_73_refuses_what_is_no_array(tmp_path, fill):
    with pytest.raises(DataError, match="bad.* is a "): evaluation.load_brain(mat73(tmp_path / "a.mat", fill))

def test_version_73_refuses_gigabytes_before_reading_them(tmp_path, monkeypatch):
    def large(f, h5py): f.create_dataset("x", (2**17,), "f8", chunks=(1024,), compression="gzip")
    monkeypatch.setattr(brains, "MOST_BYTES", 2**19)
    with pytest.raises(DataError, match="holds more than"): evaluation.load_brain(mat73(tmp_path / "a.mat", large))

def _cells(): return dict(x=np.array([[1, "a"]], object))
def _in_a_struct():
    inside = np.empty((1, 1), dtype=[("deep", "O")])
    inside[0, 0] = (np.array([[1, "a"]], object),)
    return dict(x=inside)
def _complex(): return dict(x=np.eye(3) * 1j)

@pytest.mark.parametrize("made", [_cells, _in_a_struct, _complex])
def test_version_5_refuses_what_is_no_array(tmp_path, made):
    io.savemat(tmp_path / "a.mat", made())
    with pytest.raises(DataError, match=r"x.* is a (cell|complex) array"): evaluation.load_brain(tmp_path / "a.mat")

@pytest.mark.parametrize("kind", ["object", "function", "opaque"])
def test_version_5_refuses_objects_by_their_kind(tmp_path, monkeypatch, kind):
    "scipy writes none, so its list of variables is made to say so; nothing may be loaded."
    io.savemat(tmp_path / "a.mat", dict(x=np.eye(2)))
    monkeypatch.setattr(brains.scipy_io, "whosmat", lambda path: [("x", (1, 1), kind)])
    monkeypatch.setattr(brains.scipy_io, "loadmat", lambda *a, **k: pytest.fail("it was loaded"))
    with pytest.raises(DataError, match=f"x is a {kind}"): evaluation.load_brain(tmp_path / "a.mat")

def test_an_object_inside_a_structure_is_refused():
    with pytest.raises(DataError, match="object or function"):
        list(brains._flat("a.mat", "x", matlab.MatlabFunction(np.zeros(1))))

def test_a_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch):
    io.savemat(tmp_path / "a.mat", dict(x=np.zeros(2**18)), do_compression=True)
    assert (tmp_path / "a.mat").stat().st_size < 2**14
    monkeypatch.setattr(brains, "MOST_BYTES", 2**20)
    with pytest.raises(DataError, match="holds more than"): evaluation.load_brain(tmp_path / "a.mat")

def _torn(path): path.write_bytes(path.read_bytes()[:150])
def _no_zlib(path): path.write_bytes(path.read_bytes()[:128] + b"\x0f\0\0\0\x40\0\0\0" + b"\x01" * 64)
def _text(path): path.write_text("not a recording " * 50)
def _empty(path): path.write_bytes(b"")
def _short_stream(path):
    inside = zlib.compress(b"\x0e\0\0\0\xff\xff\xff\x7f" + bytes(48))
    path.write_bytes(path.read_bytes()[:128] + b"\x0f\0\0\0" + len(inside).to_bytes(4, "little") + inside)

@pytest.mark.parametrize("harm", [_torn, _no_zlib, _text, _empty, _short_stream])
def test_damaged_files_are_named(tmp_path, harm):
    path = tmp_path / "a.mat"
    io.savemat(path, dict(x=np.eye(3)), do_compression=True)
    harm(path)
    with pytest.raises(DataError, match="a.mat"): evaluation.load_brain(path)

def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match="no file"): evaluation.load_brain(tmp_path / "a.mat")
    with pytest.raises(ConfigError, match="no folder"): evaluation.open_brain(tmp_path / "none", 16)
    io.savemat(tmp_path / "a.mat", dict(x=np.eye(3)))
    with pytest.raises(DataError, match="no variable 'y'; it has x"): evaluation.load_brain(tmp_path / "a.mat", ["y"])
    io.savemat(tmp_path / "b.mat", dict(x=np.eye(3)), format="4")
    with pytest.raises(DataError, match="version 4"): evaluation.load_brain(tmp_path / "b.mat")


def test_variances_are_those_of_rsatoolbox():
    "Agreement, variance of models and of differences from one set of draws; the toolbox combines the three as we do."
    from rsatoolbox.util.inference_util import _dual_bootstrap
    from facecp_nb.evaluation.similarity import _variance
    rng = np.random.default_rng(0)
    by_pictures, drawn, once = rng.normal(size=(300, 3, 6)), rng.integers(0, 6, (300, 6)), rng.normal(size=(3, 6))
    v_p, v_s = by_pictures.mean(-1).var(0), once[:, drawn].mean(-1).var(-1)
    v_sp = np.take_along_axis(by_pictures, drawn[:, None], 2).mean(-1).var(0)
    theirs = _dual_bootstrap(np.array([v_sp, v_s, v_p]), 6, 20)
    assert np.allclose(_variance((by_pictures, drawn, once), 6, 20), theirs)

def test_interval_of_the_agreement_holds_the_truth():
    "Twenty small studies of one invented population: the intervals hold the agreement of a large one in 17 at least."
    truth = np.random.default_rng(0).normal(size=(400, 4))
    model = lambda rows: evaluation.rdm(truth[rows, :2])
    wide = np.arange(400)
    goal = evaluation.agreement(model(wide), evaluation.simulate_brain(truth, 8, 30, 2., 99)).mean()
    held = 0
    for study in range(20):
        rows = np.random.default_rng(study).choice(400, 25, replace=False)
        brain = evaluation.simulate_brain(truth[rows], 8, 30, 2., study)
        row = evaluation.compare_rdms({"half": model(rows)}, brain, draws=60, seed=study).iloc[0]
        held += row.low <= goal <= row.high
    assert held >= 17

def test_kendall_is_there_too():
    rdms = np.random.default_rng(0).normal(size=(2, 45))
    assert abs(evaluation.agreement(rdms[0], rdms[1], "tau-a")[0, 0]) < 1
    assert evaluation.agreement(rdms[0], rdms[0], "tau-a")[0, 0] == pytest.approx(1)
    with pytest.raises(ConfigError, match="method"): evaluation.agreement(rdms, rdms, "pearson")
    with pytest.raises(DataError, match="10 pictures and the brains 9"): evaluation.agreement(rdms, rdms[:, :36])

def test_recordings_give_the_numbers_on_file(shared):
    "`shared/faces/README.md`: human against monkey IT .439; cells of AM .276 at one halving."
    if not (shared / "faces" / "rsa92").is_dir(): pytest.skip("no recordings in shared/faces/rsa92")
    brain = evaluation.open_brain(shared / "faces" / "rsa92", 16)
    assert brain.images.shape == (92, 3, 16, 16) and len(brain.faces) == 24
    assert {a: r.shape for a, r in brain.rdms.items()} == {
        "monkey IT": (1, 4186), "human IT": (4, 4186), "human judgement": (16, 4186)}
    both = evaluation.agreement(brain.rdms["monkey IT"], brain.rdms["human IT"].mean(0))
    assert both[0, 0] == pytest.approx(.439, abs=.001)
    cells = evaluation.load_responses(shared / "faces" / "macaque_face_cells" / "response_am.mat", 2000)
    assert evaluation.split_reliability(cells[:, ::10], splits=5)["half"] == pytest.approx(.25, abs=.06)

def test_stored_rows_are_numbers_with_their_source():
    "No picture, no name of one, and every source says whose it is."
    rows = pd.read_parquet(shipped("brain.parquet"))
    assert set(rows.source) == {"simulated", "Kriegeskorte et al., Neuron 2008", "Chang & Tsao, Cell 2017"}
    assert set(rows.kind) == {"compared", "seed", "power", "shares", "reliability"}
    assert shipped("brain.parquet").stat().st_size < 1e5 and not any(rows[c].map(type).eq(bytes).any() for c in rows)
