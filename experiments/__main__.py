"""`python -m experiments <verb>`. Torch is imported only once a verb is at work, so that `--help` is instant."""

import argparse
import sys


def parser():
    top = argparse.ArgumentParser(prog="python -m experiments", description="Train, attack and report split networks.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="verb")
    demo = verbs.add_parser(
        "demo",
        help="train an original and a complex LeNet, attack both, and write a report",
        description="Train an original and a complex LeNet (preset `fast`), attack both, and write a folder with "
        "report.md, "
        "its figures and their data. Exit status: 0 the run showed what it had to, 1 it did not or could not run "
        "(the reason "
        "is in the report or on the last line), 2 a bad argument, 130 interrupted; the same command then continues.",
    )
    demo.add_argument("--data", choices=("digits", "cifar10"), default="digits", help="digits are embedded (default)")
    demo.add_argument(
        "--data-root", metavar="DIR", help="folder that holds cifar-10-batches-py; without it CIFAR-10 is downloaded"
    )
    demo.add_argument(
        "--accept-checksum-mismatch",
        action="store_true",
        help="read a copy of the data that differs from the official one; only one you trust, since its reader "
        "unpickles it",
    )
    demo.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU where there is one (default)"
    )
    demo.add_argument("--seed", type=int, default=0, help="of everything but the split of the data (default 0)")
    demo.add_argument("--out", metavar="DIR", help="where the report goes (default runs/demo/<data>-seed<seed>)")
    demo.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="changes",
        help="change one setting; repeatable",
    )
    return top


def main(argv=None):
    args = parser().parse_args(argv)
    try:
        from experiments.data import DataError
        from experiments.reports import demo

        try:
            return demo.run(args)
        except (DataError, OSError) as error:
            print(f"{args.verb}: {error}", file=sys.stderr)
            return 1
        except demo.UsageError as error:
            print(f"{args.verb}: {error}", file=sys.stderr)
            return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("cvkernels", "models", "experiments"):
            raise
        print(f"{args.verb}: {error.name} is missing; type: pip install '.[experiments]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{args.verb}: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
