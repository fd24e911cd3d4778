"""What is set beside what: the candidates of a case, the call each is timed by, and whether they agree at all.

A case is one operation at one shape. Its candidates compute the same thing on the same numbers, each in its own form:
ours takes a planar tensor, naive code a pair of real ones, torch's complex dtype a complex one. `joined` brings what
comes out of any of them into one form to compare. A candidate that is another function by definition (the real
operation, a peer's nearest layer) is marked with a star: timed, not compared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

PASSES = ("forward", "backward", "forward+backward", "step")
# What can be set beside ours; naive always is.
AGAINST = ("naive", "graph", "compiled", "complex", "real", "peers")

# The largest error of an element, in units of the naive result's RMS. Two ways of summing the 16384 terms of a weight
# gradient differ by about 1e-6 in float32 and 1e-15 in float64; a wrong kernel differs by 1. In half precision two
# convolutions in a row measured 0.06 (bfloat16, a residual block at N=64, C=16, 32x32).
BOUND = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 0.2}
# Where a gradient jumps (at modulus c), the last bit of a modulus decides which side an element is on, and a
# convolution spreads that one element over its window and over a weight's gradient. Such a gradient is held to BOUND
# in nine elements of ten and to this RMS error; its output, which does not jump, is held to BOUND everywhere.
JUMP_SHARE = 0.1
JUMP_RMS = {torch.float64: 1e-2, torch.float32: 1e-2, torch.float16: 5e-2, torch.bfloat16: 0.15}
# Ten residual blocks in a row spread a jump over every weight's gradient: all its elements may differ, and outputs and
# RMS may by this factor more (measured, ResNet-56's processor at N=64: naive and complex gradients 1e-3 to 3e-3 apart
# in float32; in bfloat16 outputs 0.3 at most, gradients 0.16 to 0.20, naive code's the furthest). Behind a whole
# network's loss the gradients of its norms are sums that cancel (bfloat16, ResNet-20 at N=16 and 128: 0.33 at most,
# naive code's; ours 0.31).
DEEP = 2
WHOLE = 3


@dataclass(frozen=True)
class Candidate:
    """One way of computing a case.

    forward: computes the output; takes no arguments.   leaves: what it is differentiated by, in the order of the
    others'; a pair (re, im) stands for one leaf of theirs.   state: what the forward writes to besides its output.
    what: the class, the backend, the settings.   compared: False where it is another function by definition.
    dtype: where it computes in another precision than the case.   wrapped: compiled or graph, else nothing.
    trains: the output is a loss and the leaves are parameters of its own, so a step of the optimiser can be taken.
    """

    forward: Callable
    leaves: tuple = ()
    state: tuple = ()
    what: str = ""
    compared: bool = True
    dtype: torch.dtype | None = None
    wrapped: str = ""
    trains: bool = False

    def label(self) -> str:
        return self.what if self.compared else f"{self.what} *".lstrip()


@dataclass(frozen=True)
class Cost:
    """What a pass costs at least: ``copy``, in bytes moved; ``matrix``, in real floating-point operations."""

    kind: str
    forward: float
    backward: float

    def of(self, which: str) -> float:
        return {"forward": self.forward, "backward": self.backward}.get(which, self.forward + self.backward)


def streaming(feature: Tensor, forward: float, backward: float) -> Cost:
    """Bytes, in units of one complex feature of this size: each tensor that must be read or written, once a pass."""
    size = feature.numel() * feature.element_size()
    return Cost("copy", forward * size, backward * size)


def multiplying(complex_macs: float, weights: str, gradients: int = 2) -> Cost:
    """Real operations: eight a complex multiply-add, four with real weights; each gradient is as many again.

    Three multiplications do for four, so a form that uses that can pass a whole of the rate of the plain one.
    """
    forward = complex_macs * (4 if weights == "real" else 8)
    return Cost("matrix", forward, gradients * forward)


@dataclass(frozen=True)
class Case:
    """The candidates of one operation at one shape.

    others: candidates by name, made when they are asked for; a name begins with ours, form, naive, complex or real.
    peers: the same for installed peers.   jumps: see JUMP_SHARE.   draws: of a dropout, the probability and how many
    independent draws; each draws numbers of its own, so each is held to what a dropout is.   spread: a jump reaches
    every element of a gradient, so its RMS error is what is held.   deep: many layers: by how much more, DEEP or WHOLE.
    """

    op: str
    shape: str
    dtype: torch.dtype
    device: torch.device
    ours: Candidate
    naive: Candidate
    others: Mapping[str, Callable[[], Candidate]] = field(default_factory=dict)
    peers: Callable[[], dict[str, Candidate]] = dict
    cost: Cost | None = None
    jumps: bool = False
    draws: tuple[float, int] | None = None
    spread: bool = False
    deep: float = 1

    def candidates(self, against=("naive",)) -> dict[str, Candidate]:
        """Those that were asked for, ours first, naive second."""
        found = {"ours": self.ours, "naive": self.naive}
        wide = self.dtype in (torch.float32, torch.float64)  # torch has no complex dtype of the others
        for name, make in self.others.items():
            if name.split()[0] in ("ours", "form", *against) and (wide or name != "complex"):
                found[name] = make()
        if "compiled" in against:
            found["naive compiled"] = compiled(self.naive)
        if "graph" in against and self.device.type == "cuda":
            for name in [n for n in found if n == "naive" or n.startswith("ours")]:
                found[f"{name} graph"] = replace(found[name], state=(), wrapped="graph")
        if "peers" in against and wide:
            found.update(self.peers())
        return found


def compiled(candidate: Candidate) -> Candidate:
    """The candidate under torch.compile."""
    call = torch.compile(candidate.forward, dynamic=False)
    return replace(candidate, forward=call, state=(), what="torch.compile", wrapped="compiled")


def passes(candidate: Candidate, asked=PASSES) -> list[str]:
    """A network that trains is measured by its step alone. A compiled graph gives its buffers away in the backward
    pass, a captured one holds both: no backward alone."""
    possible = ("step",) if candidate.trains else PASSES[:3]
    return [which for which in asked if which in possible and not (candidate.wrapped and which == "backward")]


def flat(values) -> list[Tensor]:
    """The tensors of a tensor, of a pair, or of a tuple of both."""
    return [values] if isinstance(values, Tensor) else [t for v in values for t in flat(v)]


def joined(value) -> Tensor:
    """One real tensor to compare: a pair and a complex tensor become planar, a list of any shapes flat."""
    if isinstance(value, Tensor):
        return torch.view_as_real(value).movedim(-1, 1) if value.is_complex() else value
    if isinstance(value, list):
        return torch.cat([t.flatten() for t in value])
    return torch.stack(tuple(value), 1)


def gradient(case: Case) -> Tensor:
    """The gradient that every candidate's output is given, in the form of ours."""
    like = joined(case.ours.forward()).detach()
    generator = torch.Generator(like.device).manual_seed(1)
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def gradients_like(output, grad: Tensor) -> list[Tensor]:
    """``grad`` in the form of an output; where the output is another function's, one of its own shape."""
    if joined(output).shape != grad.shape:
        grad = torch.randn_like(joined(output).detach())
    if isinstance(output, list):
        return [g.view_as(o).to(o.dtype) for g, o in zip(grad.split([o.numel() for o in output]), output, strict=True)]
    if not isinstance(output, Tensor):
        return [g.to(o.dtype).contiguous() for g, o in zip(grad.unbind(1), output, strict=True)]
    return [torch.complex(*grad.unbind(1)) if output.is_complex() else grad.to(output.dtype)]


