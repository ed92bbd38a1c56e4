"""Progress bars: moving in a terminal and a notebook, a line every ten seconds in a file or pipe."""

import sys

SECONDS = 10  # between two lines


class _Lines:
    """Standard error, with each state of a bar as a line of its own."""

    encoding = "utf-8"

    def write(self, text):
        if line := text.strip("\r\n "):
            print(line, file=sys.stderr, flush=True)

    def flush(self):
        """write() has flushed already."""


def bar(*args, **options):
    """tqdm's bar, same arguments; where standard error is a file or a pipe, it prints lines."""
    from tqdm.auto import tqdm  # here: importing this module loads nothing heavy

    if sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel"):
        return tqdm(*args, **options)
    lines = dict(file=_Lines(), delay=SECONDS, mininterval=SECONDS, maxinterval=SECONDS)
    return tqdm(*args, **options | lines | {"leave": True, "ncols": 100})
