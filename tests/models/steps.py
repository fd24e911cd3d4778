"""What every network is put through: one step of training, one of inference, and the law stage by stage."""

import torch
from torch.nn.functional import cross_entropy

import cvkernels.nn as cnn
from models.sources import equal_norm_noise
from models.split import PairModel
from tests.close import assert_equivariant


def key(model, n):
    """What a model takes beside the images: nothing, or an angle for each row that crosses; one row needs a b too."""
    if not model.keyed:
        return ()
    theta = torch.linspace(0.1, 6, n // 2 if isinstance(model, PairModel) else n)
    return (theta, equal_norm_noise) if n == 1 else (theta,)


def one_step(model, image, classes, n=2, task=cross_entropy, labels=None):
    """Train on n made-up images, then predict; every parameter must get a gradient, and some must move."""
    x = torch.randn(n, *image)
    labels = torch.arange(n) % classes if labels is None else labels
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)
    out = model.train()(x, *key(model, n))
    assert out.shape == (n, classes)
    task(out, labels).backward()
    norms = {name: torch.linalg.vector_norm(p.grad).item() for name, p in model.named_parameters()}
    assert all(0 < norm < float("inf") for norm in norms.values()), f"gradients: {norms}"
    before = [p.detach().flatten()[:9].clone() for p in model.parameters()]
    optimiser.step()
    assert any((p.detach().flatten()[:9] != b).any() for p, b in zip(model.parameters(), before, strict=True))
    with torch.no_grad():
        out = model.eval()(x, *key(model, n))
    assert out.shape == (n, classes)
    assert out.isfinite().all()


def assert_law(processor, features, batches=(1, 3)):
    """The law for each stage on what reaches it and for all together, in both modes, in float64: a max pool's choice
    between two near moduli must not hang on float32's rounding."""
    assert cnn.validate(processor) == []
    processor = processor.double()
    for n in batches:
        for mode in (True, False):
            processor.train(mode)
            z = torch.randn(n, 2, *features, dtype=torch.float64)
            with torch.set_grad_enabled(mode):  # inference without gradients folds norms into weights
                assert_equivariant(processor, z, kind="network")
                for name, stage in processor.named_children():
                    assert_equivariant(stage, z, kind="network", name=f"stage {name}")
                    z = stage(z).detach()
