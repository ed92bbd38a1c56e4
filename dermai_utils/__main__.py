"""python -m dermai_utils STAGE [--setting value ...]: make a stage and all that it needs; the last
line says where it lies.

After the stages: compare --run-name A --other B (two evaluated runs, image by image), predict
--image PHOTO ... (your own: files, folders, URLs), app (a page on this machine where a photo can be
dropped), pack (the run as one file to give away), export (the model as ONNX and .pt2), settings
(the list below, as docs/settings.md has it). predict, app and export take --run FILE_OR_URL, a
pack, in place of a run of this machine.
"""

import functools
import importlib
import itertools
import sys

from dermai_utils import config, environment, pipeline
from dermai_utils.config import UserError

USAGE = """\
evaluate   train and evaluate, or any other stage   python -m dermai_utils evaluate --data isic2018
predict    an answer about photos of your own       python -m dermai_utils predict --image photo.jpg
compare    two evaluated runs, image by image       python -m dermai_utils compare --other NAME
app        a page where a photo can be dropped      python -m dermai_utils app --run-name baseline
pack       a trained run as one file to give away   python -m dermai_utils pack --run-name baseline
--help lists every stage and setting; what is made already is not made again"""
COMMANDS = ("predict", "export", "app", "pack")  # they use what the stages made
WITH_PACK = ("predict", "export", "app")
STAGES_OF = {  # a group of settings: the stages that read it
    "Data and folders": "download and all after it",
    "Split": "split, linear_probe, leakage_effect, train",
    "Model": "clean, linear_probe, near_duplicates, leakage_effect, train",
    "Training": "train",
    "Machine": "train and whatever else computes",
    "Evaluation": "evaluate, predictor",
}
HELP = ("--help", "-h")


def read_words(words, **options) -> tuple[dict, dict]:
    """({setting: text} for config.load, {option: value}) of `--name value` and `--name=value`.

    options: the tool's own, with their defaults, whose types are expected; one whose default is a
    tuple takes several words. UserError for a word that is neither, or a name without a value.
    """
    given, settings = [], {}
    for word in words:
        if word.startswith("--"):
            name, equals, text = word[2:].partition("=")
            given.append((name.replace("-", "_"), [text] if equals else []))
        elif given:
            given[-1][1].append(word)
        else:
            raise UserError(f"{word}: expected --setting value --setting value ...")
    for name, values in given:
        if isinstance(options.get(name), tuple):
            if not values:
                raise UserError(f"--{name}: expected at least one argument after it")
            options[name] = tuple(values)
        elif len(values) != 1:
            words = " ".join([f"--{name}", *values])
            raise UserError(f"{words}: expected pairs, --setting value --setting value ...")
        elif name in options:
            options[name] = _typed(name, values[0], options[name])
        else:
            settings[name] = values[0]
    return settings, options


def _typed(name, text, default):
    try:
        return type(default)(text)
    except ValueError:
        raise UserError(f"{name}={text!r:.80}: expected a number, such as {default}") from None


