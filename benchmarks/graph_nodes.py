"""What a kernel that does nothing costs: launched, and as a node of a CUDA graph. `python -m benchmarks.graph_nodes`.

Under a network's kernel count times this no fusion of arithmetic helps any more: only fewer kernels do.
"""

import sys

import torch

from . import candidates, rows, timing

KERNELS = 1000


def main() -> int:
    if not torch.cuda.is_available():
        print("graph nodes: no GPU here")
        return 2
    device = torch.device("cuda")
    x = torch.zeros(1, device=device)

    def many():
        for _ in range(KERNELS):
            x.add_(1)

    calls = {"launched": many, "as a node": candidates.graphed(many)}
    print(f"{rows.device_name(device)}: {KERNELS} kernels on one element, us each")
    for name, samples in timing.interleaved(calls, device, 2.0).items():
        low, middle, high = (t * 1e3 / KERNELS for t in timing.percentiles(samples))
        print(f"  {name:10} {middle:.3f} ({low:.3f}-{high:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
