"""Triton's interpreter, watched: what it computes rightly and a GPU would not.

It runs one program after another on the CPU, so a race gives the right answer, an unmasked read past a tensor finds
whatever lies there, and a masked load without ``other=`` gives zeros. `watch` records every address of every launch and
fails for each of these. It does not see races within a program (warps, shared memory).
"""

import contextlib

import numpy as np
import torch
import triton.runtime.interpreter as interpreter

BUILDER = type(interpreter.interpreter_builder)
NOBODY, SEVERAL = -1, -2


class Watch:
    """The launches made inside a `watch` block; ``faults`` is what it complains of at its end."""

    def __init__(self):
        self.launches: list[str] = []
        self.faults: list[str] = []
        self._stored: list[np.ndarray] = []

    def unwritten(self, t: torch.Tensor) -> int:
        """How many elements of ``t`` no program stored to."""
        stored = np.concatenate(self._stored) if self._stored else np.empty(0, np.uint64)
        return int((~np.isin(_addresses(t), stored)).sum())

    def _begin(self, kernel: str, tensors: list[torch.Tensor]) -> None:
        """A launch sees all that earlier ones wrote, so who touched what starts anew; allowed are its own tensors."""
        self.launches.append(kernel)
        parts = [_addresses(t) for t in tensors if t.numel()]
        self.allowed = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
        # of each address the program that loaded, stored, or updated it atomically
        self.loads, self.stores, self.atomics = (np.full(self.allowed.size, NOBODY, np.int64) for _ in range(3))

    def _fault(self, program: int, what: str, how_many: int) -> None:
        self.faults.append(f"{self.launches[-1]}, program {program}: {what} ({how_many} lanes)")

    def _touch(self, builder, ptr, mask, how: str):
        """Record the lanes that are on; the mask comes back without those that would leave the launch's tensors."""
        program = int(np.ravel_multi_index(builder.grid_idx, builder.grid_dim))
        address, on = np.broadcast_arrays(ptr.data, mask.data.astype(bool))
        touched = address[on].ravel().astype(np.uint64)
        slot = np.searchsorted(self.allowed, touched)
        inside = slot < self.allowed.size
        inside[inside] = self.allowed[slot[inside]] == touched[inside]
        if not inside.all():
            self._fault(program, f"{how} outside the tensors of the launch", int((~inside).sum()))
            safe = on.copy()
            safe[on] = inside
            mask = interpreter.TensorHandle(safe, mask.dtype)
        slot = slot[inside]
        if how == "store":
            twice = slot.size - np.unique(slot).size
            if twice:
                self._fault(program, "two lanes store to one address", twice)
            self._stored.append(self.allowed[slot])
        elif how == "atomic":
            self._stored.append(self.allowed[slot])
        self._conflicts(program, slot, how)
        mine = {"load": self.loads, "store": self.stores, "atomic": self.atomics}[how]
        mine[slot] = np.where((mine[slot] == NOBODY) | (mine[slot] == program), program, SEVERAL)
        return mask

    def _conflicts(self, program: int, slot: np.ndarray, how: str) -> None:
        """Two programs at one address, one of them writing, are a race unless both are atomic."""
        others = {"load": ("store", "atomic"), "store": ("load", "store", "atomic"), "atomic": ("load", "store")}[how]
        for kind in others:
            seen = {"load": self.loads, "store": self.stores, "atomic": self.atomics}[kind][slot]
            race = int(((seen != NOBODY) & (seen != program)).sum())
            if race:
                self._fault(program, f"race: its {how} meets the {kind} of another program", race)


def _addresses(t: torch.Tensor) -> np.ndarray:
    """The address of every element; of a view, only its own."""
    offset = np.zeros((), np.int64)
    for size, stride in zip(t.shape, t.stride(), strict=True):
        offset = offset[..., None] + np.arange(size, dtype=np.int64) * stride
    return (t.data_ptr() + offset.ravel() * t.element_size()).astype(np.uint64)


