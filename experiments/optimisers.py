"""An optimiser's state as tensors by name, as a checkpoint holds it."""

from experiments.gan import laid_out_as


def tensors_of(optimiser):
    """`<number of the parameter>.<name>` -> tensor; the rates and the like are not of the state."""
    return {
        f"{i}.{k}": v for i, state in optimiser.state_dict()["state"].items() for k, v in state.items() if v is not None
    }


def restore(optimiser, tensors):
    """Go on from what `tensors_of` gave, wherever the tensors are now."""
    state, parameters = {}, [p for group in optimiser.param_groups for p in group["params"]]
    for name, t in tensors.items():
        i, _, key = name.partition(".")
        state.setdefault(int(i), {})[key] = laid_out_as(parameters[int(i)], t)
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
