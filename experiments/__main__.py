"""`python -m experiments <verb>`. Torch is imported only once a verb is at work, so that `--help` is instant."""

import argparse
import sys

from experiments.settings import CHOICES, PRESETS, SETS

STATUS = (
    "Exit status: 0 done, 1 it could not be done or did not show what it had to (the reason is on the last line), 2 a "
    "bad argument, 130 interrupted; the same command then continues."
)


def parser():
    top = argparse.ArgumentParser(prog="python -m experiments", description="Train, attack and report split networks.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="verb")
    _demo(verbs)
    _data(verbs)
    _train(verbs)
    _attack(verbs)
    _compare(verbs)
    listed = verbs.add_parser("list", help="the runs there are, and how far each is")
    listed.add_argument("--runs", default="runs", metavar="DIR", help="where runs lie (default runs)")
    show = verbs.add_parser("show", help="settings, threat model and results of a run")
    show.add_argument("run", help="its folder, or the first digits of its id")
    show.add_argument("--runs", default="runs", metavar="DIR", help="where runs lie (default runs)")
    return top


def _demo(verbs):
    demo = verbs.add_parser(
        "demo",
        help="train an original and a complex LeNet, attack both, and write a report",
        description="Train an original and a complex LeNet (preset `fast`), attack both, and write a folder with "
        f"report.md, its figures and their data. {STATUS}",
    )
    _data_options(demo, ("digits", "cifar10"), "digits")
    _work_options(demo)
    demo.add_argument("--out", metavar="DIR", help="where the report goes (default runs/demo/<data>-seed<seed>)")


def _data(verbs):
    data = verbs.add_parser("data", help="what is there of the data sets")
    check = data.add_subparsers(dest="what", required=True, metavar="what").add_parser(
        "check", help="what is there, what is missing, where to put it"
    )
    check.add_argument("--data-root", metavar="DIR", help="the folder that holds them (default data)")


def _train(verbs):
    train = verbs.add_parser(
        "train",
        help="train one network",
        description="Train one network; the run lies under runs/<network>-<form>/<id>. The same command resumes an "
        f"interrupted run and skips a finished one. {STATUS}",
    )
    train.add_argument("network", help="lenet, resnet20-alpha to resnet110-beta, vgg16, alexnet")
    train.add_argument("form", choices=CHOICES["form"], help="of the network")
    train.add_argument("--preset", choices=PRESETS, default="report", help="(default report)")
    _data_options(train, SETS, "cifar10")
    _work_options(train)
    _run_options(train)


def _attack(verbs):
    attack = verbs.add_parser(
        "attack",
        help="attack a trained network: angle, inversion 1 and 2, with anchors and control",
        description="Run the attacks on a finished run, as runs of their own under <run>/attacks, and write "
        f"<run>/attacks/report.md. {STATUS}",
    )
    attack.add_argument("run", help="its folder, or the first digits of its id")
    attack.add_argument(
        "--control",
        metavar="RUN",
        help="a run of the original network, of the same network, cut, data and seed: the positive control",
    )
    attack.add_argument("--runs", default="runs", metavar="DIR", help="where runs lie (default runs)")
    attack.add_argument("--data-root", metavar="DIR", help="the folder that holds the run's data")
    attack.add_argument("--accept-checksum-mismatch", action="store_true", help="as in train")
    _work_options(attack, "the adversary's own (default: the run's); the victims' keys are the run's", None)


def _compare(verbs):
    compare = verbs.add_parser(
        "compare",
        help="trained networks side by side: learning curves and a table",
        description="Set finished runs side by side and write a folder with report.md, their learning curves and the "
        f"data of both. {STATUS}",
    )
    compare.add_argument("run", nargs="+", help="its folder, or the first digits of its id")
    compare.add_argument("--runs", default="runs", metavar="DIR", help="where runs lie (default runs)")
    compare.add_argument("--out", default="runs/compared", metavar="DIR", help="(default runs/compared)")


def _data_options(verb, sets, default):
    verb.add_argument("--data", choices=sets, default=default, help=f"(default {default}; digits are embedded)")
    verb.add_argument(
        "--data-root", metavar="DIR", help="folder that holds the set as torchvision lays it out (default data)"
    )
    verb.add_argument(
        "--accept-checksum-mismatch",
        action="store_true",
        help="read a copy of the data that differs from the official one, or a part of it; only one you trust, since "
        "CIFAR's reader unpickles it",
    )


def _work_options(verb, seed="of everything but the split of the data (default 0)", default=0):
    verb.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU where there is one (default)"
    )
    verb.add_argument("--seed", type=int, default=default, help=seed)
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="changes",
        help="change one setting; repeatable",
    )


def _run_options(verb):
    verb.add_argument("--runs", default="runs", metavar="DIR", help="where runs lie (default runs)")
    verb.add_argument("--deterministic", action="store_true", help="repeat a run to the bit; slower")
    verb.add_argument("--compile", action="store_true", help="torch.compile the network")
    verb.add_argument(
        "--no-graph", action="store_true", help="on a GPU: no CUDA graphs; there are none either with several processes"
    )
    verb.add_argument("--tensorboard", action="store_true", help="also write the curves for TensorBoard (an extra)")
    verb.add_argument("--force", action="store_true", help="begin a finished or interrupted run anew")


def main(argv=None):
    args = parser().parse_args(argv)
    try:
        from experiments import verbs
        from experiments.data.images import DataError
        from experiments.job import UsageError
        from experiments.train import Diverged

        try:
            return verbs.VERBS[args.verb](args)
        except (DataError, OSError) as error:
            print(f"{args.verb}: {error}", file=sys.stderr)
            return 1
        except Diverged as error:
            print(f"{args.verb}: diverged: {error}; its last good state is kept", file=sys.stderr)
            return 1
        except UsageError as error:
            print(f"{args.verb}: {error}", file=sys.stderr)
            return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("cvkernels", "models", "experiments"):
            raise
        extra = "tensorboard" if "tensorboard" in error.name else "experiments"
        print(f"{args.verb}: {error.name} is missing; type: pip install '.[{extra}]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{args.verb}: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