def step(candidate: Candidate, which: str, grad: Tensor) -> Callable:
    """What is timed: ``forward`` records no graph, ``backward`` runs one graph again, the gradient of every leaf;
    ``step`` is a whole step of training, the optimiser's included."""
    if which == "forward":
        call = torch.no_grad()(candidate.forward)
    elif which == "step":
        call = _training(candidate)
    else:
        leaves = flat(candidate.leaves)
        out = candidate.forward()
        grads = gradients_like(out, grad)
        if which == "backward":
            outs = flat(out)
            call = lambda: torch.autograd.grad(outs, leaves, grads, retain_graph=True)  # noqa: E731
        else:
            call = lambda: torch.autograd.grad(flat(candidate.forward()), leaves, grads)  # noqa: E731
    return graphed(call) if candidate.wrapped == "graph" else call


def _training(candidate: Candidate) -> Callable:
    leaves = flat(candidate.leaves)
    # at a rate of 0 every step starts from the same weights, and costs the same
    optimiser = torch.optim.Adam(leaves, lr=0.0, fused=True, capturable=leaves[0].is_cuda)

    def call():
        optimiser.zero_grad()
        loss = candidate.forward()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return call


def graphed(call: Callable) -> Callable:
    """The call captured in a CUDA graph after a warm-up on a stream of its own; what it returns is filled anew."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay():
        graph.replay()
        return result

    return replay


def results(case: Case, candidate: Candidate) -> list[tuple[str, Tensor]]:
    """Its output, what its state is after one call, and the gradients of its leaves, each named."""
    grad = gradient(case)
    # a captured graph has no plain call
    call = candidate.forward if candidate.wrapped != "graph" else step(candidate, "forward", grad)
    for i, x in enumerate(candidate.state):
        x.fill_(1 + i)  # all start from one state, whatever earlier calls made of it
    out = joined(_seeded(call)).detach().clone()
    found = [("output", out), *((f"state {i}", x.clone()) for i, x in enumerate(candidate.state))]
    grads = regrouped(_seeded(step(candidate, "forward+backward", grad)), candidate.leaves)
    return found + [(f"gradient {i}", joined(x)) for i, x in enumerate(grads)]


def difference(case: Case, candidate: Candidate | None = None, naive=None) -> str | None:
    """Why a candidate (ours without one) and naive code disagree, in outputs, gradients and state; None where they
    agree. Call it before any timing; ``naive``: what `results` said of the naive one, if that is known."""
    candidate = candidate or case.ours
    if case.draws:
        return _not_dropout(case, candidate)
    want = dict(naive or results(case, case.naive))
    dtype = candidate.dtype or case.dtype
    for what, x in results(case, candidate):
        share = 0.0
        if case.jumps and what.startswith("gradient"):
            share = 1.0 if case.deep > 1 or case.spread else JUMP_SHARE
        reason = _apart(x, want[what], dtype, share, case.deep)
        if reason:
            return f"{what}: {reason}"
    return None


def _not_dropout(case: Case, candidate: Candidate) -> str | None:
    """Why it is no dropout with one mask for both parts, the same for the output and the gradient."""
    p, draws = case.draws
    dtype, grad = candidate.dtype or case.dtype, gradient(case)
    out = joined(_seeded(candidate.forward)).detach()
    grads = regrouped(_seeded(step(candidate, "forward+backward", grad)), candidate.leaves)
    kept = out != 0
    if not torch.equal(kept[:, 0], kept[:, 1]):
        return "output: the parts have a mask each"
    share, spread = kept.double().mean().item(), (p * (1 - p) / draws) ** 0.5
    if not abs(share - (1 - p)) < 6 * spread:
        return f"output: {1 - share:.4f} of it is dropped, not {p}"
    for what, x, given in (("output", out, joined(candidate.leaves[0])), ("gradient 0", joined(grads[0]), grad)):
        reason = _apart(x, torch.where(kept, given.detach() / (1 - p), 0.0), dtype, 0.0, case.deep)
        if reason:
            return f"{what}: {reason}"
    return None


def _seeded(call: Callable):
    torch.manual_seed(0)
    return call()


def _apart(x: Tensor, y: Tensor, dtype: torch.dtype, share: float, factor: float) -> str | None:
    """``share``: of the elements that may be further apart than BOUND; where any may, the RMS error is held too."""
    if x.shape != y.shape:
        return f"it is {list(x.shape)}, naive {list(y.shape)}"
    error = (x.double() - y.double()).abs() / y.double().square().mean().sqrt().clamp(min=1e-30)
    wrong = int((~(error <= factor * BOUND[dtype])).sum())  # counts a NaN as wrong
    rms = error.square().mean().sqrt().item()
    if wrong <= share * error.numel() and (share == 0 or rms <= factor * JUMP_RMS[dtype]):
        return None
    return f"{wrong} of {error.numel()} elements differ, by up to {error.max().item():.1e} of the RMS"


def regrouped(grads, leaves) -> list:
    """A flat list of gradients in the form of ``leaves``."""
    rest = iter(grads)
    return [next(rest) if isinstance(leaf, Tensor) else tuple(next(rest) for _ in leaf) for leaf in leaves]
