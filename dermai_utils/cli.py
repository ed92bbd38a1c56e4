"""python -m dermai_utils COMMAND [--setting value ...]: words -> Settings -> a call in commands.py.

The last line of each command says where its result lies.
"""

import argparse
import functools
import inspect
import os
import sys

from dermai_utils import colab, commands, settings
from dermai_utils.basics import UserError, did_you_mean
from dermai_utils.settings import FIELDS

# What the commands read: groups of settings, and single ones.
FOLDERS = ("data", "test", "extra", "base_url", "cache_dir", "work_dir")
DATA = (*FOLDERS, "preset", "size")
SPLIT = (*DATA, "Split")
ALL = ("Data and folders", "Split", "Model", "Training", "Machine")
RUN = (*FOLDERS, "run_name", "device")  # the rest stands in the run
FEATURES = (*SPLIT, "Model", "seed", "device")
COMMANDS = {  # name: (function, what it reads); its parameters beside Settings are in OPTIONS
    "run": (commands.run, ALL),
    "data": (commands.data, DATA),
    "split": (commands.split, SPLIT),
    "train": (commands.train, ALL),
    "report": (commands.report, RUN),
    "evaluate": (commands.evaluate, RUN),
    "gradcam": (commands.gradcam, RUN),
    "compare": (commands.compare, RUN),
    "predict": (commands.predict, RUN),
    "app": (commands.app, RUN),
    "pack": (commands.pack, RUN),
    "export": (commands.export, RUN),
    "probe": (commands.probe, FEATURES),
    "leakage-effect": (commands.leakage_effect, FEATURES),
    "near-duplicates": (commands.near_duplicates, FEATURES),
    "audit": (commands.audit, ("data", "cache_dir", "work_dir", "near_duplicates")),
    "settings": (commands.list_settings, ()),
}
OPTIONS = {  # that are no settings: arguments of argparse
    "image": dict(action="extend", nargs="+", help="your own pictures"),
    "run": dict(metavar="FILE_OR_URL", help="a pack, in place of a run of this machine"),
    "pretrained": dict(action="store_true", help="the model that comes with the package"),
    "other": dict(metavar="NAME", help="the run to compare with"),
    "files": dict(nargs="+", metavar="FILE", help="predictions, a split, both"),
    "against": dict(metavar="FILE", help="predictions to compare with; ours: this project's"),
}


def main(words=None) -> int:
    """Exit status: 0 done, 2 an error in one plain line, 130 interrupted."""
    colab.tune_process()
    return exit_status(command, sys.argv[1:] if words is None else words)


def exit_status(function, *arguments) -> int:
    """Call `function`; its number, or 0. An error that the user can mend ends in one line."""
    try:
        return function(*arguments) or 0
    except BrokenPipeError:  # who reads the output wants no more, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
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
    name, *rest = words or ["--help"]
    if name in ("--help", "-h"):
        print(overview())
        return
    if name == "--version":
        print(colab.version_line())
        return
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f"expected one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {name!r:.80}: {hint}")
    if "--help" in rest or "-h" in rest:
        print(parser(name).format_help())
        return
    given, own = split_words(parser(name), rest)
    if os.environ.get("RANK", "0") != "0":  # only the main one of several processes prints
        sys.stdout = open(os.devnull, "w")
    function = COMMANDS[name][0]
    if "run_name" in inspect.signature(function).parameters:  # "": the shipped model answers
        own["run_name"] = given.get("run_name") or os.environ.get("DERMAI_RUN_NAME", "")
    result = function(settings.read(**given), **own)
    if result is not None:
        print(result)


# Words into settings.


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message):
        raise UserError(f"{message}; {self.prog} --help lists what it takes")


def parser(name) -> argparse.ArgumentParser:
    """The parser of a command: the settings that it reads, and its own options."""
    function, reads = COMMANDS[name]
    made = _Parser(
        prog=f"python -m dermai_utils {name}",
        description=function.__doc__,
        usage=f"%(prog)s {'FILE [FILE ...] ' if name == 'audit' else ''}[--setting value ...]",
        formatter_class=functools.partial(argparse.HelpFormatter, width=100, max_help_position=26),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    own = inspect.signature(function).parameters
    for option in filter(OPTIONS.get, own):
        made.add_argument(option if option == "files" else f"--{option}", **OPTIONS[option])
    for field in FIELDS.values():
        if field.metadata["group"] in reads or field.name in reads:
            _add_setting(made, field, "" if field.name in own else field.default)
    return made


def _add_setting(parser, field, default):
    default = f" (default {default})" if default not in ("", ()) else ""
    text = f"{settings.allowed(field)}{default}: {field.metadata['help']}"
    several = {"action": "extend", "nargs": "+"} if field.type is tuple else {}
    options = several | {"metavar": field.name.upper(), "help": text.replace("%", "%%")}
    parser.add_argument(f"--{field.name.replace('_', '-')}", **options)


def split_words(parser, words) -> tuple[dict, dict]:
    """({setting: text}, {own option: value}) of `--name value` and `--name=value`.

    UserError names the first word that is not known, and a value that is blank, such as that of a
    shell variable which is not set.
    """
    found, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(f"unexpected {_hint(unknown[0], list(parser._option_string_actions))}")
    found = vars(found)
    for name, value in found.items():
        each = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and not text.strip() for text in each):
            expected = f": expected {settings.allowed(FIELDS[name])}" if name in FIELDS else ""
            raise UserError(f"--{name.replace('_', '-')} is blank{expected}")
    own = {name: found.pop(name) for name in found.keys() - FIELDS.keys()}
    return found, own


def _hint(word, flags):
    """An unexpected word, and what was perhaps meant. flags: those that the command takes."""
    flag = word.partition("=")[0]
    name = flag.removeprefix("--").replace("-", "_")
    if name in FIELDS and f"--{name.replace('_', '-')}" not in flags:
        return f"{flag}, which this command does not read"
    if not flag.startswith("-"):
        return f"{flag}, did you mean --image {flag}?" if "--image" in flags else flag
    near = did_you_mean(flag, flags)
    return f"{flag}, {near}" if near else flag


def overview() -> str:
    """Every command in a line."""
    lines = [f"  {name:16} {f.__doc__.splitlines()[0]}" for name, (f, _) in COMMANDS.items()]
    return (
        "python -m dermai_utils COMMAND [--setting value ...]\n\n" + "\n".join(lines) + "\n\n"
        "COMMAND --help lists its settings. For a first look, without any download:\n"
        "  python -m dermai_utils run --data sample"
    )
