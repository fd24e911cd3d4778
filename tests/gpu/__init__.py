"""The job of `make gpu`: everything that needs a GPU, in steps, on a machine that may be offline."""
