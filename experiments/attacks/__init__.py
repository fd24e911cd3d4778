"""The adversaries, one file each. An attack receives a transcript and a declared knowledge, and nothing else."""

LABELS = {  # by the name of its run, what every table, figure and line of progress calls an attack
    "open-features": "U-Net on the features that cross",
    "clean-features": "anchor: U-Net on the clean features",
    "angle": "angle predictor",
    "inversion1": "attack 1: angle, then U-Net on a*",
    "inversion2": "attack 2: U-Net on both parts",
}
