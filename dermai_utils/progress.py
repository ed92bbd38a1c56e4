"""Progress bars: moving in a terminal and a notebook, a line now and then in a file or pipe."""

import os
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

    # in a notebook each refresh is several messages to the browser, which drops those beyond 1,000
    options = {"mininterval": 1.0} | options
    if os.environ.get("TQDM_DISABLE"):  # tqdm's bar in a notebook does not look there itself
        options["disable"] = True
    if not sys.stderr.isatty() and not type(sys.stderr).__module__.startswith("ipykernel"):
        options |= {"file": _Lines(), "ncols": 100}
    return tqdm(*args, **options)
