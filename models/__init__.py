"""Networks: everything with weights, and no optimiser, data set or command line."""
