"""The split, the embedded digits, and what is said of a CIFAR-10 that is missing, damaged or another."""

import pickle
import urllib.error
from itertools import combinations

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from experiments.data import DataError, Images, load
from experiments.data import cifar as readers
from experiments.data.deal import deal, stratified
from experiments.data.images import Source
from experiments.settings import Fast, override


@pytest.fixture(scope="module")
def digits():
    return load("digits", Fast())


@pytest.fixture
def numbered():
    """Images that are their own number, so that parts can be compared."""

    def make(n, first):
        return Images(torch.arange(first, first + n).float().view(n, 1, 1, 1).expand(n, 3, 2, 2), torch.arange(n) % 4)

    return Source(make(80, 0), make(40, 1000), "numbers")


def numbers(images):
    return set(images.pixels[:, 0, 0, 0].int().tolist())


def test_digits_are_images_of_the_declared_kind(digits):
    assert digits.classes == 10
    sizes = [[len(p) for p in (s.train, s.val, s.test)] for s in (digits.defender, digits.attacker)]
    assert sizes == [[647, 72, 180], [647, 72, 179]]
    pixels = digits.defender.train.pixels
    assert pixels.shape == (647, 3, 32, 32)
    assert pixels.dtype == torch.float32
    assert pixels.min() == 0
    assert pixels.max() == 1
    assert torch.equal(pixels[:, 0], pixels[:, 2])


def test_digits_are_stratified(digits):
    for side in (digits.defender, digits.attacker):
        for part in (side.train, side.val, side.test):
            counts = part.labels.bincount(minlength=10).tolist()
            assert max(counts) - min(counts) <= max(2, 0.06 * len(part))


def test_the_split_is_fixed(digits):
    assert load("digits", Fast()).fingerprint == digits.fingerprint
    assert load("digits", override(Fast(), ["train_images=100"])).fingerprint != digits.fingerprint


def test_no_image_has_two_owners(numbered):
    dealt = deal("numbered", numbered, Fast())
    parts = [p for s in (dealt.defender, dealt.attacker) for p in (s.train, s.val, s.test)]
    assert [len(p) for p in parts] == [36, 4, 20] * 2
    assert all(not numbers(one) & numbers(other) for one, other in combinations(parts, 2))
    assert set.union(*map(numbers, parts)) == set(range(80)) | set(range(1000, 1040))


def test_without_halves_both_have_all(numbered):
    dealt = deal("numbered", numbered, override(Fast(), ["halves=false"]))
    assert numbers(dealt.defender.train) == numbers(dealt.attacker.train)
    assert len(dealt.defender.test) == 40


def test_a_subset_is_declared_and_stratified(numbered):
    dealt = deal("numbered", numbered, override(Fast(), ["train_images=20", "test_images=8"]))
    assert [len(p) for p in (dealt.defender.train, dealt.defender.val, dealt.defender.test)] == [18, 2, 8]
    assert dealt.defender.test.labels.bincount().tolist() == [2, 2, 2, 2]
    assert dealt.notes == (
        "a subset: 20 of each party's 40 train images",
        "a subset: 8 of each party's 20 test images",
    )
    with pytest.raises(DataError, match="`train_images` must be at most 40, .* got 41"):
        deal("numbered", numbered, override(Fast(), ["train_images=41"]))


def test_stratified_takes_exactly_its_share():
    labels = torch.tensor([0] * 7 + [1] * 5 + [2] * 3)
    first, rest = stratified(labels, 0.5, "test")
    assert len(first) == 8
    assert sorted(first.tolist() + rest.tolist()) == list(range(15))


def test_unknown_data():
    with pytest.raises(DataError, match="`data` must be one of digits, .*, got 'mnist'"):
        load("mnist", Fast())


@pytest.fixture
def cifar(tmp_path):
    """A folder in torchvision's layout with 20 random images a batch, whose checksums cannot be the official ones."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        content = {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    return tmp_path


def test_a_differing_checksum_is_refused(cifar):
    with pytest.raises(DataError, match="checksum of data_batch_1, .*, batches.meta in .* --accept-checksum-mismatch"):
        load("cifar10", Fast(), cifar)


def test_a_differing_checksum_is_accepted_and_noted(cifar):
    found = load("cifar10", Fast(), cifar, accept_checksum_mismatch=True)
    assert [len(p) for p in (found.defender.train, found.defender.val, found.defender.test)] == [45, 5, 10]
    assert "checksum differs from the official one was accepted: data_batch_1" in found.notes[0]
    assert 0 <= found.defender.train.pixels.min() < 0.01 < 0.99 < found.defender.train.pixels.max() <= 1


def test_the_official_checksum_passes_without_a_note(cifar, monkeypatch):
    official = dict(CIFAR10.train_list + CIFAR10.test_list) | {"batches.meta": CIFAR10.meta["md5"]}
    monkeypatch.setattr(readers, "_md5", lambda path: official[path.name])
    assert load("cifar10", Fast(), cifar).notes == ()


def test_a_missing_file_is_named(cifar):
    (cifar / CIFAR10.base_folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match="no file data_batch_3 in .*`--data-root` must be the folder that holds"):
        load("cifar10", Fast(), cifar, accept_checksum_mismatch=True)


def test_a_damaged_file_is_one_line(cifar):
    (cifar / CIFAR10.base_folder / "data_batch_2").write_bytes(b"\x80\x04 not a pickle")
    with pytest.raises(DataError, match="cannot be read as CIFAR-10 .*; get a fresh copy") as caught:
        load("cifar10", Fast(), cifar, accept_checksum_mismatch=True)
    assert "\n" not in str(caught.value)


def test_no_network_is_said_plainly(tmp_path, monkeypatch):
    def unreachable(self):
        raise urllib.error.URLError("name resolution failed")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CIFAR10, "download", unreachable)
    with pytest.raises(
        DataError, match="could not be downloaded .*name resolution failed.*--data-root DIR.*no network"
    ):
        load("cifar10", Fast())
    assert list((tmp_path / "data").iterdir()) == []


def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(self):
        (tmp_path / "data" / ".cifar10.part" / "half.tar.gz").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CIFAR10, "download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load("cifar10", Fast())
    assert list((tmp_path / "data").iterdir()) == []
