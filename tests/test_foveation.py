"The fovea against the referee values, against a slow literal twin, and against bad input"
import io, math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from facecp_nb import foveation
from facecp_nb.core import BOX_COLUMNS, LANDMARK_COLUMNS, ConfigError, DataError
from facecp_nb.data import FaceSet, crop
from facecp_nb.foveation import (
    PYRAMIDS, VIEWS, add_view, blur_levels, false_energy, fixations, foveate, ghosts, left_ratio, level_at, level_map,
    look, see, transfer, view_fingerprint,
)
from facecp_nb.foveation import pyramid as pyramid_module

NAN = float("nan")
LANDMARKS = torch.tensor([[[103., 90.], [147., 90.], [NAN, NAN], [106., 146.], [144., 146.]]])


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


# --- the referee -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def golden(shared):
    file = shared / "golden" / "foveation.npz"
    if not file.is_file(): pytest.skip(f"no referee values at {file}")
    with np.load(file) as f: return {k: f[k] for k in f.files}

@pytest.mark.parametrize("view", ["eyes", "mouth", "both", "forehead"])
def test_equals_the_published_functions(golden, view):
    "Bar of the referee's README: mean <= .6, 99.9th percentile <= 3, maximum <= 5 grey levels."
    images = torch.from_numpy(golden["images"]).permute(0, 3, 1, 2)
    points = torch.from_numpy(golden["landmarks"])
    landmarks = torch.cat([points[:, :2], torch.full((len(points), 1, 2), NAN, dtype=points.dtype), points[:, 2:]], 1)
    seen = foveate(images, fixations(landmarks, view), alpha=.12 if view == "forehead" else .15)
    d = np.abs(seen.permute(0, 2, 3, 1).numpy().astype(int) - golden[view].astype(int))
    assert d.mean() <= .6 and np.percentile(d, 99.9) <= 3 and d.max() <= 5
    assert torch.equal(seen, look(images, landmarks, view))


# --- a slow literal twin, written from the formulas alone ------------------------------------------------------------

def resized(image, height, width):
    "Bilinear with pixel centres at halves, one output pixel at a time."
    def axis(n, m):
        for i in range(m):
            x = min(max((i + .5) * n / m - .5, 0), n - 1)
            low = min(int(x), n - 1)
            yield low, min(low + 1, n - 1), x - low
    rows = np.stack([(1 - t) * image[a] + t * image[b] for a, b, t in axis(image.shape[0], height)])
    return np.stack([(1 - t) * rows[:, a] + t * rows[:, b] for a, b, t in axis(image.shape[1], width)], 1)

def smoothed(image, sigma):
    "The 5 x 5 kernel, mirrored at the edges without repeating the edge pixel."
    def mirror(i, n):
        while not 0 <= i < n: i = -i if i < 0 else 2 * (n - 1) - i
        return i if n > 1 else 0
    h, w = image.shape
    kernel = {(a, b): math.exp(-(a * a + b * b) / (2 * sigma**2)) for a in range(-2, 3) for b in range(-2, 3)}
    out = np.zeros_like(image)
    for (a, b), g in kernel.items():
        ys = [mirror(y + a, h) if h > 1 else 0 for y in range(h)]
        xs = [mirror(x + b, w) if w > 1 else 0 for x in range(w)]
        out += g / sum(kernel.values()) * image[np.ix_(ys, xs)]
    return out