def command(main):
    """`main(words)` as a command: returns its exit status, 0 or what it returned, 2 for a user's
    mistake in one plain line, 130 interrupted. --help prints the docstring of its module."""

    @functools.wraps(main)
    def run(words=None) -> int:
        words = sys.argv[1:] if words is None else list(words)
        if set(words) & set(HELP):
            print(main.__globals__["__doc__"].strip())
            return 0
        try:
            return main(words) or 0
        except UserError as reason:
            print(f"error: {reason}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as reason:
            print(str(reason) or "interrupted; run it again to go on", file=sys.stderr)
            return 130

    return run


def main(words=None) -> int:
    """Exit status: 0 done, 2 a usage or input error in one plain line, 130 interrupted."""
    words = sys.argv[1:] if words is None else list(words)
    if not words:
        print(USAGE)
    elif words == ["--version"]:
        print(environment.version_line())
    elif set(words) & set(HELP):
        print(__doc__, "\n".join(_help_lines()), sep="\n")
    elif words == ["settings"]:
        print(settings_page(), end="")
    else:
        return _make(words)
    return 0


@command
def _make(words):
    """Make the stage, or do the command, that the first of `words` names."""
    if words[0].startswith("-"):
        raise UserError("expected a stage first; python -m dermai_utils --help lists what there is")
    stage = pipeline.stage_name(words[0], (*COMMANDS, "compare"))
    if stage == "compare":
        return _compare(*read_words(words[1:], other=""))
    given, options = read_words(words[1:], image=(), run="")
    if options["run"] and stage not in WITH_PACK:
        raise UserError(
            f"--run FILE_OR_URL is for {', '.join(WITH_PACK)}; {stage} takes --run-name"
        )
    of_a_run = stage in COMMANDS or "train" in pipeline.order(stage)[:-1]
    cfg = None if options["run"] else (config.of_run if of_a_run else config.load)(**given)
    if (stage == "predict") != bool(options["image"]):
        raise UserError(
            "predict needs --image PHOTO (a file, a folder or a URL), and nothing else takes it"
        )
    if stage in COMMANDS:
        predictor = pipeline.predictor(cfg) if cfg else _from_pack(options["run"], given)
        paths = _do(stage, predictor, list(options["image"]))
    else:
        paths = pipeline.ensure(cfg, stage)
    if paths:
        print(paths[0])


def _compare(given, options):
    from dermai_utils.report import figures

    if not options["other"]:
        raise UserError("compare needs --other NAME, another evaluated run on the same data")
    cfg = config.of_run(**given)
    print(figures.compare(cfg, options["other"]).round(3).to_string())
    print(
        f"over 0: {cfg.run_name} is better. Intervals of 95 %, by lesion: one that holds 0 means "
        "that it is not known which is better. The luck of training is not in them: another seed "
        "moves balanced accuracy by up to 0.05"
    )


def _from_pack(source, given):
    from dermai_utils.predict import pack

    return pack.load(source, **given)


def _do(name, predictor, images):
    module = importlib.import_module(
        "dermai_utils.predict." + {"predict": "predictor"}.get(name, name)
    )
    try:
        return module.command(predictor, *([images] if images else []))
    except OSError as reason:
        raise UserError(f"{name}: {reason}") from None


# The list of settings.


def _rows():
    """(group, name, default, what is allowed, help) of each setting, texts."""
    for field in config.FIELDS.values():
        data = field.metadata
        yield data["group"], field.name, str(field.default), config.allowed(field), data["help"]


def _help_lines():
    yield f"stages: {', '.join(pipeline.STAGES)}"
    for group, rows in itertools.groupby(_rows(), key=lambda row: row[0]):
        yield f"\n{group} ({STAGES_OF[group]})"
        for _, name, default, allowed, text in rows:
            flag = f"--{name.replace('_', '-')}"
            yield f"  {flag:22} {allowed}{default and f' (default {default})'}\n{'':25}{text}"


def settings_page() -> str:
    """docs/settings.md."""
    lines = [
        "# Settings\n\nWritten by `python -m dermai_utils settings > docs/settings.md`.\n",
        "Sources, later wins: the default, the preset, `DERMAI_<SETTING>` in the environment, then",
        "a flag (`--epochs 3`) or a notebook's form. A run keeps the settings it was trained with;",
        "one that is finished and gets another one is trained anew, and kept as `NAME.previous`.",
    ]
    for group, rows in itertools.groupby(_rows(), key=lambda row: row[0]):
        lines.append(
            f"\n## {group}\n\n| setting | default | allowed | meaning |\n|---|---|---|---|"
        )
        for _, name, default, allowed, text in rows:
            lines.append(f"| `{name}` | {default and f'`{default}`'} | {allowed} | {text} |")
    lines.append("\n## Presets\n\n| preset | settings |\n|---|---|")
    for preset, settings in config.PRESETS.items():
        lines.append(f"| `{preset}` | {', '.join(f'`{k}={v}`' for k, v in settings.items())} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
