"""What a step's output says, and the few small files it goes into: each carries the GPU's name and the commit."""

import csv
import json
import re
from pathlib import Path

SMALL = 200_000  # bytes of a log that are kept
MARK = "\n=== step "


def slug(text: str) -> str:
    """A name for files: ``NVIDIA GeForce RTX 2060 SUPER`` becomes ``nvidia-geforce-rtx-2060-super``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unknown"


def pytest_counts(output: str) -> dict[str, int]:
    """The closing line of pytest: ``3 failed, 120 passed, 2 skipped in 9.87s``."""
    for line in reversed(output.splitlines()):
        if re.search(r" in [\d.]+s", line):
            return {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|skipped|errors?|xfailed)", line)}
    return {}


# what small_shapes.py says of a kernel that is right
CHECKED = re.compile(r"^\w+ (?:cuda|triton) torch\.\w+ [\w-]+$", re.M)
REFUSED = re.compile(
    r"^=+ (?:Internal Sanitizer )?Error:.*(?:unable to|failed to|not supported|no attachable|debugger).*", re.M | re.I
)


def sanitizer_verdict(code: int, output: str) -> tuple[str, str]:
    """(status, what it said). A tool that cannot attach to the GPU is no failure of ours, but it is said. It says so in
    lines of its own and before a kernel ran: any other refusal is an error of the script."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", output)
    said = summary[1].strip() if summary else "no summary from compute-sanitizer"
    refused = REFUSED.search(CHECKED.split(output, maxsplit=1)[0])
    if refused and "small shapes: passed" not in output:
        return "left out", f"could not attach: {refused[0].strip()[:200]}"
    if "small shapes: passed" not in output:
        own = [line for line in output.splitlines() if line.strip() and not line.startswith("==")]
        return "failed", f"{said}, but the script did not pass: {own[-1].strip()[:150] if own else 'no output'}"
    clean = summary and re.match(r"0 (errors|hazards)", said)
    if clean and code:
        return "failed", f"exit code {code}, though {said}"
    return ("passed" if clean else "failed"), said


def verdict(step: str, code: int | None, output: str) -> tuple[str, str]:
    """(passed | failed | timed out | left out, one line) from a step's exit code (None: over its limit) and output."""
    if code is None:
        return "timed out", "over its time limit"
    if step in ("memcheck", "racecheck"):
        return sanitizer_verdict(code, output)
    lines = [line for line in output.strip().splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "no output"
    if step.startswith("tests") or step == "large":
        counts = pytest_counts(output)
        if code == 5:  # pytest collected nothing
            return "left out", "no tests selected"
        last = ", ".join(f"{n} {what}" for what, n in counts.items()) or last
    return ("passed" if code == 0 else "failed"), last[:200]


class Results:
    """The folder of results; a step that passed at this commit on this GPU is not repeated unless it is named."""

    def __init__(self, folder: Path, gpu: str, commit: str, facts: dict):
        self.folder, self.stem = folder, f"{slug(gpu)}-{slug(commit)}"
        self.state = {"gpu": gpu, "commit": commit, "facts": facts, "steps": {}}
        path = self.path("summary.json")
        if path.exists():
            self.state["steps"] = json.loads(path.read_text())["steps"]

    def path(self, name: str) -> Path:
        return self.folder / f"{self.stem}-{name}"

    def done(self, step: str) -> bool:
        return self.state["steps"].get(step, {}).get("status") == "passed"

    def record(self, step, status: str, said: str, seconds: float, output: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state["steps"][step.name] = {"status": status, "said": said, "seconds": round(seconds, 1)}
        if output:
            self._append(self.path(step.log), step.name, output)
        _write(self.path("summary.json"), json.dumps(self.state, indent=1) + "\n")

    def _append(self, path: Path, name: str, output: str) -> None:
        """A step's section of its log, in place of what an earlier run of it left."""
        sections = _sections(path.read_text()) if path.exists() else {}
        sections.pop(name, None)
        sections[name] = output.strip()
        most = SMALL // len(sections)  # a section's end says how it went
        _write(path, "".join(f"{MARK}{name}\n{text[-most:]}\n" for name, text in sections.items()))

    def take_rows(self, scratch: Path) -> int:
        """One benchmark's rows join the table of all, in place of what they repeat; how many the table has."""
        path = self.path("benchmarks.csv")
        new, old = _rows(scratch), _rows(path)
        if not new:
            return len(old)
        measured = {_key(row) for row in new}
        table = [row for row in old if _key(row) not in measured] + new
        part = path.with_name(path.name + ".part")
        with part.open("w", newline="") as file:
            out = csv.DictWriter(file, list(new[0]), lineterminator="\n", extrasaction="ignore")
            out.writeheader()
            out.writerows(table)
        part.replace(path)
        scratch.unlink()
        return len(table)

    def table(self) -> str:
        steps = self.state["steps"].items()
        return "\n".join(f"{name:<28} {s['status']:<10} {s['seconds']:>6.0f} s  {s['said']}" for name, s in steps)


def _sections(text: str) -> dict[str, str]:
    parts = (section.partition("\n") for section in text.split(MARK) if section.strip())
    return {name: body.strip() for name, _, body in parts}


def _rows(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _key(row: dict) -> tuple:
    return tuple(row.get(name) for name in ("op", "shape", "dtype", "base", "which", "device", "candidate"))


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
