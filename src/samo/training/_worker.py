"""A process that trains the runs it is told to: ``python -m samo.training._worker``.

A line of JSON on its input is a run, ``{"config": .., "out": ..}``. Lines of JSON on its output say
how far it is, ``{"epoch": ..}``, and how it ended, ``{"done": true}`` or ``{"failed": reason,
"diverged": ..}``.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from .. import NonFiniteError
from ._config import configured
from ._errors import DivergedError, RunError
from ._run import Progress
from ._train import train

_INTERVAL = 0.5  # seconds between two reports of the same epoch


def main() -> None:
    """Trains until its input ends."""
    # Last, so that nothing there hides an installed module: where `module:Class` may lie.
    sys.path.append(str(Path.cwd()))
    # What others print must not get between the messages.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(**message: Any) -> None:
        # Fails if whoever started this process is gone: then it ends too.
        print(json.dumps(message), file=output, flush=True)

    for line in sys.stdin:
        order = json.loads(line)
        out = Path(order["out"])
        last = [time.monotonic()]

        def watch(progress: Progress, last: list[float] = last) -> None:
            now = time.monotonic()
            if progress.record is not None or now > last[0] + _INTERVAL:
                last[0] = now
                say(epoch=progress.epoch, step=progress.step, steps=progress.steps)

        try:
            train(configured(**order["config"]), out, watch=watch)
        except BrokenPipeError:
            return
        except RunError as error:
            say(failed=str(error), diverged=isinstance(error, DivergedError))
        except Exception as error:  # whatever it is, the other runs go on
            out.mkdir(parents=True, exist_ok=True)
            (out / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            reason = str(error).strip() or "no message"
            line = f"{type(error).__name__}: {reason.splitlines()[0]}"
            say(failed=line, diverged=isinstance(error, NonFiniteError))
        else:
            say(done=True)


if __name__ == "__main__":
    main()
