"""A run on disk: `<root>/<name>/<id>/` with settings, environment, metrics, state, weights and, last of all,
summary.json.

The id is a hash of what the numbers depend on, so the same command finds its own run again: one with a summary is
finished and is skipped, one with a state is resumed from it, any other is begun anew. Every file is written beside its
place and renamed into it; none is a pickle.
"""

import hashlib
import json
import os
import platform
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import torch

FORMAT = 4  # raised by hand when the same settings would give other numbers
PART = ".part"  # what an unfinished file's name ends in
STATE = "state.safetensors"  # all that an interrupted run needs to go on


class Run:
    """One run, finished or to be done.

    Args:
        root, name: where it lives.
        settings: plain values, the resolved settings and whatever else the numbers depend on.
        data: fingerprint of the data set.
    """

    def __init__(self, root, name, settings, data):
        self.settings = json.loads(json.dumps(settings))  # tuples become lists now, so that the hash equals the file's
        self.data = data
        self.name = name
        self.id = run_id(self.settings, data)
        self.folder = Path(root) / name / self.id
        self._metrics = []

    @property
    def finished(self):
        return (self.folder / "summary.json").is_file()

    def start(self):
        """Make the folder and sweep away what an interrupted run left half done.

        Returns:
            What `checkpoint` wrote last, (tensors, facts), from which to go on; None where there is nothing.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(f".*{PART}"):
            left.unlink()
        (self.folder / "stopped.json").unlink(missing_ok=True)
        state = self._state()
        records, self._spent = (state[1]["records"], state[1]["seconds"]) if state else (0, 0.0)
        self._metrics = self.metrics()[:records]
        if state:
            self._write_metrics()
        else:
            for left in ("metrics.jsonl", "weights.safetensors"):
                (self.folder / left).unlink(missing_ok=True)
        write_json(self.folder / "settings.json", {"settings": self.settings, "data": self.data, "format": FORMAT})
        here = environment()
        write_json(self.folder / "environment.json", here | {"before": self._environments(here) if state else []})
        self._began = time.monotonic()
        return state and (state[0], state[1]["facts"])

    def _environments(self, here):
        """The environments that earlier parts of this run were done in, where they differ from this one."""
        path = self.folder / "environment.json"
        then = json.loads(path.read_text()) if path.is_file() else {}
        before = then.pop("before", [])
        return before + ([then] if then and then != here else [])

    def _state(self):
        from safetensors import SafetensorError, safe_open

        path = self.folder / STATE
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise OSError(f"{path} cannot be read ({error}); remove it to begin this run anew") from None

    def checkpoint(self, tensors, **facts):
        """Write what `start` is to return after an interruption, in one file, in one step."""
        from safetensors.torch import save

        plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        facts = {"facts": facts, "records": len(self._metrics), "seconds": self.seconds()}
        write_bytes(self.folder / STATE, save(plain, metadata={"facts": json.dumps(facts)}))

    def seconds(self):
        """How long this run has been worked at, interruptions left out."""
        return self._spent + time.monotonic() - self._began

    def stop(self, **why):
        """Say on disk why a run did not go on: `python -m experiments list` reads it."""
        write_json(self.folder / "stopped.json", why)

    def log(self, **metrics):
        """Append one record to metrics.jsonl."""
        self._metrics.append(metrics)
        self._write_metrics()

    def _write_metrics(self):
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in self._metrics))

    def metrics(self):
        """Every record of metrics.jsonl, a list of dictionaries."""
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def save(self, tensors, file="weights.safetensors"):
        """Tensors by name, as safetensors."""
        from safetensors.torch import save

        plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        write_bytes(self.folder / file, save(plain, metadata={"run": self.id, "format": str(FORMAT)}))

    def load(self, file="weights.safetensors"):
        """What `save` wrote, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.folder / file)

    def finish(self, **summary):
        """Write the summary with the seconds it took, after which the run counts as finished; its state goes."""
        summary["seconds"] = round(self.seconds(), 1)
        write_json(self.folder / "summary.json", summary)
        (self.folder / STATE).unlink(missing_ok=True)
        return summary

    def environment(self):
        """What environment.json holds."""
        return json.loads((self.folder / "environment.json").read_text())

    def summary(self):
        return json.loads((self.folder / "summary.json").read_text())


def run_id(settings, data):
    """Twelve hexadecimal digits that depend on the settings, the data and the format number, and on nothing else."""
    text = json.dumps({"settings": settings, "data": data, "format": FORMAT}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextmanager
def replacing(path):
    """A path to write to, renamed to `path` on leaving; on any exception, Ctrl-C included, it is removed instead."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path, content):
    with replacing(path) as part, open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_text(path, content):
    write_bytes(path, content.encode())


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1) + "\n")


def environment():
    """What a number may depend on beyond its settings."""
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "commit": commit(),
    }


def commit():
    """The checkout's commit, "+" after it where files differ from it; `CVKERNELS_COMMIT` is believed first, for a
    copy without its git folder."""
    if "CVKERNELS_COMMIT" in os.environ:
        return os.environ["CVKERNELS_COMMIT"]
    here = Path(__file__).parent

    def git(*words):
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