@contextlib.contextmanager
def watch():
    """Watch every launch in the block; AssertionError at its end lists the faults.

    Each address must belong to a tensor given to that launch; none is stored by one program and touched by another,
    unless both do so atomically; no masked load leaves its other lanes undefined.
    """
    seen = Watch()
    call, load, store = interpreter.GridExecutor.__call__, BUILDER.create_masked_load, BUILDER.create_masked_store
    rmw, cas = BUILDER.create_atomic_rmw, BUILDER.create_atomic_cas

    def watched_call(self, *args, **kwargs):
        given = [a for arg in (*args, *kwargs.values()) for a in (arg if isinstance(arg, tuple) else (arg,))]
        seen._begin(self.fn.__name__, [a for a in given if isinstance(a, torch.Tensor)])
        return call(self, *args, **kwargs)

    def watched_load(self, ptr, mask, other, *rest):
        undefined = int((~mask.data.astype(bool)).sum())
        if other is None and undefined:
            program = int(np.ravel_multi_index(self.grid_idx, self.grid_dim))
            seen._fault(program, "a masked load without other=", undefined)
        return load(self, ptr, seen._touch(self, ptr, mask, "load"), other, *rest)

    def watched_store(self, ptr, value, mask, *rest):
        return store(self, ptr, value, seen._touch(self, ptr, mask, "store"), *rest)

    def watched_rmw(self, op, ptr, value, mask, *rest):
        return rmw(self, op, ptr, value, seen._touch(self, ptr, mask, "atomic"), *rest)

    def watched_cas(self, ptr, *rest):
        everything = interpreter.TensorHandle(np.ones_like(ptr.data, dtype=bool), interpreter.tl.int1)
        seen._touch(self, ptr, everything, "atomic")
        return cas(self, ptr, *rest)

    interpreter.GridExecutor.__call__ = watched_call
    BUILDER.create_masked_load, BUILDER.create_masked_store = watched_load, watched_store
    BUILDER.create_atomic_rmw, BUILDER.create_atomic_cas = watched_rmw, watched_cas
    try:
        yield seen
    finally:
        interpreter.GridExecutor.__call__ = call
        BUILDER.create_masked_load, BUILDER.create_masked_store = load, store
        BUILDER.create_atomic_rmw, BUILDER.create_atomic_cas = rmw, cas
    listed = "\n  ".join(seen.faults[:8])
    assert not seen.faults, f"{len(seen.faults)} faults, the first:\n  {listed}"


def patch_language_once() -> None:
    """Have the interpreter put its own functions into `triton.language` once a launch: it does so, with a look at every
    member, at each call of a function within a kernel too, which finds nothing left to do and takes a quarter of the
    time.
    """
    patch, tl = interpreter._patch_lang, interpreter.tl

    def patched(fn):
        modules = [value for value in fn.__globals__.values() if value is tl or value is tl.core]
        if not modules or any(tl.core.is_builtin(module.load) for module in modules):
            return patch(fn)
        return interpreter._LangPatchScope() if hasattr(interpreter, "_LangPatchScope") else None

    interpreter._patch_lang = patched


@contextlib.contextmanager
def rounding_bfloat16():
    """float32 to bfloat16 rounded to nearest even, as every GPU does it: the interpreter cuts the low bits off. And
    negatives and products of bfloat16, where the interpreter takes the bits for integers."""
    f32, bf16 = interpreter.tl.float32, interpreter.tl.bfloat16
    # Triton 3.6 writes -x as 0 - x
    negation = "create_fneg" if hasattr(BUILDER, "create_fneg") else "create_fsub"
    cast, dot, negate = BUILDER.cast_impl, BUILDER.create_dot, getattr(BUILDER, negation)

    def rounded(self, src, dst_type):
        if src.dtype.scalar != f32 or dst_type.scalar != bf16:
            return cast(self, src, dst_type)
        bits = torch.from_numpy(np.ascontiguousarray(src.data)).to(torch.bfloat16).view(torch.int16)
        return interpreter.TensorHandle(bits.numpy().view(np.uint16), dst_type.scalar)

    def product(self, a, b, *rest):
        a, b = (cast(self, x, f32) if x.dtype.scalar == bf16 else x for x in (a, b))
        return dot(self, a, b, *rest)

    def negative(self, *xs):
        if xs[0].dtype.scalar != bf16:
            return negate(self, *xs)
        return rounded(self, negate(self, *(cast(self, x, f32) for x in xs)), bf16)

    BUILDER.cast_impl, BUILDER.create_dot = rounded, product
    setattr(BUILDER, negation, negative)
    try:
        yield
    finally:
        BUILDER.cast_impl, BUILDER.create_dot = cast, dot
        setattr(BUILDER, negation, negate)
