"""The rotation law run on an example: every module's calls are watched, so that a fault is found where it is made."""

import torch
from torch import Tensor, nn

from .. import check
from .. import functional as F
from .norm import BatchNormReLU2d

GOLDEN = 2.399963  # radians: no two samples share an angle, nor differ by a quarter turn

Pairs = list[tuple[Tensor, Tensor]]  # of the plain run and of the turned one


class Trial:
    """What running the law showed.

    broken: name -> reason, of each module that took what had turned and gave what had not.
    unfit: names of torch's layers that were given a feature and take real maps only; the run goes on with both parts
        in the batch.
    moduli_only: names of the modules that only ever saw what rotation leaves unchanged.
    """

    def __init__(self, theta: Tensor):
        self.theta = theta
        self.broken: dict[str, str] = {}
        self.unfit: dict[str, None] = {}
        self.called: set[str] = set()
        self.saw_features: set[str] = set()

    @property
    def moduli_only(self) -> set[str]:
        return self.called - self.saw_features

    def judge(self, mode: str, name: str, came: Pairs, gave: Pairs) -> bool:
        """Look at one call, given (plain, moved) pairs of what came and what it gave; True where it broke the law."""
        seen, found = ([kind(*pair, self.theta) for pair in pairs] for pairs in (came, gave))
        self.called.add(name)
        if any(k != "unchanged" for k in seen):
            self.saw_features.add(name)
        if "other" in seen:
            return False  # the fault lies before it
        if "other" in found:
            error = max(apart(*pair, self.theta) for pair in gave)
            size = f" (relative error {error:.1e})" if error < float("inf") else ", nor has it a feature's shape"
            self.broken.setdefault(name, f"in {mode} its output does not turn with its input{size}")
            return True
        if name == "" and "unchanged" in found:
            self.broken.setdefault(name, f"in {mode} its output stays as it is when its input turns")
        return False


def run(module: nn.Module, example: Tensor) -> Trial:
    """Run ``module`` on ``example`` and on the example turned, in both modes; leaves it as it was."""
    check.feature(example, "example")
    n = example.shape[0]
    if n < 2:
        raise ValueError(
            f"`example` must hold two samples or more, got {check.shown(example)}: with one angle for all, faults of "
            "batch statistics do not show; stack a second sample"
        )
    theta = (GOLDEN * torch.arange(n, dtype=torch.float64) + 0.7).to(example.device)
    example = example.detach()
    trial = Trial(theta)
    modes = {part: part.training for part in module.modules()}
    try:
        for training in (True, False):
            module.train(training)
            mode = "training" if training else "inference"
            calls: list[tuple[str, list, list]] = []
            raised = _walk(module, example, lambda *call, calls=calls: calls.append(_copied(*call)), trial.unfit)
            again = _walk(module, F.rotate_phase(example, theta), _comparing(trial, mode, calls), trial.unfit)
            for name, error in filter(None, (raised, again)):
                trial.broken.setdefault(name, f"its forward raised in {mode}: {error}")
    finally:
        for part, was in modes.items():
            part.training = was
    return trial


def _copied(name: str, inputs: list, outputs: list) -> tuple[str, list, list]:
    return name, inputs, [t.clone() for t in outputs]


def _comparing(trial: Trial, mode: str, calls: list):
    """What to do after each call of the second run; ``calls``: those of the first."""
    left = iter(calls)
    lost = False

    def look(name: str, inputs: list, outputs: list) -> None:
        nonlocal lost
        first = next(left, None)
        if lost or first is None:
            return
        lost = name != first[0] or [len(v) for v in first[1:]] != [len(inputs), len(outputs)]
        if lost:
            trial.broken.setdefault("", f"in {mode} its forward takes another path when its input turns")
            return
        came, gave = (list(zip(was, now, strict=True)) for was, now in zip(first[1:], (inputs, outputs), strict=True))
        if trial.judge(mode, name, came, gave):
            for plain, moved in gave:
                _repair(plain, moved, trial.theta)

    return look


def _repair(plain: Tensor, moved: Tensor, theta: Tensor) -> None:
    """Put what a faulty layer should have given in place of what it gave, so that the next layers are judged fairly."""
    expanded = any(step == 0 and size > 1 for size, step in zip(moved.shape, moved.stride(), strict=True))
    if not expanded and kind(plain, moved, theta) == "other" and _is_feature(plain, moved, theta):
        moved.copy_(F.rotate_phase(plain, theta))


