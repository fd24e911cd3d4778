"""One file per table, figure or question; each reads top to bottom."""
