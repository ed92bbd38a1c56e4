"""What the tools that measure have in common: `--field value` words, and a user's mistake as one line."""

import functools
import sys

from dermai_utils.config import UserError


def read(words, **own):
    """({field: text} for config.load, {name: value} for the tool itself) of `--field value ...`.

    own: the tool's settings with their defaults, whose types are expected; UserError for another, or a field without a value.
    """
    if len(words) % 2:
        raise UserError(f"{words[-1]}: expected pairs, --field value --field value ...")
    given = dict(zip((word.removeprefix("--").replace("-", "_") for word in words[::2]), words[1::2], strict=True))
    values = {}
    for name, default in own.items():
        text = given.pop(name, default)
        try:
            values[name] = type(default)(text)
        except ValueError:
            raise UserError(f"{name}={text!r:.80}: expected a number, such as {default}") from None
    return given, values


def command(main):
    """`main` of the words after the command's name; its exit status, 2 for a user's mistake."""

    @functools.wraps(main)
    def run():
        try:
            main(sys.argv[1:])
        except UserError as reason:
            print(f"error: {reason}", file=sys.stderr)
            return 2
        return 0

    return run
