"""Speed-ups per operation, drawn from a stored table: `python -m benchmarks plot [FILE.csv] --out FILE.png`.

One panel an operation; at each shape a bar for the forward pass and one for forward and backward: how many times as
fast as naive eager code ours is. The marks are the rivals on the same scale; a mark above its bar is faster than ours.
"""

import argparse
from pathlib import Path

from . import rows
from .inputs import POINTWISE, named
from .peers import NAMES
from .rows import Row

COLUMNS = 4
PASSES = {"forward": ("#c6dbef", -0.2), "forward+backward": ("#6baed6", 0.2)}
WIDTH = 0.36
HALF = "#fdae6b"  # ours under bfloat16 autocast, behind the float32 bar
MARKS = {
    "naive compiled": ("^", "#d62728", "naive under torch.compile"),
    "complex": ("D", "#2ca02c", "torch's complex dtype"),
    "peer": ("o", "#9467bd", "fastest peer"),
    "real": ("_", "black", "plain real network (the floor)"),
}


def speed_ups(found: dict[str, Row]) -> dict[str, float]:
    """One case: ours (its faster layout), ours in bfloat16, each rival and the fastest peer, over naive eager code."""
    naive = found["naive"].p50

    def fastest(chosen):
        return max((naive / r.p50 for r in chosen), default=None)

    mine = [r for name, r in found.items() if name.startswith("ours")]
    ups = {
        "ours": fastest(r for r in mine if r.dtype == found["naive"].dtype),
        "half": fastest(r for r in mine if r.dtype != found["naive"].dtype),
        "peer": fastest(r for name, r in found.items() if name in NAMES),
        **{name: naive / found[name].p50 for name in MARKS if name in found},
    }
    return {name: up for name, up in ups.items() if up is not None}


def figure(table: list[Row]):
    """The figure of a table's rows; one column of panels where there are few operations."""
    from matplotlib.figure import Figure

    cases: dict[str, dict[str, dict[str, dict[str, Row]]]] = {}
    for row in table:
        if row.which in PASSES:
            lines = cases.setdefault(row.op, {}).setdefault(row.shape, {}).setdefault(row.which, {})
            lines[row.candidate] = row
    height = -(-len(cases) // COLUMNS)
    drawing = Figure(figsize=(4.1 * COLUMNS, 2.75 * height + 1.3), layout="constrained")
    axes = list(drawing.subplots(height, COLUMNS, squeeze=False).flat)
    for axis, (op, shapes) in zip(axes, cases.items(), strict=False):
        _panel(axis, op, shapes)
    for axis in axes[len(cases) :]:
        axis.set_visible(False)
    first = table[0]
    setting = f"{first.device}, {first.threads} threads" if "AVX" in first.device else first.device
    commits = {row.commit for row in table}
    drawing.suptitle(
        f"Times as fast as naive two-tensor eager code ({first.dtype}, {setting}, torch {first.torch}, "
        f"allocator {first.allocator}, {f'commit {first.commit}' if len(commits) == 1 else 'rows of several commits'})",
        fontsize=12,
    )
    drawing.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    return drawing


def _panel(axis, op: str, shapes: dict) -> None:
    known = [named(shape) for shape in POINTWISE]
    order = sorted(shapes, key=lambda shape: known.index(shape) if shape in known else 0)
    for place, lines in enumerate(shapes[shape] for shape in order):
        for which, (colour, shift) in PASSES.items():
            if "naive" not in lines.get(which, {}):
                continue
            ups = speed_ups(lines[which])
            at = place + shift
            if "half" in ups:
                axis.bar(at, ups["half"] - 1, WIDTH, bottom=1, color=HALF, zorder=1)
            axis.bar(at, ups["ours"] - 1, WIDTH * (0.6 if "half" in ups else 1), bottom=1, color=colour, zorder=2)
            up = ups["ours"]
            axis.annotate(  # at the bar's foot, where no rival's mark is
                f"{up:.{1 if up >= 1.95 else 2}f}",
                (at, 1),
                fontsize=7,
                ha="center",
                va="bottom" if up >= 1 else "top",
                xytext=(0, 2 if up >= 1 else -2),
                textcoords="offset points",
                zorder=4,
            )
            for name, (mark, ink, _) in MARKS.items():
                if name in ups:
                    size = 110 if mark == "_" else 22
                    axis.scatter(
                        at, ups[name], s=size, color=ink, marker=mark, zorder=3, linewidths=1.6 if mark == "_" else 0
                    )
    axis.axhline(1, color="grey", linewidth=0.8, zorder=0)
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}x" if value >= 0.05 else f"{value:.2g}x")
    axis.margins(y=0.14)
    axis.set_xlim(-0.5, len(order) - 0.5)  # a lone bar stands over its name too
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, 0.6), max(high, 1.8))  # a few per cent look like a few per cent
    axis.set_xticks(range(len(order)), [_short(shape) for shape in order], fontsize=8)
    axis.tick_params(axis="y", labelsize=8)
    axis.grid(axis="y", linewidth=0.3, zorder=0)
    axis.set_title(op, loc="left", fontsize=10, fontweight="bold")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _short(shape: str) -> str:
    """N=64 over 16x32x32."""
    n, _, rest = shape.partition("x")
    return f"{rest}\nN={n}"


def _legend() -> list:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    bars = [Patch(color=colour, label=f"ours, {which}") for which, (colour, _) in PASSES.items()]
    bars += [Patch(color=HALF, label="ours under bfloat16 autocast"), Line2D([], [], color="grey", label="naive eager")]
    return bars + [
        Line2D([], [], linestyle="", marker=mark, color=ink, label=label, markersize=12 if mark == "_" else 5)
        for mark, ink, label in MARKS.values()
    ]


def main(argv) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks plot", description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", type=Path, metavar="FILE.csv", help="a stored run; this machine's without")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="beside the table without it")
    options = parser.parse_args(argv)
    table = rows.stored(options.table)
    out = options.out or table.with_suffix(".png")
    figure(rows.read(table)).savefig(out, dpi=110)
    print(f"drawn: {out}")
    return 0
