"""A call with the emulated threads and blocks in one order or the other."""

import os

ORDERS = ("forward", "reverse")


def in_order(order: str, call, *args, **kwargs):
    os.environ["CVK_EMULATED_ORDER"] = order
    try:
        return call(*args, **kwargs)
    finally:
        del os.environ["CVK_EMULATED_ORDER"]
