"""python -m dermai_utils COMMAND [--setting value ...]: words -> Settings -> a call in commands.py.

The last line of each command says where its result lies.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from dermai_utils import colab, commands, settings
from dermai_utils.basics import UserError, did_you_mean
from dermai_utils.settings import FIELDS

# What the commands read: groups of settings, and single ones.
FOLDERS = ("data", "test", "extra", "base_url", "cache_dir", "work_dir")
DATA = (*FOLDERS, "preset", "size")
SPLIT = (*DATA, "Split")
ALL = ("Data and folders", "Split", "Model", "Training", "Machine", "Evaluation")
RUN = (*FOLDERS, "run_name", "device")  # the rest stands in the run
FEATURES = (*SPLIT, "Model", "seed", "device")


def main(words=None) -> int:
    """Exit status: 0 done, 2 an error in one plain line, 130 interrupted."""
    words = sys.argv[1:] if words is None else list(words)
    colab.tune_process()
    if not words or words[0] in ("--help", "-h"):
        print(overview())
        return 0
    if words == ["--version"]:
        print(colab.version_line())
        return 0
    return exit_status(command, words)


def exit_status(function, *arguments) -> int:
    """Call `function`; its number, or 0. An error that the user can mend ends in one line."""
    try:
        return function(*arguments) or 0
    except (UserError, OSError, MemoryError, RuntimeError) as reason:
        line = _in_words(reason)
        if not line:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as reason:
        print(str(reason) or "interrupted; run it again to go on", file=sys.stderr)
        return 130


def _in_words(reason):
    """The error as one line; "" for a bug."""
    text = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    short = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA and MPS, CPU
    if isinstance(reason, MemoryError) or any(words in text for words in short):
        return (
            f"out of memory ({text.partition('. ')[0]}): give a smaller --batch-size or --size; "
            "what is finished is kept"
        )
    if isinstance(reason, OSError):
        path = reason.filename2 or reason.filename  # of a rename, the new name
        text = f"{path}: {reason.strerror}" if path and reason.strerror else text
        return f"{text}; put that right and run it again: what is finished is kept"
    return text if isinstance(reason, UserError) else ""


def command(words) -> None:
    """Do what the first of `words` names, with the settings in the others."""
    name, *rest = words
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f"expected one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {name!r:.80}: {hint}")
    if "--help" in rest or "-h" in rest:
        print(parser(name).format_help())
        return
    given, own = split_words(parser(name), rest)
    if name == "settings":
        print(settings.page(), end="")
        return
    if os.environ.get("RANK", "0") != "0":  # only the main one of several processes prints
        sys.stdout = open(os.devnull, "w")
    if COMMANDS[name].named:
        own["run_name"] = given.get("run_name") or os.environ.get("DERMAI_RUN_NAME", "")
    result = COMMANDS[name].function(settings.read(**given), **own)
    if result is not None:
        print(result)


# Words into settings.


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line; no setting can be shortened."""

    def __init__(self, **options):
        formatter = functools.partial(argparse.HelpFormatter, width=100, max_help_position=26)
        options |= dict(allow_abbrev=False, argument_default=argparse.SUPPRESS)
        super().__init__(formatter_class=formatter, **options)

    def error(self, message):
        raise UserError(f"{message}; {self.prog} --help lists what it takes")

    def parse(self, words) -> dict:
        """{name: value} of what was given. UserError names the first word that is not known."""
        found, unknown = self.parse_known_args(words)
        if unknown:
            flag, known = unknown[0].partition("=")[0], list(self._option_string_actions)
            hint = did_you_mean(flag, known) if flag.startswith("-") else ""
            if flag.removeprefix("--").replace("-", "_") in FIELDS:
                hint = "which this command does not read"
            if not flag.startswith("-") and "--image" in known:
                hint = f"did you mean --image {flag}?"
            self.error(f"unexpected {flag}{hint and ', ' + hint}")
        return vars(found)


class _Once(argparse.Action):
    def __call__(self, parser, found, value, flag=None):
        if hasattr(found, self.dest):
            parser.error(f"{flag} is given twice")
        setattr(found, self.dest, value)


