"""Presets: one frozen dataclass each, and one value overridden at a time by `--set name=value`."""

from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches

from models.choices import CUTS, FORMS, GENERATORS, NETWORKS

SETS = ("digits", "cifar10", "cifar100", "celeba", "cub", "folder")


@dataclass(frozen=True)
class Report:
    """The seed report as its text describes it, mended where its code was at fault."""

    # the network
    network: str = "lenet"  # lenet, resnet20-alpha to resnet110-beta, vgg16, alexnet
    form: str = "complex"  # original, layers, noisy, complex
    cut: str = "report"  # where a ResNet's or AlexNet's encoder ends: report, authors
    generator: str = (
        "relu"  # the encoder's end: relu; linear, one more 3x3 convolution; norm, that and batch norm; wide
    )
    gamma: float = 0.5  # size of the noise of form noisy
    weights: str = "complex"  # complex, or real: one kernel for both parts
    c: str = "auto"  # modulus from which a feature passes unchanged, channel_mean or mean; auto: see `modulus`
    detach_modulus: bool = False  # the ReLU's factor and the norm's statistic are constants in the backward pass
    norm_power: float = 1.0  # mean |f|² behind a norm
    init: str = "default"  # torch's, or normal: N(0, 1) for each kernel outside the generator
    detach_b: bool = False  # no gradient through the other image
    b: str = "image"  # image: another of the batch; both: in pairs, both decoded; noise; bank: of stored features
    bank: int = 100  # images whose features are stored
    swap: bool = False  # a and b change places at random, and the decoder knows
    # the data: images used of each role, 0 for all; each set halved between defender and attacker, or shared
    train_images: int = 0
    test_images: int = 0
    halves: bool = True
    labels: str = "default"  # CIFAR-100: fine, coarse; CelebA: all, public, private
    side: int = 224  # pixels of pictures that are scaled: CelebA, CUB-200-2011, a folder
    standardise: bool = False  # pixels by the mean and deviation of CIFAR's channels instead of .5 and .5
    augment: bool = False  # crop and flip, each sample with its own draw
    crop: bool = True  # false: flip alone
    # the classifier
    epochs: int = 100
    batch: int = 128
    optimiser: str = "adam"  # adam, or sgd with momentum
    lr: float = 5e-4
    momentum: float = 0.9  # sgd
    weight_decay: float = 0.0
    milestones: tuple = ()  # epochs at which the task's and the generator's rates are divided by 10
    precision: str = "fp32"  # fp32; tf32, bf16 or fp16 (with a GradScaler) in the classifier's passes
    # adversarial training of the encoder
    adversary: str = "penalty"  # penalty, clip, or off
    critic: str = "report"  # the report's, without a norm; or wide: the authors', with batch norm
    penalty: float = 10.0  # weight of the gradient penalty
    clip: float = 0.01  # the critic's weights stay within plus and minus this
    k: int = 8  # one real feature among k; k - 1 fakes
    fakes: str = "uniform"  # their angles: uniform, or quarter: an odd number of eighths of a turn from the key's
    critic_lr: float = 5e-4  # Adam's; clip uses RMSprop at rates of its own
    generator_lr: float = 5e-4
    clip_critic_lr: float = 5e-5
    clip_generator_lr: float = 5e-5
    generator_loss: str = "gap"  # what the encoder lowers: gap, E[D(a)] - E[D(a')]; or fakes, -E[D(a')]
    generator_step: str = "own"  # on the loss above alone; or summed: both optimisers step on its and the task's sum
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
    # faults of published code, each off in every preset: for the experiment that explains a published number
    batch_statistics: bool = False  # the processor's norms use the batch's statistics in inference too
    detach_fakes: bool = False  # no gradient through the fakes: what is left of the encoder's adversarial gradient
    wrong_sign: bool = False  # attack 1 turns by the angle it found once more, and not back
    single_part: bool = False  # attack 2's U-Net is shown the real part alone
    shared_kernels: bool = False  # the second to the fifth of a U-Net block's convolutions are one and the same

    preset = "report"


@dataclass(frozen=True)
class Authors(Report):
    """The protocol of the authors' 2022 code, mended likewise, as far as this engine carries it: `departures.py` has
    the rest. LeNet's; `AUTHORS` has what other networks have."""

    cut: str = "authors"
    generator: str = "wide"
    weights: str = "real"
    detach_modulus: bool = True
    norm_power: float = 2.0
    b: str = "both"
    fakes: str = "quarter"
    standardise: bool = True
    augment: bool = True
    halves: bool = False
    epochs: int = 50
    batch: int = 100
    optimiser: str = "sgd"
    lr: float = 0.01
    weight_decay: float = 5e-4
    milestones: tuple = (20, 40)
    adversary: str = "clip"
    critic: str = "wide"
    k: int = 2
    clip_critic_lr: float = 1e-4
    clip_generator_lr: float = 1e-4
    generator_loss: str = "fakes"
    generator_step: str = "summed"
    critic_every: int = 50
    generator_every: int = 1
    attack_epochs: int = 30
    attack_batch: int = 100
    attack_lr: float = 1e-4

    preset = "authors"