def literal(image, points, sigma=.1, p=7., k=2., alpha=.15, levels=8):
    "One grey picture (H,W) in float64, pixel by pixel as the method is written down."
    h, w = image.shape
    down, ladder = [image], [image]
    for _ in range(levels - 1):
        a = smoothed(down[-1], sigma)
        down.append(resized(a, max(1, a.shape[0] // 2), max(1, a.shape[1] // 2)))
    for i in range(1, levels):
        a = down[i]
        for step in range(i):
            a = smoothed(resized(a, *((h, w) if step == i - 1 else (2 * a.shape[0], 2 * a.shape[1]))), sigma)
        ladder.append(a)
    omega = [min(1, sigma * 2.**(3 - i) * math.sqrt(math.log(2) / k)) for i in range(1, levels)] + [0]
    out = np.zeros_like(image)
    for y in range(h):
        for x in range(w):
            R = alpha / (min(math.hypot(x - a, y - b) for a, b in points) / p + alpha)
            T = [math.exp(-k * (2.**(i - 3) * R / sigma)**2) for i in range(1, levels)] + [0]
            weights = [float(R > omega[0])] + [0] * (levels - 1)
            for i in range(levels - 1):
                if omega[i + 1] <= R <= omega[i]:
                    B = (.5 - T[i + 1]) / (T[i] - T[i + 1] + 1e-5)
                    weights = [0] * levels
                    weights[i], weights[i + 1] = B, 1 - B
            out[y, x] = sum(m * a[y, x] for m, a in zip(weights, ladder))
    return out

@pytest.mark.parametrize("shape,settings", [
    ((40, 53), {}), ((53, 40), dict(alpha=.12)), ((64, 64), dict(sigma=.9, p=3., k=1.5, levels=5)), ((31, 17), dict(levels=1)),
    ((20, 90), dict(levels=12, alpha=.02)), ((45, 45), dict(sigma=.248, k=3., alpha=2.5, p=7.5, levels=6)), ((1, 9), dict(levels=3)),
    ((40, 40), dict(sigma=.6, p=.5, levels=2))])
def test_equals_the_literal_twin(shape, settings):
    image = noise(1, 1, *shape).double()
    points = [(11.3, 8.), (shape[1] * .7, shape[0] * .6), (-4., 3.)]
    expected = literal(image[0, 0].numpy(), points, **settings)
    seen = foveate(image, torch.tensor([points], dtype=torch.float64), **settings)
    np.testing.assert_allclose(seen[0, 0].numpy(), expected, atol=2.**-10)
    eight_bit = foveate(image.byte(), torch.tensor([points]), **settings)
    gap = expected - eight_bit[0, 0].numpy()
    assert gap.min() > -2.**-10 and gap.max() < 1


# --- the anti-aliased ladder -----------------------------------------------------------------------------------------

def zone_plate(n=250):
    at = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    return (127.5 + 127.5 * torch.cos(torch.pi / n * (at[:, None]**2 + at**2)))[None, None]

def above(picture, cutoff):
    "Energy above `cutoff` cycles per pixel, in any direction, under a Hann window."
    n = picture.shape[-1]
    window = torch.hann_window(n, periodic=False, dtype=picture.dtype)
    energy = torch.fft.fft2((picture - 127.5) * window * window[:, None]).abs()**2
    f = torch.fft.fftfreq(n)
    return float(energy[(f[:, None]**2 + f**2).sqrt() > cutoff].sum())

@pytest.mark.parametrize("n", [250, 128])
def test_zone_plate(n):
    "At least 40 dB down above every level's Nyquist frequency; the published pyramid is not, or this test could not fail."
    plate = zone_plate(n)
    leaks = {}
    for pyramid in PYRAMIDS:
        ladder = blur_levels(plate, pyramid=pyramid)
        leaks[pyramid] = [10 * math.log10(above(ladder[i, 0, 0], (n >> i) / n / 2) / above(plate[0, 0], (n >> i) / n / 2)) for i in range(1, 7)]
    assert max(leaks["antialiased"]) < -40
    assert max(leaks["published"]) > -20

def test_zone_plate_through_the_transform():
    "A fixation far away puts all pixels on one pair of levels: nothing above the sharper one's Nyquist frequency survives."
    plate = zone_plate()
    for x in (-60., -150., -400.):
        point = torch.tensor([[[x, 125.]]])
        sharpest = int(level_map(point, 250, 250).min())
        seen = foveate(plate, point, pyramid="antialiased")
        cutoff = (250 >> (sharpest - 1)) / 250 / 2
        assert 10 * math.log10(above(seen[0, 0], cutoff) / above(plate[0, 0], cutoff)) < -40

@pytest.mark.parametrize("pyramid", PYRAMIDS)
def test_flat_pictures_stay_flat(pyramid):
    for grey in (0, 1, 127, 128, 254, 255):
        flat = torch.full((1, 3, 61, 90), grey, dtype=torch.uint8)
        assert torch.equal(foveate(flat, torch.tensor([[[30., 40.]]]), pyramid=pyramid), flat)


# --- types, devices, batches, missing points -------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_type_and_shape_come_back(dtype):
    images = noise(2, 3, 50, 70).to(dtype)
    seen = foveate(images, torch.tensor([[[20., 20.]], [[30., 10.]]]))
    assert (seen.dtype, seen.shape, seen.device) == (images.dtype, images.shape, images.device)

def test_eight_bits_are_floored():
    images, points = noise(2, 3, 80, 60), torch.tensor([[[20., 20.]], [[30., 40.]]])
    exact = foveate(images.float(), points)
    assert torch.equal(foveate(images, points), exact.floor().byte())
    assert (exact != exact.round()).float().mean() > .5

@pytest.mark.parametrize("pyramid", PYRAMIDS)
@pytest.mark.parametrize("size", [48, 128, 250])
def test_a_batch_equals_its_pictures(pyramid, size):
    "But for the last bits of float32, which the rounding before the floor nearly always absorbs."
    images = noise(9, 3, size, size)
    points = torch.rand(9, 3, 2, generator=torch.Generator().manual_seed(1)) * size
    together = foveate(images, points, pyramid=pyramid)
    alone = torch.cat([foveate(images[i:i + 1], points[i:i + 1], pyramid=pyramid) for i in range(9)])
    far = (together.int() - alone.int()).abs()
    assert far.max() <= 1 and (far > 0).float().mean() < 1e-4
    exact = [torch.cat([foveate(images[i:i + n].double(), points[i:i + n].double(), pyramid=pyramid)
                        for i in range(0, 9, n)]) for n in (1, 9)]
    torch.testing.assert_close(*exact, rtol=0, atol=2.**-10)

def test_portions_do_not_show(monkeypatch):
    images, points = noise(5, 3, 60, 70), torch.rand(5, 2, 2, generator=torch.Generator().manual_seed(2)) * 60
    whole = foveate(images, points)
    monkeypatch.setattr(pyramid_module, "_CPU_PIXELS", 1)
    assert (foveate(images, points).int() - whole.int()).abs().max() <= 1

def test_memory_layout_does_not_matter():
    images, points = noise(2, 40, 60, 3), torch.tensor([[[20., 20.]], [[30., 10.]]])
    turned = images.permute(0, 3, 1, 2)
    assert torch.equal(foveate(turned, points), foveate(turned.contiguous(), points))
    before = turned.float()
    kept = before.clone()
    foveate(before, points)
    assert torch.equal(before, kept)

def test_missing_points():
    images = noise(2, 3, 60, 60)
    points = torch.tensor([[[20., 20.], [40., 30.]], [[NAN, NAN], [10., 50.]]])
    seen = foveate(images, points)
    assert torch.equal(seen[1:], foveate(images[1:], points[1:, 1:]))
    half = torch.tensor([[[20., 20.], [40., NAN]]])
    assert torch.equal(foveate(images[:1], half), foveate(images[:1], half[:, :1]))
    with pytest.raises(DataError, match="Sample 1 has no fixation"): foveate(images, torch.tensor([[[1., 2.]], [[NAN, NAN]]]))
    with pytest.raises(DataError, match="Sample 0 has no fixation"): foveate(images, torch.zeros(2, 0, 2))

def test_an_empty_batch():
    assert foveate(noise(0, 3, 20, 20), torch.zeros(0, 3, 2)).shape == (0, 3, 20, 20)

def test_gradients_pass():
    images = noise(1, 1, 30, 30).double().requires_grad_()
    foveate(images, torch.tensor([[[10., 10.]]])).sum().backward()
    assert images.grad[0, 0, 10, 10] > .9 and images.grad.isfinite().all()

def test_first_use_in_inference_mode_serves_gradients_later():
    pyramid_module._axis.cache_clear()
    point = torch.tensor([[[10., 10.]]])
    with torch.inference_mode(): foveate(noise(1, 1, 33, 33).float(), point)
    images = noise(1, 1, 33, 33).float().requires_grad_()
    foveate(images, point).sum().backward()
    assert images.grad.isfinite().all() and images.grad.abs().sum() > 0

def test_the_cache_of_axes_is_bounded_and_can_be_cleared():
    pyramid_module._axis.cache_clear()
    for n in range(10, 60): blur_levels(noise(1, 1, n, 9), levels=2)
    assert pyramid_module._axis.cache_info().currsize <= 32
    pyramid_module._axis.cache_clear()
    assert pyramid_module._axis.cache_info().currsize == 0

def test_autocast_does_not_reach_inside():
    images, points = noise(1, 3, 60, 60).float(), torch.tensor([[[10., 10.]]])
    with torch.autocast("cpu", dtype=torch.bfloat16): inside = foveate(images, points)
    assert torch.equal(inside, foveate(images, points))

@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pyramid", PYRAMIDS)
def test_gpu_equals_cpu(pyramid):
    images = noise(6, 3, 250, 250)
    points = torch.rand(6, 3, 2) * 250
    far = (foveate(images.cuda(), points, pyramid=pyramid).cpu().int() - foveate(images, points, pyramid=pyramid).int()).abs()
    assert far.max() <= 1 and (far > 0).float().mean() < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_views_are_made_on_the_device_of_their_input():
    images, points = noise(2, 3, 60, 60).cuda(), LANDMARKS.expand(2, 5, 2) * 60 / 250
    assert look(images, points, "mouth").device == images.device
    assert level_map(fixations(points.cuda(), "mouth"), 60, 60).is_cuda and level_at(torch.ones(3).cuda()).is_cuda
    faces = face_set([(60, 60)] * 3)
    seen = see(faces, "mouth", 16, device="cuda")
    assert not seen.is_cuda and (seen.int() - see(faces, "mouth", 16, device="cpu").int()).abs().max() <= 1

def test_see_does_its_work_where_it_is_told(monkeypatch):
    faces, places = face_set([(60, 60)] * 2), []
    from facecp_nb.foveation import view as view_module
    monkeypatch.setattr(view_module.core, "device", lambda: places.append("asked") or "cpu")
    see(faces, "mouth", 16)
    assert places == ["asked"]
    see(faces, "mouth", 16, device="cpu")
    assert places == ["asked"]
    with pytest.raises((RuntimeError, NotImplementedError)): see(faces, "mouth", 16, device="meta")


# --- views -----------------------------------------------------------------------------------------------------------

def test_fixations():
    left, right, mouth_left, mouth_right = LANDMARKS[0, [0, 1, 3, 4]]
    eyes, mouth = [left, right, (left + right) / 2], [mouth_left, mouth_right, (mouth_left + mouth_right) / 2]
    assert torch.equal(fixations(LANDMARKS, "eyes")[0], torch.stack(eyes))
    assert torch.equal(fixations(LANDMARKS, "mouth")[0], torch.stack(mouth))
    assert torch.equal(fixations(LANDMARKS, "both")[0], torch.stack(eyes + mouth))
    assert torch.equal(fixations(LANDMARKS, "forehead")[0], torch.stack(eyes) - torch.tensor([0, 50.]))
    assert torch.equal(fixations(LANDMARKS, "forehead", shift=45)[0], torch.stack(eyes) - torch.tensor([0, 45.]))

@pytest.fixture
def views():
    before = dict(VIEWS)
    yield VIEWS
    VIEWS.clear(); VIEWS.update(before)

def test_a_view_of_ones_own(views):
    add_view("left_eye", lambda landmarks, shift: landmarks[:, :1], alpha=.3)
    images = noise(1, 3, 100, 100)
    points = torch.rand(1, 5, 2) * 100
    assert torch.equal(look(images, points, "left_eye"), foveate(images, points[:, :1], p=7., alpha=.3))
    was = view_fingerprint("left_eye")
    add_view("left_eye", lambda landmarks, shift: landmarks[:, 1:2], alpha=.3)
    assert view_fingerprint("left_eye") != was

def test_fingerprints_follow_what_a_view_does(views):
    def print_of(function, alpha=.15):
        add_view("trial", function, alpha)
        return view_fingerprint("trial")
    nose = print_of(lambda m, shift: m[:, 2:3])
    assert print_of(lambda marks, s: marks[:, [2]].clone()) == nose
    prints = [nose, print_of(lambda m, shift: m[:, 2:3], .2), print_of(lambda m, shift: m[:, [2, 2]]),
              print_of(lambda m, shift: m[:, 2:3] - shift), print_of(lambda m, shift: m[:, 2:3] - min(shift, 30)),
              print_of(lambda m, shift: m[:, 2:3].nan_to_num(0)), print_of(lambda m, shift: m[:, 2:3] + .01),
              print_of(lambda m, shift: m.nanmean(1, keepdim=True)), print_of(lambda m, shift: m.median(1, True).values),
              *(view_fingerprint(view) for view in VIEWS if view != "trial")]
    assert len(set(prints)) == len(prints)

def test_a_view_that_spoils_its_landmarks_does_not_spoil_the_next(views):
    before = view_fingerprint("eyes")
    add_view("spoiler", lambda landmarks, shift: landmarks.mul_(0)[:, :1])
    assert view_fingerprint("eyes") == before

def test_a_random_view_is_refused(views):
    with pytest.raises(ConfigError, match="random"): add_view("dice", lambda landmarks, shift: torch.rand(len(landmarks), 1, 2))

@pytest.mark.parametrize("name", ["mouth", "full", "none", "Nose", "a b", "", "1st", "nose:3", None])
def test_unusable_view_names(views, name):
    with pytest.raises(ConfigError): add_view(name, lambda landmarks, shift: landmarks)

def test_unusable_view_functions(views):
    with pytest.raises(ConfigError, match="must return fixations"): add_view("flat", lambda landmarks, shift: landmarks[:, 0])
    with pytest.raises(ConfigError, match="alpha"): add_view("nose", lambda landmarks, shift: landmarks, alpha=0)


def test_halves_and_placebos(views):
    faces = face_set([(100, 100), (90, 120)])
    whole = see(faces, "full", 25)
    seen = {view: see(faces, view, 25) for view, recipe in VIEWS.items() if recipe.after}
    assert all(x.dtype == torch.uint8 and x.shape == whole.shape for x in seen.values())
    assert torch.equal(seen["upper"][:, :, :12], whole[:, :, :12]) and (seen["upper"][:, :, 12:] == 115).all()
    assert torch.equal(seen["lower"][:, :, 12:], whole[:, :, 12:]) and (seen["lower"][:, :, :12] == 115).all()
    assert torch.equal(seen["inverted"].flip(2), whole)
    one = torch.arange(625).remainder(251).to(torch.uint8).view(1, 1, 25, 25).expand(1, 3, 25, 25)
    moved = VIEWS["scrambled"].after(one)
    assert torch.equal(moved[:, 0], moved[:, 2]) and not torch.equal(moved, one)
    assert torch.equal(moved.flatten().sort().values, one.flatten().sort().values)
    flat = torch.full((1, 3, 36, 36), 200, dtype=torch.uint8)
    for view in ("blurred", "coarse"):
        assert torch.equal(VIEWS[view].after(flat), flat)
        assert seen[view].float().std() < .5 * whole.float().std()

def test_built_in_views_keep_their_names_and_bytes():
    known = dict(full="a6c11e4b1a3293dd", mouth="3bdf9d1cc653ba04", forehead="9a58d6cabafe647b",
                 upper="fd66459d0d1ec649", lower="157f8c49e38bb8a9", inverted="22d1c59c563e65b1",
                 scrambled="c5fa93d46d69bdf6", blurred="26e5bac5fec881a9", coarse="e31477c860a7d55b")
    assert {view: view_fingerprint(view) for view in known} == known

def test_a_view_after_the_crop_of_ones_own(views):
    add_view("dim", after=lambda x: x // 2)
    faces = face_set([(60, 60)] * 3)
    assert torch.equal(see(faces, "dim", 16), see(faces, "full", 16) // 2)
    was = view_fingerprint("dim")
    add_view("dim", lambda m, shift: m[:, 3:4], after=lambda x: x // 2)
    assert view_fingerprint("dim") != was
    assert torch.equal(fixations(LANDMARKS, "dim"), LANDMARKS[:, 3:4])
    both = see(faces, "dim", 16)
    add_view("corner", lambda m, shift: m[:, 3:4])
    assert torch.equal(both, see(faces, "corner", 16) // 2)
    with pytest.raises(ConfigError, match="use `see`"): look(IMAGES, LANDMARKS, "dim")

@pytest.mark.parametrize("after,words", [
    (None, "does nothing"), (lambda x: x.float(), "uint8"), (lambda x: x[:1], "shape"), (lambda x: 3, "int"),
    (lambda x: x.flip(0), "each alone"), (lambda x: torch.randint_like(x, 256), "random")])
def test_unusable_functions_after_the_crop(views, after, words):
    with pytest.raises(ConfigError, match=words): add_view("odd", after=after)


# --- bad input -------------------------------------------------------------------------------------------------------

IMAGES, POINTS = noise(2, 3, 30, 30), torch.tensor([[[10., 10.]], [[20., 20.]]])

@pytest.mark.parametrize("images,points,settings,error,words", [
    (IMAGES[0], POINTS, {}, DataError, r"\(B, C, H, W\)"), (IMAGES.numpy(), POINTS, {}, DataError, "ndarray"), (IMAGES.int(), POINTS, {}, DataError, "int32"),
    (IMAGES, POINTS[:1], {}, DataError, r"\(2, K, 2\)"), (IMAGES, POINTS[:, 0], {}, DataError, r"\(2, 2\)"), (IMAGES, None, {}, DataError, "NoneType"),
    (IMAGES, POINTS / 0, {}, DataError, "Sample 0 has an infinite"), (IMAGES.float() / torch.tensor([1., 0.])[:, None, None, None], POINTS, {}, DataError, "Sample 1"),
    (IMAGES, POINTS, dict(pyramid="gauss"), ConfigError, "published, antialiased"), (IMAGES, POINTS, dict(sigma=0), ConfigError, "sigma"),
    (IMAGES, POINTS, dict(alpha=NAN), ConfigError, "alpha"), (IMAGES, POINTS, dict(p=-7), ConfigError, "p is -7"), (IMAGES, POINTS, dict(k=math.inf), ConfigError, "k is"),
    (IMAGES, POINTS, dict(levels=0), ConfigError, "at most 12"), (IMAGES, POINTS, dict(levels=2.5), ConfigError, "levels"), (IMAGES, POINTS, dict(levels=40), ConfigError, "levels")])
def test_bad_input(images, points, settings, error, words):
    with pytest.raises(error, match=words): foveate(images, points, **settings)

def test_bad_landmarks_and_views():
    with pytest.raises(DataError, match="row of NaN"): fixations(torch.zeros(2, 4, 2), "eyes")
    with pytest.raises(ConfigError, match="Choose one of"): fixations(LANDMARKS, "ears")
    with pytest.raises(ConfigError, match="no fixations"): fixations(LANDMARKS, "full")
    with pytest.raises(ConfigError, match="view"): look(IMAGES, LANDMARKS, "ears")
    with pytest.raises(ConfigError, match="pyramid"): look(IMAGES, LANDMARKS, "full", pyramid="none")

def test_points_far_outside_are_allowed():
    far = foveate(IMAGES, torch.tensor([[[-1e6, 10.]], [[10., 1e6]]]))
    assert far.float().std((2, 3)).max() < 30  # nothing but the coarsest levels is left


# --- whole sets ------------------------------------------------------------------------------------------------------

def face_set(sizes, nose=True):
    rows = []
    for i, (height, width) in enumerate(sizes):
        file = io.BytesIO()
        Image.fromarray(noise(height, width, 3, seed=i).numpy()).save(file, "PNG")
        points = LANDMARKS[0] * torch.tensor([width, height]) / 250
        rows.append(dict(image=f"i{i}", person=f"p{i % 2}", split="train", width=width, height=height, jpeg=file.getvalue())
                    | dict(zip(LANDMARK_COLUMNS, points.flatten().tolist())) | dict(zip(BOX_COLUMNS, (.2 * width, .1 * height, .8 * width, .9 * height))))
    return FaceSet(pd.DataFrame(rows))

def test_see_is_foveate_then_crop():
    faces = face_set([(100, 100), (150, 120), (100, 100)])
    for view in ("eyes", "forehead"):
        seen = see(faces, view, 24)
        for i in range(3):
            image, scale = faces.read([i])[0][None], (faces.records["height"] / 250)[i]
            whole = foveate(image, fixations(faces.landmarks[[i]], view, 50 * scale), p=7., alpha=VIEWS[view].alpha)
            assert torch.equal(seen[i], crop(whole, faces.boxes[[i]], 24)[0])
    assert torch.equal(see(faces, "full", 24), faces.crops(24))
    assert see(faces, "eyes", 24).dtype == torch.uint8

def test_see_chooses_rows():
    faces = face_set([(60, 60), (50, 40), (60, 60)])
    assert torch.equal(see(faces, "mouth", 16, rows=[2, 0]), see(faces, "mouth", 16)[[2, 0]])
    assert torch.equal(see(faces, "mouth", 16, rows=np.array([False, True, False])), see(faces, "mouth", 16)[1:2])
    assert see(faces, "mouth", 16, rows=[]).shape == (0, 3, 16, 16)

def test_p_is_seven_pixels_of_the_picture_at_every_height():
    images, points = noise(1, 3, 128, 128), LANDMARKS * 128 / 250
    assert torch.equal(look(images, points, "eyes"), foveate(images, fixations(points, "eyes"), p=7.))
    shifted = fixations(points, "forehead", 50 * 128 / 250)
    assert torch.equal(look(images, points, "forehead"), foveate(images, shifted, p=7., alpha=.12))
    faces = face_set([(100, 100)])
    assert torch.equal(see(faces, "mouth", 16), see(faces, "mouth", 16, p=7.))

def test_an_unscaled_p_keeps_the_published_blur_per_face():
    "The shipped faces enlarged to 250 pixels: the small picture against the shrunken view of the large one."
    from facecp_nb.data import rendered
    faces = rendered().subset(range(0, 90, 15))
    height = int(faces.records["height"].iloc[0])
    whole = torch.tensor([[0., 0., height, height]]).repeat(len(faces), 1)
    large, points = crop(torch.stack(faces.read()).float(), whole, 250), faces.landmarks * 250 / height
    everything = torch.tensor([[0., 0., 250., 250.]]).repeat(len(faces), 1)
    truth, small = (crop(images, everything, 128) for images in (look(large, points, "mouth"), large))
    boxes = faces.boxes * 128 / height
    def apart(p):
        seen = look(small, points * 128 / 250, "mouth", p=p)
        return float((crop(seen, boxes, 32) - crop(truth, boxes, 32)).abs().mean())
    assert apart(7.) < 2.5 and apart(7. * 128 / 250) > 3 * apart(7.)

def test_see_remembers_nothing(views):
    faces = face_set([(60, 60)] * 3)
    see(faces, "mouth", 16).zero_()
    assert see(faces, "mouth", 16).sum() > 0
    add_view("mine", lambda landmarks, shift: landmarks[:, :1])
    one = see(faces, "mine", 16)
    add_view("mine", lambda landmarks, shift: landmarks[:, 4:])
    assert not torch.equal(see(faces, "mine", 16), one)

def test_see_names_the_image_without_landmarks(views):
    faces = face_set([(60, 60)] * 2)
    add_view("tip", lambda landmarks, shift: landmarks[:, 2:3])
    with pytest.raises(DataError, match="'i0'.*'tip'"): see(faces, "tip", 16)
    with pytest.raises(ConfigError, match="view"): see(faces, "ears", 16)
    with pytest.raises(ConfigError, match="pyramid"): see(faces, "eyes", 16, pyramid="x")


# --- measured transfer -----------------------------------------------------------------------------------------------

def test_transfer_of_the_sharp_middle_and_of_the_far_field():
    for pyramid in PYRAMIDS:
        rows = transfer([0, 100], [.01, .3], pyramid=pyramid).set_index(["eccentricity", "frequency"])
        np.testing.assert_allclose(rows.loc[0, "signal"], 1, atol=1e-3)
        np.testing.assert_allclose(rows.loc[0, "false_detail"], 0, atol=2e-2)
        assert rows.loc[(100, .3), "signal"] < .05 < rows.loc[(100, .01), "signal"]

def test_transfer_finds_the_gain_of_known_filters():
    "A level of m points passes 0.01^((2 n f / m)^2) of a wave of f cycles per pixel; a ring mixes two levels."
    frequencies = np.array([.008, .02, .04])
    rows = transfer([15, 30, 60], frequencies, pyramid="antialiased")
    at = level_map(torch.tensor([[[125., 125.]]]), 250, 250)[0, 125]
    for e in (15, 30, 60):
        i = int(at[125 + e])
        first, second = (.01 ** ((500 * frequencies / (250 >> level - 1))**2) * (500 * frequencies < 250 >> level - 1) for level in (i, i + 1))
        share = float(i + 1 - at[125 + e])
        np.testing.assert_allclose(rows.query("eccentricity == @e")["signal"], share * first + (1 - share) * second, atol=.02)

@pytest.mark.parametrize("eccentricities,frequencies", [([200], [.1]), ([10], [0.]), ([10], [.7]), ([-3], [.1]), ([10], [])])
def test_transfer_refuses(eccentricities, frequencies):
    with pytest.raises(ConfigError): transfer(eccentricities, frequencies)


# --- what a level invents --------------------------------------------------------------------------------------------

def test_aliases_lie_below_the_limit():
    "A wave above the limit of level 3 comes back below it; the low-pass pyramid returns nothing."
    y = torch.arange(240.) + .5
    wave = (127.5 + 100 * torch.cos(torch.pi / 240 * 160 * y))[:, None].expand(240, 240)[None, None]
    published, filtered = (false_energy(wave, 3, pyramid).iloc[0] for pyramid in PYRAMIDS)
    assert published.inside > 20 * published.above and published.inside > 100
    assert filtered.inside + filtered.above < 1e-6

@pytest.mark.parametrize("pyramid", PYRAMIDS)
def test_ghosts_and_their_energy_agree(pyramid):
    pictures = noise(2, 3, 50, 64)
    for level in (1, 2, 4):
        table, false = false_energy(pictures, level, pyramid), ghosts(pictures, level, pyramid)
        assert false.shape == pictures.shape and table.picture.tolist() == [0, 1]
        np.testing.assert_allclose(table.inside + table.above, false.square().mean((1, 2, 3)), rtol=1e-6, atol=1e-9)
    assert ghosts(pictures, 1, pyramid).abs().max() < 1e-9
    with pytest.raises(ConfigError, match="level"): ghosts(pictures, 0, pyramid)
    with pytest.raises(ConfigError, match="pyramid"): false_energy(pictures, 2, "none")


# --- what is left of a part ------------------------------------------------------------------------------------------

def test_chance_differences_do_not_count():
    noise_only = torch.randn(400, 300, generator=torch.Generator().manual_seed(0)) * 20
    labels = torch.arange(40).repeat_interleave(10)
    assert foveation.between_people(noise_only, labels) < 1.5  # plain averages would say 6.3
    assert foveation.between_people(noise_only + 10 * labels[:, None], labels) == pytest.approx(10 * float(torch.arange(40.).std()), rel=.05)
    with pytest.raises(DataError, match="two people"): foveation.between_people(noise_only[:10], labels[:10])

def test_the_ratio_and_its_interval():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20).repeat_interleave(8)
    people = torch.randn(20, 200, generator=generator)
    full = 10 * people[labels] + torch.randn(160, 200, generator=generator)
    same, half = left_ratio(full, full, labels), left_ratio(full / 2, full, labels)
    assert (same["ratio"], same["low"], same["high"]) == pytest.approx((1, 1, 1))
    assert half["ratio"] == pytest.approx(.5) and half["high"] - half["low"] < 1e-6
    between = foveation.between_people(full + 5 * torch.randn(160, 200, generator=generator), labels)
    assert between == pytest.approx(foveation.between_people(full, labels), rel=.1)
    gone = left_ratio(torch.randn(160, 200, generator=generator), full, labels)
    assert gone["low"] == 0 and gone["ratio"] <= gone["high"] < .1
    with pytest.raises(DataError, match="three people"): left_ratio(full[:16], full[:16], labels[:16])

def test_part_boxes():
    eyes, mouth = (foveation.part_boxes(LANDMARKS, part)[0].tolist() for part in ("eyes", "mouth"))
    assert eyes == pytest.approx([125 - 41.8, 90 - 17.6, 125 + 41.8, 90 + 17.6])
    assert mouth == pytest.approx([125 - 28.6, 146 - 17.6, 125 + 28.6, 146 + 17.6])
    with pytest.raises(ConfigError, match="part"): foveation.part_boxes(LANDMARKS, "ear")


# --- what an attacker tried ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shift", [None, "a", NAN, math.inf])
def test_a_shift_that_is_no_number_is_refused(shift):
    with pytest.raises(ConfigError, match="shift"): fixations(LANDMARKS, "forehead", shift)

@pytest.mark.parametrize("odd", [LANDMARKS.nan_to_num(math.inf), LANDMARKS.to(torch.complex64)])
def test_infinite_or_complex_landmarks_are_refused(odd):
    with pytest.raises(DataError, match="infinite or complex"): fixations(odd, "eyes")

def test_complex_images_are_refused():
    with pytest.raises(DataError, match="complex64"): look(torch.zeros(1, 3, 8, 8, dtype=torch.complex64), LANDMARKS, "full")

def test_sizes_and_rows_that_see_cannot_use_are_refused():
    stream = io.BytesIO()
    Image.fromarray(noise(30, 40, 3).numpy()).save(stream, "PNG")
    points = dict(zip(LANDMARK_COLUMNS, [10., 10, 30, 10, 20, 16, 12, 24, 28, 24]))
    faces = FaceSet(pd.DataFrame([dict(image="a", person="p", split="train", width=40, height=30, **points,
                                       **dict(zip(BOX_COLUMNS, (5., 4., 35., 28.))), jpeg=stream.getvalue())]))
    for size in (-1, 0, 2.5, None):
        with pytest.raises(ConfigError, match="size"): see(faces, "eyes", size)
    for rows in ([99], [.7]):
        with pytest.raises(DataError, match="[Rr]ow"): see(faces, "eyes", 16, rows=rows)
