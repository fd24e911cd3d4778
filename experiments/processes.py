"""The processes that torchrun starts for one job: what each is, and how all of them come to do the same.

The first one reads and writes the run's folder; the others are told. Words between processes go over gloo, from the
CPU, also where gradients go over NCCL. With one process every function here is what it says without the others.
"""

import os

import torch
from torch import distributed


def join(device):
    """Find the others, where torchrun started several; returns the device that is this process's own.

    Raises:
        ValueError: more processes than this machine has GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device.type == "cuda":
        here, gpus = local_rank(), torch.cuda.device_count()
        if here >= gpus:
            raise ValueError(f"`--nproc-per-node` must be at most the GPUs here, {gpus}, got {here + 1} or more")
        device = torch.device("cuda", here)
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return device


def leave():
    """After the last word."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank():
    return distributed.get_rank() if distributed.is_initialized() else 0


def world():
    return distributed.get_world_size() if distributed.is_initialized() else 1


def local_rank():
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def any_of(*wishes):
    """Of each wish whether any process has it; also where each waits for all others."""
    if world() == 1:
        return wishes
    asked = torch.tensor(wishes, dtype=torch.int32)
    distributed.all_reduce(asked, distributed.ReduceOp.MAX)
    return tuple(asked.bool().tolist())


def told(work):
    """What `work()` gives on the first process, on every one; an exception of it is raised on every one."""
    if world() == 1:
        return work()
    held = [_attempt(work) if rank() == 0 else None]
    distributed.broadcast_object_list(held)
    return _outcome(*held[0])


def one_after(work):
    """`work()` on the first process of each machine, then on its others, which find on its disk what that one made;
    an exception of a first one is raised on every one."""
    if world() == 1:
        return work()
    held = _attempt(work) if local_rank() == 0 else (None, None)
    errors = [None] * world()
    distributed.all_gather_object(errors, held[1])
    for error in errors:
        _outcome(None, error)
    return held[0] if local_rank() == 0 else work()


def _attempt(work):
    try:
        return work(), None
    except Exception as error:
        return None, error


def _outcome(value, error):
    if error is not None:
        raise error
    return value
