"""Progress bars: moving in a terminal and a notebook, a line now and then in a file or pipe."""

import sys
import time

SECONDS = 10  # between two lines, and before the first


class _Lines:
    """Standard error, with the state of a bar as a line of its own now and then."""

    encoding = "utf-8"

    def __init__(self):
        self.last = time.monotonic()

    def write(self, text):
        line = text.strip("\r\n ")
        if line and time.monotonic() - self.last >= SECONDS:
            self.last = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    def flush(self):
        """write() has flushed already."""


def bar(*args, **options):
    """tqdm's bar, same arguments; where standard error is a file or a pipe, it prints lines."""
    from tqdm.auto import tqdm  # here: importing this module loads nothing heavy

    if type(sys.stderr).__module__.startswith("ipykernel"):
        # each refresh is several messages to the browser, which drops those beyond a thousand
        return tqdm(*args, **{"mininterval": 1.0} | options)
    if sys.stderr.isatty():
        return tqdm(*args, **options)
    return tqdm(*args, **options | {"file": _Lines(), "ncols": 100})
