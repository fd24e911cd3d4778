"""Presets: one frozen dataclass each, and one value overridden at a time by `--set name=value`."""

from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches


@dataclass(frozen=True)
class Report:
    """The seed report as its text describes it, mended where its code was at fault. LeNet on CIFAR-10."""

    # the network
    generator: str = "relu"  # the encoder's end: relu, or linear for one more 3x3 convolution
    weights: str = "complex"  # complex, or real: one kernel for both parts
    c: str = "1.0"  # modulus from which a feature passes unchanged, or channel_mean
    detach_b: bool = False  # no gradient through the other image
    # the data: images used of each role, 0 for all; each set halved between defender and attacker, or shared
    train_images: int = 0
    test_images: int = 0
    halves: bool = True
    # the classifier
    epochs: int = 100
    batch: int = 128
    optimiser: str = "adam"  # adam, or sgd with momentum
    lr: float = 5e-4
    momentum: float = 0.9  # sgd
    weight_decay: float = 0.0
    milestones: tuple = ()  # epochs at which the rate is divided by 10
    # adversarial training of the encoder
    adversary: str = "penalty"  # penalty, clip, or off
    penalty: float = 10.0  # weight of the gradient penalty
    clip: float = 0.01  # the critic's weights stay within plus and minus this
    k: int = 8  # one real feature among k; k - 1 fakes
    critic_lr: float = 5e-4  # clip uses RMSprop at clip_lr instead
    generator_lr: float = 5e-4
    clip_lr: float = 5e-5
    schedule: str = "together"  # together: task and critic each batch, generator every fifth; or 1:1:7 in turn
    critic_every: int = 1
    generator_every: int = 5
    # the adversary
    attack_epochs: int = 100
    attack_batch: int = 32
    attack_lr: float = 5e-4
    attack_decay: bool = False  # let the U-Nets' rate fall linearly to 0
    unet_width: int = 64
    angle_epochs: int = 100
    angle_batch: int = 32
    angle_lr: float = 5e-4
    angle_loss: str = "circular"  # circular, or raw: the report's unwrapped L1

    preset = "report"
    departures = ()


@dataclass(frozen=True)
class Authors(Report):
    """The protocol of the authors' 2022 code, mended likewise, as far as this engine carries it; see `departures`."""

    weights: str = "real"
    halves: bool = False
    epochs: int = 50
    batch: int = 100
    optimiser: str = "sgd"
    lr: float = 0.01
    weight_decay: float = 5e-4
    milestones: tuple = (20, 40)
    adversary: str = "clip"
    k: int = 2
    clip_lr: float = 1e-4
    critic_every: int = 50
    generator_every: int = 1
    attack_epochs: int = 30
    attack_batch: int = 100
    attack_lr: float = 1e-4

    preset = "authors"
    departures = (
        "the report's LeNet instead of the 32/64/128-channel one",
        "b is another image of the batch and is not decoded",
        "no crop and flip",
        "c = 1 instead of the mean modulus",
        "uniform angles for the fakes",
        "the report's angle predictor and U-Net on both parts as adversaries",
    )


@dataclass(frozen=True)
class Fast(Report):
    """For demonstrations and smoke tests: the report's protocol at small batches, with a narrow U-Net. Digits."""

    epochs: int = 60
    batch: int = 32
    lr: float = 1e-3
    attack_epochs: int = 30
    unet_width: int = 8
    angle_epochs: int = 60
    attack_lr: float = 2e-3
    attack_decay: bool = True
    angle_lr: float = 1e-3

    preset = "fast"


@dataclass(frozen=True)
class FastCifar10(Fast):
    """`fast` where there are more images: a declared subset and fewer passes over it."""

    train_images: int = 6000
    test_images: int = 1000
    # At the task's own rate the generator shrinks the encoder's features to nothing, since features without a
    # modulus have no critic gap: 89 % error, 97 % zeros. At 5e-5: 62 % after five epochs, as without a WGAN (64 %).
    generator_lr: float = 5e-5
    epochs: int = 20
    attack_epochs: int = 12
    angle_epochs: int = 20


CHOICES = {
    "generator": ("relu", "linear"),
    "weights": ("complex", "real"),
    "optimiser": ("adam", "sgd"),
    "adversary": ("penalty", "clip", "off"),
    "schedule": ("together", "1:1:7"),
    "angle_loss": ("circular", "raw"),
}
MAY_BE_ZERO = ("train_images", "test_images", "momentum", "weight_decay", "penalty")


def preset(name, data="digits"):
    """The preset's settings; `fast` has its own sizes for CIFAR-10."""
    if name == "fast":
        return FastCifar10() if data == "cifar10" else Fast()
    found = {"report": Report, "authors": Authors}.get(name)
    if found is None:
        raise ValueError(f"`preset` must be report, authors or fast, got {name!r}")
    return found()


def override(settings, assignments):
    """Settings with each `name=value` of a command line applied, in order, and the result checked.

    Raises:
        ValueError: a name that no setting has (the nearest one is named), or a value that the setting cannot take.
    """
    kinds = {f.name: type(getattr(settings, f.name)) for f in fields(settings)}
    changes = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name, text = name.strip(), text.strip()
        if not equals:
            raise ValueError(f"`--set` takes name=value, got {assignment!r}")
        if name not in kinds:
            near = get_close_matches(name, kinds, n=1, cutoff=0.0)[0]
            raise ValueError(f"`--set` knows no setting {name!r}; the nearest is {near!r}")
        changes[name] = _parse(name, kinds[name], text)
    return check(replace(settings, **changes))


def check(settings):
    """The settings themselves, or a ValueError that names the one at fault, what it was, and what it may be."""
    for name, allowed in CHOICES.items():
        if getattr(settings, name) not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {getattr(settings, name)!r}")
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        low_enough = value >= 0 if field.name in MAY_BE_ZERO else value > 0
        if not low_enough or value == float("inf"):
            bound = "at least 0" if field.name in MAY_BE_ZERO else "above 0"
            raise ValueError(f"`{field.name}` must be {bound} and finite, got {value}")
    if settings.k < 2:
        raise ValueError(f"`k` must be at least 2 (one real feature and a fake), got {settings.k}")
    if settings.batch < 2:
        raise ValueError(f"`batch` must be at least 2, since each image hides behind another, got {settings.batch}")
    for name in ("attack_batch", "angle_batch"):
        if getattr(settings, name) < 2:
            raise ValueError(
                f"`{name}` must be at least 2, since each image hides behind another, got {getattr(settings, name)}"
            )
    modulus(settings)
    return settings


def modulus(settings):
    """The magnitude ReLU's c: a number above 0, or `'channel_mean'`."""
    if settings.c == "channel_mean":
        return settings.c
    try:
        c = float(settings.c)
    except ValueError:
        c = -1.0
    if not 0 < c < float("inf"):
        raise ValueError(f"`c` must be a number above 0 or channel_mean, got {settings.c!r}")
    return c


def as_dict(settings):
    """Plain values for a file: what a run's id is made from."""
    return {"preset": settings.preset, **asdict(settings)}


def _parse(name, kind, text):
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"`{name}` must be true or false, got {text!r}")
        return text.lower() == "true"
    if kind is tuple:
        try:
            return tuple(int(part) for part in text.split(",") if part.strip())
        except ValueError:
            raise ValueError(f"`{name}` must be epochs with commas between them, got {text!r}") from None
    try:
        return kind(text)
    except ValueError:
        what = {int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"`{name}` must be {what}, got {text!r}") from None
