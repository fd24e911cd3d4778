"""Presets and what `--set` refuses."""

from dataclasses import FrozenInstanceError, fields

import pytest

from experiments.departures import departures
from experiments.settings import (
    NETWORKS,
    PRESETS,
    Authors,
    Fast,
    FastCifar10,
    Report,
    as_dict,
    check,
    modulus,
    override,
    preset,
)


def test_presets_by_name():
    assert preset("report") == Report()
    assert preset("authors") == Authors()
    assert preset("fast") == Fast()
    assert preset("fast", "cifar10") == FastCifar10()
    with pytest.raises(ValueError, match="`preset` must be one of report, authors, fast, got 'quick'"):
        preset("quick")


@pytest.mark.parametrize("kind", [Report, Authors, Fast, FastCifar10])
def test_every_preset_can_be(kind):
    assert check(kind()) == kind()
    assert as_dict(kind())["preset"] == kind.preset
    with pytest.raises(FrozenInstanceError):
        kind().epochs = 1


def test_presets_differ_in_values_and_not_in_names():
    assert (
        {f.name for f in fields(Authors)} == {f.name for f in fields(Report)} == {f.name for f in fields(FastCifar10)}
    )


def test_faults_of_published_code_are_off_everywhere():
    faults = ("batch_statistics", "detach_fakes", "wrong_sign", "single_part", "shared_kernels")
    for name in PRESETS:
        for network in NETWORKS:
            assert not any(getattr(preset(name, "cifar100", network), fault) for fault in faults)


def test_departures_are_the_authors_and_of_what_is_run():
    for name in ("report", "fast"):
        assert departures(preset(name), "cifar10") == ()

    def said(network, data, *changes):
        return "\n".join(departures(override(preset("authors", data, network), [f"network={network}", *changes]), data))

    resnet = said("resnet56-alpha", "cifar10")
    for part in ("the critic reads", "running statistics", "detach_fakes", "wrong_sign", "single_part"):
        assert part in resnet
    assert "pixels at mean" not in resnet and "pixels at mean" in said("lenet", "digits")
    assert "running statistics" not in said("lenet", "cifar10")  # which has no norm
    assert "critic" not in said("lenet", "cifar10", "form=original")
    assert "30 public attributes" in said("alexnet", "celeba", "labels=public")
    assert "logarithmically" in said("resnet56-alpha", "cifar100")


def test_set_changes_one_value_of_its_kind():
    changed = override(Report(), ["epochs=3", "lr = 1e-2", "halves=false", "milestones=2,4", "adversary=clip"])
    assert (changed.epochs, changed.lr, changed.halves, changed.milestones) == (3, 0.01, False, (2, 4))
    assert changed.adversary == "clip"
    assert changed.batch == Report().batch


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epoch=3", "no setting 'epoch'; the nearest is 'epochs'"),
        ("unet-width=3", "no setting 'unet-width'; the nearest is 'unet_width'"),
        ("atack_lr=1", "no setting 'atack_lr'; the nearest is 'attack_lr'"),
        ("epochs", "takes name=value, got 'epochs'"),
        ("epochs=many", "`epochs` must be a whole number, got 'many'"),
        ("epochs=2.5", "`epochs` must be a whole number, got '2.5'"),
        ("epochs=0", "`epochs` must be above 0 and finite, got 0"),
        ("lr=nan", "`lr` must be above 0 and finite, got nan"),
        ("lr=inf", "`lr` must be above 0 and finite, got inf"),
        ("train_images=-1", "`train_images` must be at least 0 and finite, got -1"),
        ("halves=1", "`halves` must be true or false, got '1'"),
        ("milestones=a", "`milestones` must be epochs with commas"),
        ("adversary=gan", "`adversary` must be one of penalty, clip, off, got 'gan'"),
        ("k=1", "`k` must be at least 2"),
        ("batch=1", "`batch` must be at least 2"),
        ("attack_batch=1", "`attack_batch` must be at least 2"),
        ("c=0", "`c` must be auto, channel_mean, mean or a number above 0, got '0'"),
        ("c=median", "`c` must be auto, channel_mean, mean or a number above 0, got 'median'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(assignment, message):
    with pytest.raises(ValueError, match=message):
        override(Fast(), [assignment])


def test_modulus():
    assert modulus(Report()) == 1.0
    assert modulus(override(Report(), ["c=channel_mean"])) == "channel_mean"


def test_the_modulus_of_each_network():
    wanted = {"lenet": (1.0, "mean"), "resnet56-beta": (1.0, 1.0), "vgg16": ("channel_mean", "mean")}
    for network, (report, authors) in wanted.items():
        assert modulus(override(Report(), [f"network={network}"])) == report
        assert modulus(override(Authors(), [f"network={network}"])) == authors


def test_the_authors_have_rates_for_each_network():
    assert preset("authors", network="resnet20-alpha").lr == 0.1
    assert preset("authors", network="resnet20-alpha").milestones == (40, 80)
    assert preset("authors", network="alexnet").epochs == 10
    rates = [preset("authors", network=n) for n in ("lenet", "resnet56-alpha", "alexnet")]
    assert [r.clip_critic_lr for r in rates] == [1e-4, 5e-4, 1e-5]
    assert [r.clip_generator_lr for r in rates] == [1e-4, 1e-3, 1e-3]
    assert preset("report", network="resnet20-alpha") == Report()


def test_the_authors_flip_alexnets_pictures_and_have_cifar100s_own_protocol():
    alexnet = preset("authors", "celeba", "alexnet")
    assert (alexnet.augment, alexnet.crop, alexnet.standardise) == (True, False, False)
    assert (alexnet.attack_epochs, alexnet.attack_batch) == (5, 12)
    resnet = preset("authors", "cifar100", "resnet56-alpha")
    assert (resnet.epochs, resnet.milestones, resnet.critic_every, resnet.labels) == (200, (100, 150), 25, "coarse")
    assert resnet.clip_critic_lr == resnet.clip_generator_lr == 1e-5
    assert preset("authors", "cifar100").epochs == 50