REAL = [f"torch.nn.modules.{name}" for name in ("conv", "linear", "batchnorm", "pooling", "activation")]
# torch's layers -> how many axes of a real map they take at most
MAPS = {
    **dict.fromkeys((nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.MaxPool1d, nn.AvgPool1d), 3),
    **dict.fromkeys((nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, BatchNormReLU2d, nn.MaxPool2d, nn.AvgPool2d), 4),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d), 4),
}


def _fits(part: nn.Module, args: tuple, n: int) -> bool:
    """Whether a call is none of a layer of torch's for real maps with one feature of n samples."""
    if len(args) != 1 or not isinstance(args[0], Tensor):
        return True
    (x,) = args
    if x.is_complex():
        pools_all = isinstance(part, nn.AdaptiveAvgPool2d) and part.output_size in (1, (1, 1))  # torch's is a mean
        return type(part).__module__ not in REAL or pools_all
    axes = MAPS.get(type(part))
    return axes is None or x.ndim <= axes or tuple(x.shape[:2]) != (n, 2)


def _as_feature(y: Tensor, complex_: bool) -> Tensor:
    """Real ``[2N, C, *]`` back to a feature, planar or complex."""
    y = y.unflatten(0, (-1, 2))
    return torch.complex(y[:, 0], y[:, 1]) if complex_ else y


def _walk(module: nn.Module, example: Tensor, after_call, unfit: dict[str, None]) -> tuple[str, str] | None:
    """Run the module with ``after_call(name, inputs, outputs)`` after each call; (name, error) where one raised.

    Layers that cannot take a feature are noted in ``unfit`` and run on both parts as samples. Buffers and random
    generators are left as they were.
    """
    names = {part: name for name, part in module.named_modules()}
    waiting: list[tuple[str, list]] = []  # the calls that have not returned, innermost last
    folded: list[bool | None] = []  # of each: whether its parts are samples, and were complex

    def before(part, args, kwargs):
        # copied before the call: a layer may write to its input
        waiting.append((names[part], [t.clone() for t in _tensors((args, kwargs))]))
        folded.append(None)
        if kwargs or _fits(part, args, len(example)):
            return None
        unfit[names[part]] = None
        (x,) = args
        folded[-1] = x.is_complex()
        planar = torch.stack((x.real, x.imag), 1) if x.is_complex() else x
        return (planar.flatten(0, 1),), kwargs

    def after(part, args, kwargs, output):
        was_complex = folded.pop()
        if was_complex is not None and isinstance(output, Tensor):
            output = _as_feature(output, was_complex)
        after_call(*waiting.pop(), _tensors(output))
        return output

    hooks = [part.register_forward_pre_hook(before, with_kwargs=True) for part in module.modules()]
    hooks += [part.register_forward_hook(after, with_kwargs=True) for part in module.modules()]
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    devices = [example.device] if example.device.type == "cuda" else []
    try:
        # the generators go back when the block ends, so both runs draw the same masks
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.func.functional_call(module, buffers, (example.clone(),))
    except Exception as error:  # whatever a forward raises belongs into the list, beside the layers that were read
        return waiting[-1][0] if waiting else "", f"{type(error).__name__}: {error}"
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _tensors(tree) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree] if tree.is_floating_point() or tree.is_complex() else []
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [t for leaf in tree for t in _tensors(leaf)] if isinstance(tree, (list, tuple)) else []


def kind(plain: Tensor, moved: Tensor, theta: Tensor) -> str:
    """How a tensor of the second run compares: 'turned', 'unchanged' (moduli), 'both' (zeros), or 'other'."""
    if plain.shape != moved.shape:
        return "other"
    allowed = torch.finfo(plain.dtype).eps ** 0.5
    turned, unchanged = apart(plain, moved, theta) <= allowed, _relative(moved, plain) <= allowed
    return {(True, True): "both", (True, False): "turned", (False, True): "unchanged"}.get((turned, unchanged), "other")


def apart(plain: Tensor, moved: Tensor, theta: Tensor) -> float:
    """Relative distance of ``moved`` from ``plain`` turned by theta; infinite where that is no feature."""
    if not _is_feature(plain, moved, theta):
        return float("inf")
    return _relative(moved, F.rotate_phase(plain, theta))


def _is_feature(plain: Tensor, moved: Tensor, theta: Tensor) -> bool:
    head = (len(theta),) if plain.is_complex() else (len(theta), 2)
    return plain.shape == moved.shape and plain.ndim > len(head) and tuple(plain.shape[: len(head)]) == head


def _relative(got: Tensor, want: Tensor) -> float:
    got, want = (torch.view_as_real(t).double() if t.is_complex() else t.double() for t in (got, want))
    error, size = (got - want).norm().item(), want.norm().item()
    return error / size if size else (0.0 if error == 0 else float("inf"))
