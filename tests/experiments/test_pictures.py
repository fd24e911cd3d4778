"""CelebA, CUB-200-2011, folders of images and CIFAR-100 on made-up files; the file of decoded pictures; data check."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR100

from experiments import steps
from experiments.__main__ import main
from experiments.data import DataError, load
from experiments.data.augment import MARGIN, crop_and_flip, draw
from experiments.data.inventory import inventory
from experiments.data.pictures import ATTRIBUTES, PRIVATE
from experiments.keys import Scheme
from experiments.seeds import generator
from experiments.settings import Fast, override, preset

PEOPLE = 10


def picture(path, number, size=(9, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), number, np.uint8)).save(path)


@pytest.fixture
def celeba(tmp_path):
    """40 images of 10 people, none of the official test partition; attribute i of image n is n's bit i % 6."""
    folder = tmp_path / "celeba"
    names = [f"{n:06d}.jpg" for n in range(1, 41)]
    for n, name in enumerate(names, 1):
        picture(folder / "img_align_celeba" / name, 3 * n)
    rows = [
        " ".join([name, *("1" if n >> (i % 6) & 1 else "-1" for i in range(40))]) for n, name in enumerate(names, 1)
    ]
    header = " ".join(f"attribute{i}" for i in range(40))
    (folder / "list_attr_celeba.txt").write_text("\n".join(["40", header, *rows]))
    (folder / "identity_CelebA.txt").write_text("\n".join(f"{name} {n % PEOPLE}" for n, name in enumerate(names)))
    (folder / "list_eval_partition.txt").write_text("\n".join(f"{name} 0" for name in names))
    return tmp_path


@pytest.fixture
def cub(tmp_path):
    folder = tmp_path / "CUB_200_2011"
    names = [f"{c:03d}.Bird/{c}_{i}.jpg" for c in (1, 2, 3) for i in range(8)]
    for n, name in enumerate(names):
        picture(folder / "images" / name, 10 * n)
    for file, of in (
        ("images.txt", lambda n: names[n]),
        ("image_class_labels.txt", lambda n: 1 + n // 8),
        ("train_test_split.txt", lambda n: int(n % 8 < 6)),
    ):
        (folder / file).write_text("".join(f"{n + 1} {of(n)}\n" for n in range(24)))
    return tmp_path


def grey(images):
    """The number each picture was painted with; a picture file rounds a little."""
    return images.unit().pixels.mean((1, 2, 3)) * 255


def read(name, root, *changes, accept=True):
    return load(name, override(Fast(), ["side=8", *changes]), root, accept)


def test_celeba_is_split_by_person(celeba):
    found = read("celeba", celeba)
    assert found.defender.train.labels.ndim == 2
    assert found.outputs == 40
    assert found.notes == (
        "a part of CelebA: 40 of 202,599 images",
        "no image of the official test partition is there: a fifth of the people was set apart instead",
    )
    parts = [getattr(s, p) for s in (found.defender, found.attacker) for p in ("train", "val", "test")]
    assert sum(map(len, parts)) == 40
    numbers = [(grey(part) / 3).round().int() - 1 for part in parts]
    people = [set((part % PEOPLE).tolist()) for part in numbers]
    assert sum(map(len, people)) == PEOPLE  # each is in one part
    labels = torch.cat([part.labels for part in parts])
    bits = (torch.cat(numbers) + 1)[:, None] >> (torch.arange(40) % 6) & 1
    assert torch.equal(labels, bits.float())


@pytest.mark.parametrize(("kind", "count"), [("public", 30), ("private", 10), ("all", 40)])
def test_celebas_attributes(celeba, kind, count):
    found = read("celeba", celeba, f"labels={kind}")
    assert found.outputs == count == len(ATTRIBUTES[kind])
    assert set(ATTRIBUTES["public"]).isdisjoint(PRIVATE)


def test_a_part_of_celeba_must_be_accepted(celeba):
    with pytest.raises(DataError, match="holds 40 of CelebA's 202,599 images; .* --accept-checksum-mismatch"):
        read("celeba", celeba, accept=False)


def test_cub_has_its_official_split(cub):
    found = read("cub", cub)
    assert [len(p) for s in (found.defender, found.attacker) for p in (s.train, s.val, s.test)] == [8, 1, 3] * 2
    test = torch.cat((grey(found.defender.test), grey(found.attacker.test))).div(10).round().int()
    assert sorted(test.tolist()) == [n for n in range(24) if n % 8 >= 6]
    assert found.notes == ("a part of CUB-200-2011: 3 of 200 classes",)


@pytest.mark.parametrize("halves", [False, True])
def test_a_folder_of_images(tmp_path, halves):
    for half in ("train", "test") if halves else (".",):
        for c, name in enumerate(("cat", "dog")):
            for i in range(10):
                picture(tmp_path / half / name / f"{i}.png", 100 * c + i)
    found = read("folder", tmp_path)
    assert found.outputs == 2
    everything = [p for s in (found.defender, found.attacker) for p in (s.train, s.val, s.test)]
    assert sum(map(len, everything)) == (40 if halves else 20)
    for part in everything:
        assert torch.equal(part.labels, (grey(part) > 50).long())


def test_a_folder_needs_two_classes(tmp_path):
    picture(tmp_path / "cat" / "1.png", 0)
    with pytest.raises(DataError, match="a folder of images for each of two or more classes, found 1"):
        read("folder", tmp_path)


def test_pictures_are_decoded_once(cub, monkeypatch):
    first = read("cub", cub)
    (kept,) = (cub / ".decoded").glob("*.npy")
    monkeypatch.setattr("experiments.data.cache._open", lambda *a: pytest.fail("decoded again"))
    again = read("cub", cub)
    assert again.fingerprint == first.fingerprint
    assert torch.equal(again.defender.train.unit().pixels, first.defender.train.unit().pixels)
    assert json.loads(kept.with_suffix(".json").read_text())["images"] == 24


def test_a_large_set_stays_on_disk(cub):
    part = read("cub", cub, "side=96").defender.train
    assert part.rows is not None
    some = part.batch(torch.tensor([3, 1]))
    assert torch.equal(some.pixels, part.unit().pixels[[3, 1]])
    assert torch.equal(part[torch.tensor([3, 1])].labels, some.labels)


def test_an_interrupted_decoding_leaves_nothing(cub, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.data.cache._open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read("cub", cub)
    assert list((cub / ".decoded").iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "images/001.Bird/1_3.jpg").write_bytes(b"no picture"), "1_3.jpg cannot be read as a picture"),
        (lambda f: (f / "images/001.Bird/1_3.jpg").unlink(), "no file .*1_3.jpg, which the lists of cub name"),
        (lambda f: (f / "images.txt").unlink(), "no CUB_200_2011/images.txt in"),
        (lambda f: (f / "train_test_split.txt").write_text("1 1\n"), "do not fit together"),
    ],
    ids=["damaged", "missing", "no-list", "short-list"],
)
def test_what_is_wrong_is_one_line(cub, spoil, said):
    spoil(cub / "CUB_200_2011")
    with pytest.raises(DataError, match=said) as caught:
        read("cub", cub)
    assert "\n" not in str(caught.value)


