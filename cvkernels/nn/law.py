"""The rotation law run on an example: every module's calls are watched, so that a fault is found where it is made."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .. import check
from .. import functional as F

GOLDEN = 2.399963  # radians: samples i, j never share an angle, nor differ by a multiple of a quarter turn


@dataclass
class Trial:
    """What a run of the law showed.

    broken: name -> reason, of the modules that took what had turned and gave what had not; the innermost of them.
    moduli_only: names of the modules that only ever saw what rotation leaves unchanged.
    """

    broken: dict[str, str] = field(default_factory=dict)
    moduli_only: set[str] = field(default_factory=set)


def run(module: nn.Module, example: Tensor) -> Trial:
    """Run ``module`` on ``example`` and on the example turned, in both modes; leaves it as it was."""
    check.feature(example, "example")
    n = example.shape[0]
    if n < 2:
        raise ValueError(
            f"`example` must hold two samples or more, got {check.shown(example)}: with one angle for all, faults "
            "of batch statistics do not show; stack a second sample"
        )
    theta = (GOLDEN * torch.arange(n, dtype=torch.float64) + 0.7).to(example.device)
    example = example.detach()
    turned = F.rotate_phase(example, theta)
    trial, saw_features, called = Trial(), set(), set()
    modes = {part: part.training for part in module.modules()}
    try:
        for training in (True, False):
            module.train(training)
            mode = "training" if training else "inference"
            plain, raised = _watched(module, example)
            moved, raised_too = _watched(module, turned)
            _compare(plain, moved, theta, mode, trial, saw_features, called)
            if raised or raised_too:
                name, error = raised or raised_too
                trial.broken.setdefault(name, f"its forward raised in {mode}: {error}")
    finally:
        for part, was in modes.items():
            part.training = was
    trial.moduli_only = called - saw_features
    return trial


def _watched(module: nn.Module, example: Tensor) -> tuple[list, tuple[str, str] | None]:
    """Each call in order as (name, inputs, outputs), copied; and which module raised what, or None.

    Buffers and random generators are left as they were.
    """
    calls: list[tuple[str, list, list]] = []
    names = {part: name for name, part in module.named_modules()}
    waiting: list[tuple[str, list]] = []  # the calls that have not returned, innermost last

    def before(part, args, kwargs):
        # copied before the call: a layer may write to its input
        waiting.append((names[part], [t.clone() for t in _tensors((args, kwargs))]))

    def after(part, args, kwargs, output):
        calls.append((*waiting.pop(), [t.clone() for t in _tensors(output)]))

    hooks = [part.register_forward_pre_hook(before, with_kwargs=True) for part in module.modules()]
    hooks += [part.register_forward_hook(after, with_kwargs=True) for part in module.modules()]
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    devices = [example.device] if example.device.type == "cuda" else []
    try:
        # the generators go back when the block ends, so both runs draw the same masks
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.func.functional_call(module, buffers, (example.clone(),))
    except Exception as error:  # whatever a forward raises belongs into the list, with the layers read from the outside
        return calls, (waiting[-1][0] if waiting else "", f"{type(error).__name__}: {error}")
    finally:
        for hook in hooks:
            hook.remove()
    return calls, None


def _compare(plain, moved, theta, mode, trial, saw_features, called) -> None:
    # a forward that raised for one of the two has fewer calls there
    for (name, inputs, outputs), (name_moved, inputs_moved, outputs_moved) in zip(plain, moved, strict=False):
        if name != name_moved:
            trial.broken.setdefault("", f"in {mode} its forward takes another path when its input turns")
            return
        called.add(name)
        came = [_kind(a, b, theta) for a, b in zip(inputs, inputs_moved, strict=True)]
        if any(kind != "unchanged" for kind in came):
            saw_features.add(name)
        gave = [_kind(a, b, theta) for a, b in zip(outputs, outputs_moved, strict=True)]
        inner = any(other.startswith(f"{name}.") or name == "" for other in trial.broken)
        if inner or name in trial.broken or "other" in came:
            continue
        if "other" in gave:
            error = max(_error(a, b, theta) for a, b in zip(outputs, outputs_moved, strict=True))
            size = f" (relative error {error:.1e})" if error < float("inf") else ", nor has it a feature's shape"
            trial.broken[name] = f"in {mode} its output does not turn with its input{size}"
        elif name == "" and "unchanged" in gave:
            trial.broken[name] = f"in {mode} its output stays as it is when its input turns"


def _tensors(tree) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree] if tree.is_floating_point() or tree.is_complex() else []
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [t for leaf in tree for t in _tensors(leaf)] if isinstance(tree, (list, tuple)) else []


def _kind(plain: Tensor, moved: Tensor, theta: Tensor) -> str:
    """'turned', 'unchanged' (a modulus), 'both' (zeros), or 'other'."""
    if plain.shape != moved.shape:
        return "other"
    turned = _error(plain, moved, theta) <= _allowed(plain)
    unchanged = _relative(moved, plain) <= _allowed(plain)
    return {(True, True): "both", (True, False): "turned", (False, True): "unchanged"}.get((turned, unchanged), "other")


def _error(plain: Tensor, moved: Tensor, theta: Tensor) -> float:
    n = len(theta)
    if plain.is_complex():
        fits = plain.ndim > 1 and plain.shape[0] == n
    else:
        fits = plain.ndim > 2 and tuple(plain.shape[:2]) == (n, 2)
    return _relative(moved, F.rotate_phase(plain, theta)) if fits and plain.shape == moved.shape else float("inf")


def _relative(got: Tensor, want: Tensor) -> float:
    got, want = (torch.view_as_real(t).double() if t.is_complex() else t.double() for t in (got, want))
    apart, size = (got - want).norm().item(), want.norm().item()
    return apart / size if size else (0.0 if apart == 0 else float("inf"))


def _allowed(like: Tensor) -> float:
    return torch.finfo(like.dtype).eps ** 0.5
