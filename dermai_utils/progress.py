"""Progress bars: moving in a terminal and a notebook, a line now and then in a file or a pipe."""

import sys

SECONDS = 10  # between two lines


def bar(*args, **options):
    """tqdm's bar. Where standard error is a file or a pipe: a line every ten seconds, none in the
    first ten."""
    from tqdm.auto import tqdm  # here: importing this module loads nothing heavy

    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    if in_notebook or sys.stderr.isatty():
        return tqdm(*args, **options)
    at_times = dict(file=_Lines(), delay=SECONDS, mininterval=SECONDS, maxinterval=SECONDS)
    return tqdm(*args, **options | at_times | {"leave": True, "ncols": 100})


class _Lines:
    """A file that ends each state of a bar with a new line, in place of going back to its start."""

    encoding = "utf-8"

    def write(self, text):
        if line := text.strip("\r\n "):
            print(line, file=sys.stderr, flush=True)

    def flush(self):
        """Nothing waits: a line is flushed when it is written."""
