"Identity training: a killed run goes on to the same bits, prototypes included; nothing else may lie in its folder."
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facecp_nb.core import ConfigError, DataError, StoreError, seed_all
from facecp_nb.models import head, iresnet
from facecp_nb.training import train_identity

LABELS = torch.arange(48) % 4
IMAGES = torch.randint(0, 255, (48, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SETTINGS = dict(epochs=3, lr=.05, seed=0, batch=8)


def made(name="elastic-arc+"):
    seed_all(1)
    return iresnet("tiny", 16, 16), head(name, 16, 4, scale=16.)


def covered(rows, epoch, generator):
    shown = IMAGES[rows].clone()
    shown[torch.rand(len(rows), generator=generator) < .5, :, 8:] = 128
    return shown


class Pull:
    "A term that reads the clean pictures, and kills the process after so many steps."
    def __init__(self, network, kill=None): self.network, self.kill, self.clean = network, kill, []

    def __call__(self, embeddings, rows, clean):
        if self.kill is not None and len(self.clean) == self.kill: raise KeyboardInterrupt
        self.clean.append(clean)
        return {"pull": .1 * (1 - F.cosine_similarity(embeddings, clean.flatten(1)[:, :16]).mean())}


def state(*modules): return torch.cat([v.double().flatten() for m in modules for v in m.state_dict().values()])


@pytest.mark.parametrize("kill", (4, 8, 14))
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, kill):
    network, arc = made()
    rows = train_identity(network, arc, IMAGES, LABELS, show=covered, extra=Pull(network), **SETTINGS)
    other, other_arc = made()
    with pytest.raises(KeyboardInterrupt):
        train_identity(other, other_arc, IMAGES, LABELS, show=covered, extra=Pull(other, kill), folder=tmp_path,
                       **SETTINGS)
    other, other_arc = made()
    with torch.no_grad(): other_arc.weight += 1  # what is lost with the process
    torch.rand(7)
    again = train_identity(other, other_arc, IMAGES, LABELS, show=covered, extra=Pull(other), folder=tmp_path,
                           **SETTINGS)
    assert torch.equal(state(network, arc), state(other, other_arc))
    assert torch.equal(arc.prototypes, other_arc.prototypes)
    assert rows.drop(columns="seconds").equals(again.drop(columns="seconds"))


def test_a_finished_run_is_read_and_not_trained_again(tmp_path):
    network, arc = made()
    rows = train_identity(network, arc, IMAGES, LABELS, folder=tmp_path, **SETTINGS)
    other, other_arc = made()
    again = train_identity(other, other_arc, IMAGES, LABELS, extra=Pull(other, kill=0), folder=tmp_path, **SETTINGS)
    assert torch.equal(state(network, arc), state(other, other_arc)) and rows.equals(again)


def test_another_network_in_the_folder_is_refused(tmp_path):
    train_identity(*made(), IMAGES, LABELS, folder=tmp_path, **SETTINGS)
    with pytest.raises(StoreError, match="another kind of run"):
        train_identity(iresnet("tiny", 16, 8), head("arcface", 8, 4), IMAGES, LABELS, folder=tmp_path, **SETTINGS)


def test_the_teachers_picture_is_clean_and_drawn_alike():
    network, arc = made()
    plain, masked = Pull(network), Pull(network)
    train_identity(network, arc, IMAGES, LABELS, extra=plain, **SETTINGS)
    train_identity(*made(), IMAGES, LABELS, show=covered, extra=masked, **SETTINGS)
    assert len(plain.clean) == 18 and all(torch.equal(a, b) for a, b in zip(plain.clean, masked.clean))


def test_rates_terms_and_the_average():
    network, arc = made()
    rows = train_identity(network, arc, IMAGES, LABELS, extra=Pull(network), **SETTINGS)
    assert rows["rate"].tolist() == pytest.approx([.05, .025, .0125]) and not network.training and not arc.training
    np.testing.assert_allclose(rows["loss"], rows["identity"] + rows["pull"], rtol=1e-6)
    last, last_arc = made()
    train_identity(last, last_arc, IMAGES, LABELS, extra=Pull(last), average=0., **SETTINGS)
    assert not torch.equal(state(network), state(last)), "the average is the last network"


def test_only_the_networks_gradient_is_clipped():
    network, arc = made("arcface")
    before = network.stem[0].weight.detach().clone(), arc.weight.detach().clone()
    train_identity(network, arc, IMAGES, LABELS, epochs=1, lr=.05, seed=0, decay=0., average=0., clip=1e-6)
    assert (network.stem[0].weight - before[0]).norm() < 1e-6 < (arc.weight - before[1]).norm()


@pytest.mark.parametrize("wrong", (dict(epochs=0), dict(lr=0.), dict(lr="fast"), dict(batch=0), dict(clip=0.),
                                   dict(average=1.)))
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError): train_identity(*made(), IMAGES, LABELS, **(SETTINGS | wrong))


def test_pictures_and_labels_must_belong_together():
    with pytest.raises(DataError): train_identity(*made(), IMAGES.float(), LABELS, **SETTINGS)
    with pytest.raises(DataError): train_identity(*made(), IMAGES, LABELS[:-1], **SETTINGS)


@pytest.mark.parametrize("name", ("softmax", "cosface"))
def test_other_heads_learn(name):
    rows = train_identity(*made(name), IMAGES, LABELS, **(SETTINGS | dict(epochs=6)))
    assert rows["identity"].iloc[-1] < rows["identity"].iloc[0]