def parser(name) -> Parser:
    """The parser of a command: the settings that it reads, and its own options."""
    this = COMMANDS[name]
    files = "FILE [FILE ...] " if "files" in this.options else ""
    made = Parser(
        prog=f"python -m dermai_utils {name}",
        description=this.function.__doc__,
        usage=f"%(prog)s {files}[--setting value ...]",
    )
    for flag, options in this.options.items():
        name = flag if flag == "files" else f"--{flag}"
        made.add_argument(name, **{"action": _Once} | options)
    for field in FIELDS.values():
        if field.metadata["group"] in this.reads or field.name in this.reads:
            add_setting(made, field)
    return made


def add_setting(parser, field) -> None:
    """Add --NAME for a field of Settings."""
    several = field.type is tuple
    default = f" (default {field.default})" if field.default not in ("", ()) else ""
    text = f"{settings.allowed(field)}{default}: {field.metadata['help']}"
    parser.add_argument(
        f"--{field.name.replace('_', '-')}",
        action="extend" if several else _Once,
        nargs="+" if several else None,
        metavar=field.name.upper(),
        help=text.replace("%", "%%"),
    )


def split_words(parser, words) -> tuple[dict, dict]:
    """({setting: text}, {own option: value}) of `--name value` and `--name=value`; UserError for a
    value that is blank, such as that of a shell variable which is not set."""
    found = parser.parse(words)
    for name, value in found.items():
        each = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and not text.strip() for text in each):
            expected = f": expected {settings.allowed(FIELDS[name])}" if name in FIELDS else ""
            raise UserError(f"--{name.replace('_', '-')} is blank{expected}")
    own = {name: found.pop(name) for name in found.keys() - FIELDS.keys()}
    return found, own


def overview() -> str:
    """Every command in a line."""
    lines = [
        f"  {name:16} {this.function.__doc__.splitlines()[0]}" for name, this in COMMANDS.items()
    ]
    return (
        "python -m dermai_utils COMMAND [--setting value ...]\n\n" + "\n".join(lines) + "\n\n"
        "COMMAND --help lists its settings. For a first look, without any download:\n"
        "  python -m dermai_utils run --data sample"
    )


class Command(NamedTuple):
    function: Callable  # of Settings and the command's own options; returns where the result lies
    reads: tuple  # groups of settings, and single ones
    options: dict = {}  # its own: {flag: arguments of add_argument}
    named: bool = False  # the function gets run_name, "" where none is given


IMAGE = {"image": dict(action="extend", nargs="+", help="your own pictures")}
PACK = {"run": dict(metavar="FILE_OR_URL", help="a pack, in place of a run of this machine")}
SHIPPED = {"action": "store_true", "help": "the model that comes with the package"}
MODEL = PACK | {"pretrained": SHIPPED}
OTHER = {"other": dict(metavar="NAME", help="the run to compare with")}
FILES = {
    "files": dict(action="store", nargs="+", metavar="FILE", help="predictions, a split, both")
}
FILES |= {"against": dict(metavar="FILE", help="predictions to compare with; ours: this project's")}
COMMANDS = {
    "run": Command(commands.run, ALL),
    "data": Command(commands.data, DATA),
    "split": Command(commands.split, SPLIT),
    "train": Command(commands.train, ALL),
    "report": Command(commands.report, RUN),
    "evaluate": Command(commands.evaluate, RUN, MODEL),
    "gradcam": Command(commands.gradcam, RUN),
    "compare": Command(commands.compare, RUN, OTHER),
    "predict": Command(commands.predict, RUN, IMAGE | PACK, named=True),
    "app": Command(commands.app, RUN, PACK, named=True),
    "pack": Command(commands.pack, RUN),
    "export": Command(commands.export, RUN, MODEL),
    "probe": Command(commands.probe, FEATURES),
    "leakage-effect": Command(commands.leakage_effect, FEATURES),
    "near-duplicates": Command(commands.near_duplicates, FEATURES),
    "audit": Command(commands.audit, ("data", "cache_dir", "work_dir", "near_duplicates"), FILES),
    "settings": Command(settings.page, ()),
}
