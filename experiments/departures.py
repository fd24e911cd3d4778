"""In what a run departs: from the authors' code under preset `authors`, and from its preset."""

from dataclasses import asdict

from experiments.settings import PIXELS, preset


def departures(settings, data):
    """Where preset `authors` is not the protocol of the authors' code, on this data set: sentences, without what the
    settings themselves say. The report's preset is its text, and has none."""
    if settings.preset != "authors":
        return ()
    found = []
    network, keyed = settings.network, settings.form == "complex"
    if network == "vgg16":
        found.append("their code has no VGG-16: the report's cut, with the settings of their LeNet")
    if settings.standardise and data not in PIXELS:
        found.append("pixels at mean .5 and deviation .5: their code has no such data set")
    found.append("a tenth of the training images chooses the epoch kept")
    if data == "celeba":
        found.append("the official validation images are learned from, where theirs adds them to the test images")
        found.append("no image is flipped in the test, where theirs are at random")
    if data == "celeba" and settings.labels == "public":
        found.append("their 30 public attributes have generator rate 5e-3 and critic rate 1e-4")
    if keyed and settings.adversary != "off":
        found.append("the critic reads both images of a pair and the fakes' real part, theirs one of each by chance")
    if keyed and network.startswith("resnet") and not settings.batch_statistics:
        found.append("running statistics in the processor's norms, where theirs has the batch's in inference too")
    if keyed and not settings.detach_fakes and settings.adversary != "off":
        found.append("gradients flow through the fakes, where theirs are detached (detach_fakes)")
    found += (
        [
            "attack 1 guesses the angle with a network, theirs searches 1,000 rotations with the defence's critic",
            "attack 1 turns back by the angle it found, theirs by the wrong sign (wrong_sign)",
            "attack 1's U-Net learns on features turned back by the guess, theirs on clean features",
            "attack 2's U-Net reads both parts, theirs one at a time (single_part)",
            "the U-Nets' target is 0..1, theirs 255 times that less 127",
        ]
        if keyed
        else ["the U-Net's target is 0..1, theirs 255 times that less 127"]
    )
    if data == "cifar100" and network.startswith("resnet"):
        found.append("the U-Nets' rate does not fall, theirs does, logarithmically")
    return tuple(found)


def departure_lines(settings, data, indent=""):
    """The same under a heading, a line each; none where there is nothing to say."""
    found = departures(settings, data)
    return [f"{indent}{line}" for line in ("Not as the authors' code:", *(f"- {d}" for d in found)) if found]


def differing(settings, data):
    """{name: value} of the settings that are not the preset's own for this network and data set; the network and its
    form, which every result names, left out."""
    own, named = preset(settings.preset, data, settings.network), ("network", "form")
    return {k: v for k, v in asdict(settings).items() if k not in named and v != getattr(own, k)}


def differing_text(settings, data):
    """The same as it is typed after `--set`, with commas between; empty where nothing differs."""

    def typed(value):
        if isinstance(value, bool):
            return str(value).lower()
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return ", ".join(f"{name}={typed(value)}" for name, value in differing(settings, data).items())