AUTHORS = {
    "resnet": {
        "init": "normal",
        "lr": 0.1,
        "epochs": 100,
        "milestones": (40, 80),
        "clip_critic_lr": 5e-4,
        "clip_generator_lr": 1e-3,
    },
    "alexnet": {
        "epochs": 10,
        "milestones": (5, 7),
        "clip_critic_lr": 1e-5,
        "clip_generator_lr": 1e-3,
        "standardise": False,
        "crop": False,
        "attack_epochs": 5,
        "attack_batch": 12,
    },
    "vgg16": {"standardise": False},  # paper silent, and the authors' code has none: as LeNet's
    "lenet": {},
}
AUTHORS_CIFAR100 = {  # of a ResNet: what their property inference is measured on
    "labels": "coarse",
    "epochs": 200,
    "milestones": (100, 150),
    "clip_critic_lr": 1e-5,
    "clip_generator_lr": 1e-5,
    "critic_every": 25,
    "attack_lr": 1e-3,
}


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


PRESETS = {"report": Report, "authors": Authors, "fast": Fast}
# mean and deviation of each channel, pixels 0..1, as the authors' code has them; any other set's are .5 and .5
PIXELS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276)),
}
CHOICES = {
    "network": NETWORKS,
    "form": FORMS,
    "cut": CUTS,
    "init": ("default", "normal"),
    "precision": ("fp32", "tf32", "bf16", "fp16"),
    "b": ("image", "both", "noise", "bank"),
    "generator": GENERATORS,
    "generator_loss": ("gap", "fakes"),
    "generator_step": ("own", "summed"),
    "weights": ("complex", "real"),
    "optimiser": ("adam", "sgd"),
    "adversary": ("penalty", "clip", "off"),
    "critic": ("report", "wide"),
    "schedule": ("together", "1:1:7"),
    "angle_loss": ("circular", "raw"),
    "fakes": ("uniform", "quarter"),
}
MAY_BE_ZERO = ("train_images", "test_images", "momentum", "weight_decay", "penalty")


# To train within 7 GiB, counted on the meta device: the complex VGG-16 at 128 pictures of 224x224 takes 17, at 32 6.
FITTING = {"vgg16": {"batch": 32}}


def preset(name, data="digits", network="lenet"):
    """The preset's settings; `fast` has its own sizes for CIFAR-10, `authors` its own protocol for each network, and
    for a ResNet on CIFAR-100."""
    if name not in PRESETS:
        raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}, got {name!r}")
    if name == "fast" and data == "cifar10":
        return FastCifar10()
    if name != "authors":
        return replace(PRESETS[name](), **FITTING.get(network, {}))
    kind = "resnet" if network.startswith("resnet") else network
    own = (
        FITTING.get(network, {})
        | AUTHORS.get(kind, {})
        | (AUTHORS_CIFAR100 if kind == "resnet" and data == "cifar100" else {})
    )
    return replace(Authors(), **own)


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
    if 0 < settings.train_images < 15:  # a tenth of them, at least two, is for validation
        raise ValueError(f"`train_images` must be at least 15, or 0 for all, got {settings.train_images}")
    if settings.test_images == 1:
        raise ValueError("`test_images` must be at least 2, since each image hides behind another, got 1")
    if settings.k < 2:
        raise ValueError(f"`k` must be at least 2 (one real feature and a fake), got {settings.k}")
    if settings.batch < 2:
        raise ValueError(f"`batch` must be at least 2, since each image hides behind another, got {settings.batch}")
    for name in ("attack_batch", "angle_batch"):
        if getattr(settings, name) < 2:
            raise ValueError(
                f"`{name}` must be at least 2, since each image hides behind another, got {getattr(settings, name)}"
            )
    if settings.critic == "wide" and settings.adversary == "penalty":
        raise ValueError(
            "`critic` must be report where `adversary` is penalty, got wide: its batch norm makes one sample's score "
            "depend on the others"
        )
    if settings.generator_step == "summed":
        _check_summed(settings)
    modulus(settings)
    return settings


def _check_summed(settings):
    for name, wanted in (("schedule", "together"), ("generator_every", 1)):
        if getattr(settings, name) != wanted:
            raise ValueError(
                f"`{name}` must be {wanted} where `generator_step` is summed, got {getattr(settings, name)}: task and "
                "generator step on one gradient"
            )
    if settings.precision == "fp16":
        raise ValueError("`precision` must not be fp16 where `generator_step` is summed: its scaler serves one step")


def modulus(settings):
    """The magnitude ReLU's c: a number above 0, `'channel_mean'` or `'mean'`.

    `auto`: 1, as the paper has it for ResNets and the report for LeNet; VGG-16 and AlexNet, which have no norm to keep
    moduli near 1, the channel mean, the paper's own for them; the authors' code has the mean of everything there.
    """
    if settings.c == "auto":
        if settings.network.startswith("resnet") or settings.network == "lenet" and settings.cut == "report":
            return 1.0
        return "mean" if settings.cut == "authors" else "channel_mean"
    if settings.c in ("channel_mean", "mean"):
        return settings.c
    try:
        c = float(settings.c)
    except ValueError:
        c = -1.0
    if not 0 < c < float("inf"):
        raise ValueError(f"`c` must be auto, channel_mean, mean or a number above 0, got {settings.c!r}")
    return c


def as_dict(settings):
    """Plain values for a file: what a run's id is made from."""
    return {"preset": settings.preset, **asdict(settings)}


def from_dict(kept):
    """The settings of a run's file; what the run does not depend on, and the file does not hold, is the preset's."""
    base = preset(kept["preset"], kept["data"], kept["network"])
    names = {f.name for f in fields(base)}
    return replace(base, **{k: tuple(v) if isinstance(v, list) else v for k, v in kept.items() if k in names})


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
