"""Everything with an optimiser or a data set; run from the checkout's root as `python -m experiments <verb>`."""