@pytest.fixture
def cifar100(tmp_path):
    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, _ in CIFAR100.train_list + CIFAR100.test_list:
        labels = {"fine_labels": [i % 100 for i in range(200)], "coarse_labels": [i % 20 for i in range(200)]}
        content = {"data": rng.integers(0, 256, (200, 3072), dtype=np.uint8), **labels}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list("ab")}))
    return tmp_path


@pytest.mark.parametrize(("kind", "count"), [("default", 100), ("fine", 100), ("coarse", 20)])
def test_cifar100_has_two_kinds_of_labels(cifar100, kind, count):
    assert read("cifar100", cifar100, f"labels={kind}").outputs == count


def test_labels_that_a_set_does_not_have(cifar100):
    with pytest.raises(DataError, match="`labels` of cifar100 must be one of fine, coarse, got 'public'"):
        read("cifar100", cifar100, "labels=public")
    with pytest.raises(DataError, match="`labels` of digits must be one of default, got 'fine'"):
        load("digits", override(Fast(), ["labels=fine"]))


def test_data_check(celeba, cub, cifar100, capsys):
    states = {name: (state, todo) for name, state, todo in inventory(celeba)}
    assert states["digits"][0] == "embedded"
    assert states["cifar10"][0].startswith("missing: ")
    assert states["cifar100"] == (
        "another copy: checksum of train, test, meta",
        "read with --accept-checksum-mismatch if you trust it, or get a fresh copy",
    )
    assert states["celeba"] == ("a part: 40 of 202,599 images", "read with --accept-checksum-mismatch")
    assert states["cub"] == ("a part: 24 of 11,788 images", "nothing")
    (cifar100 / CIFAR100.base_folder / "test").unlink()
    assert main(["data", "check", "--data-root", str(celeba)]) == 0
    out = capsys.readouterr().out
    assert "incomplete: no test" in out
    assert len(out.splitlines()) == 6


def test_each_image_is_cropped_and_flipped_by_its_own_draw():
    rng = generator(0)
    x = torch.rand(40, 3, 8, 8)
    rows, columns, flip = draw(40, rng)
    assert 0 <= rows.min() < rows.max() <= 2 * MARGIN
    assert 0 < flip.sum() < 40
    got = crop_and_flip(x, rows, columns, flip)
    for n in range(40):  # one image at a time, as it would be written without a batch
        padded = torch.nn.functional.pad(x[n], (MARGIN,) * 4)
        want = padded[:, rows[n] : rows[n] + 8, columns[n] : columns[n] + 8]
        assert torch.equal(got[n], want.flip(-1) if flip[n] else want)


def test_flip_alone_leaves_the_edges_where_they_are():
    settings = override(preset("report"), ["augment=true", "crop=false"])
    drawn, x = steps.draw(settings, Scheme(), 40, generator(0)), torch.rand(40, 3, 8, 8)
    got = crop_and_flip(x, drawn["rows"], drawn["columns"], drawn["flip"])
    assert torch.equal(got, torch.where(drawn["flip"].view(-1, 1, 1, 1), x.flip(-1), x))
    assert 0 < drawn["flip"].sum() < 40
