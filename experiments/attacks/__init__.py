"""The adversaries, one file each. An attack receives a transcript and a declared knowledge, and nothing else."""
