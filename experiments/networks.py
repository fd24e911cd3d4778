"""Which network a run's settings mean, with weights drawn for its seed."""

from experiments.seeds import initialising
from experiments.settings import modulus
from models.alexnet import alexnet
from models.critic import critic
from models.lenet import lenet, wide_lenet
from models.resnet import resnet
from models.vgg import vgg16


def build(settings, data, seed):
    """The network, untrained."""
    options = {"form": settings.form, "classes": data.outputs, "generator": settings.generator}
    options |= {"weights": settings.weights, "c": modulus(settings), "gamma": settings.gamma}
    options |= {"detach_b": settings.detach_b, "both": settings.b == "both"}
    with initialising(seed, "network", settings.form):
        if settings.network == "lenet":
            return (wide_lenet if settings.cut == "authors" else lenet)(**options)
        if settings.network == "vgg16":
            return vgg16(**options)
        if settings.network == "alexnet":
            return alexnet(cut=settings.cut, **options)
        kind, _, variant = settings.network.partition("-")
        return resnet(int(kind.removeprefix("resnet")), variant, cut=settings.cut, **options)


def critic_kind(settings):
    """The critic's shape, which the adversary's angle predictor has too."""
    return "lenet" if settings.network == "lenet" and settings.cut == "report" else "residual"


def build_critic(settings, features, seed):
    """The WGAN's critic for features [C, s, s]."""
    with initialising(seed, "critic"):
        return critic(features, critic_kind(settings))
