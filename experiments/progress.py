"""What a long job says while it works: one line that is rewritten on a terminal, plain lines elsewhere."""

import io
import os
import sys
import time

EVERY = 5.0  # seconds between plain lines
LIVE = 0.2  # and between rewritten ones


class Progress:
    """Progress over named stages with the time left in all.

    Args:
        stages: (title, expected seconds) in order; only the ratios matter, the clock gives the rest.
        stream: where to write; rewriting is used on a terminal without `NO_COLOR`.
        quiet: nothing is written, as by all processes of several but the first.
    """

    def __init__(self, stages, stream=None, quiet=False):
        self.stages = list(stages)
        self.stream = io.StringIO() if quiet else stream or sys.stdout
        self.live = self.stream.isatty() and "NO_COLOR" not in os.environ
        self.current = -1
        self.worked = 0.0  # expected seconds of what was done here
        self.spent = 0.0  # seconds it took
        self._shown = 0.0

    def say(self, line):
        """One line that stays."""
        print(line, file=self.stream, flush=True)

    def skip(self, why):
        """The next stage is finished already."""
        self.current += 1
        self.say(f"{self._head()}: {why}")

    def start(self):
        """The next stage begins."""
        self.current += 1
        self._began = self._shown = time.monotonic()
        self._images, self._counting = 0, self._began
        self._first = None  # share that was done when this work began

    def step(self, epochs_done, epochs, step, steps, images, means):
        """One batch of `images` more of the epoch under way; `means()`, called now and then, gives the numbers that
        matter."""
        now = time.monotonic()
        share = (epochs_done + step / steps) / epochs
        if self._first is None:
            self._first = share - 1 / (steps * epochs)
        self._images += images
        if now - self._shown < (LIVE if self.live else EVERY):
            return
        self._shown = now
        rate = self._images / max(now - self._counting, 1e-9)
        left = (now - self._began) * (1 - share) / max(share - self._first, 1e-9)
        numbers = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in means().items())
        line = f"{self._head()}  epoch {epochs_done + 1}/{epochs}, step {step}/{steps}  {rate:.0f} img/s  {numbers}"
        line += f"  {clock(left)} left"
        if self.live:
            self.stream.write("\r\033[K" + line)
            self.stream.flush()
        else:
            self.say(line)

    def epoch(self, done, total, text):
        """`done` of `total` epochs of the stage are over; `text` holds the numbers that matter."""
        now = time.monotonic()
        share = done / total
        if not self.live and done < total and now - self._shown < EVERY:
            return
        self._shown = now
        here = now - self._began
        first = self._first or 0.0
        left = here * (1 - share) / max(share - first, 1e-9)
        rate = (self.spent + here) / (self.worked + self.stages[self.current][1] * (share - first))
        later = rate * sum(work for _, work in self.stages[self.current + 1 :])
        ending = f"took {clock(here)}" if done == total else f"{clock(left)} left"
        line = f"{self._head()}  epoch {done}/{total}  {text}  {ending}, {clock(left + later)} in all"
        if self.live:
            self.stream.write("\r\033[K" + line + ("\n" if done == total else ""))
            self.stream.flush()
        else:
            self.say(line)
        if done == total:
            self.spent += here
            self.worked += self.stages[self.current][1]

    def _head(self):
        return f"[{self.current + 1}/{len(self.stages)}] {self.stages[self.current][0]}"


def clock(seconds):
    """Seconds as m:ss."""
    return f"{int(seconds + 0.5) // 60}:{int(seconds + 0.5) % 60:02d}"
