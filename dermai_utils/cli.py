"""python -m dermai_utils COMMAND [--setting value ...]: words -> calls of the public functions.

The last line of each command says where its result lies. Only `train` and `run` train.
"""

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import dermai_utils as dermai
from dermai_utils import colab, files, settings
from dermai_utils.basics import DISCLAIMER, UserError, did_you_mean
from dermai_utils.settings import FIELDS

# What the commands read: groups of settings, and single ones.
FOLDERS = ("data", "test", "extra", "base_url", "cache_dir", "work_dir")
DATA = (*FOLDERS, "preset", "size")
SPLIT = (*DATA, "Split")
ALL = ("Data and folders", "Split", "Model", "Training", "Machine", "Evaluation")
RUN = (*FOLDERS, "run_name", "device")  # the rest stands in the run
SCORES = ("balanced_accuracy", "macro_f1", "macro_auc")  # that are printed
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
    if os.environ.get("RANK", "0") != "0":  # only the main one of several processes speaks
        sys.stdout = open(os.devnull, "w")
    result = COMMANDS[name].function(settings.read(**given), own)
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
    made = Parser(
        prog=f"python -m dermai_utils {name}",
        description=this.function.__doc__,
        usage="%(prog)s [--setting value ...]",
    )
    for flag, options in this.options.items():
        made.add_argument(f"--{flag}", **{"action": _Once} | options)
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


def split_words(parser, words) -> tuple[dict, argparse.Namespace]:
    """({setting: text}, the command's own options) of `--name value` and `--name=value`."""
    given = parser.parse(words)
    own = {action.dest: None for action in parser._actions} | given
    return {k: v for k, v in given.items() if k in FIELDS}, argparse.Namespace(**own)


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


# The data.


def load(s, size=None):
    """The Dataset of these Settings; size: px, by default theirs."""
    with _main_first():
        return dermai.load(
            s.data,
            size or s.size,
            test=s.test_sets,
            extra=s.extra,
            cache=s.cache,
            base_url=s.base_url,
            leave_out=(s.work,),
        )


def _main_first():
    """One of accelerate's processes fills the cache; the others then find it."""
    if "RANK" not in os.environ:
        return contextlib.nullcontext()
    from accelerate import PartialState

    return PartialState().main_process_first()


def subsets(s, dataset):
    """The subset of each row of `dataset.table`: a split, folds, or the file given as --split."""
    table, pairs = dataset.table, dermai.near_duplicates(s.near_duplicates)
    common = dict(seed=s.split_seed, pairs=pairs, train_fraction=s.train_fraction)
    if s.split not in ("lesion", "random"):
        return dermai.read_split(s.split, table)
    if s.folds:
        return dermai.folds(table, s.folds, s.test_share, val=s.val_fraction, **common)
    return dermai.split(table, s.val_fraction, s.test_share, strategy=s.split, **common)


def data(s, own):
    """find or download the data, decode it once: table.csv, rejected.csv"""
    return write_tables(s, load(s))


def split(s, own):
    """the same table with the subset of each image; audit.json"""
    dataset = load(s)
    subset = subsets(s, dataset)
    found = audit(s, dataset, subset)
    print(found.to_string())
    return write_tables(s, dataset, subset, found)


def audit(s, dataset, subset):
    """What every two subsets share, as a DataFrame."""
    return dermai.audit(dataset.table, subset, dermai.near_duplicates(s.near_duplicates))


def write_tables(s, dataset, subset=None, audit=None) -> Path:
    """Write the tables of data and split for reading; return the folder."""
    table = dataset.table.drop(columns="path")
    files.write_table(
        table if subset is None else table.assign(subset=subset), s.work / "table.csv"
    )
    files.write_table(dataset.rejected, s.work / "rejected.csv")
    if audit is not None:
        rows = audit.astype(object).where(audit.notna(), None)
        files.write_json(s.work / "audit.json", rows.to_dict("index"))
    return s.work / "table.csv"


# A run.


def train(s, own):
    """train a network: the folder of a run"""
    dataset = load(s)
    return trained(s, dataset, subsets(s, dataset)).folder


def trained(s, dataset, subset):
    """The finished Run of these Settings; goes on from its last checkpoint."""
    from dermai_utils import training

    def net():
        return dermai.network(s.backbone, s.weights, s.size, s.seed)

    names = "epochs batch_size learning_rate seed imbalance freeze first_size tta device precision"
    options = {name: getattr(s, name) for name in (*names.split(), "tracker")}
    options |= settings.FURTHER.get(s.preset, {}) | {"settings": kept_settings(s)}
    if subset.str.isdecimal().any():
        return training.train_folds(dataset, subset, net, s.run_folder, **options)
    return training.train(dataset, subset, net(), s.run_folder, **options)


def kept_settings(s) -> dict:
    """What a run keeps of its Settings besides the arguments of train(): how it was split."""
    names = "near_duplicates split split_seed val_fraction test_fraction train_fraction"
    return {name: getattr(s, name) for name in names.split()} | {"data": s.name}


def run(s, own):
    """all of it, from the data to the report: what notebook 00 does"""
    colab.check(s)
    dataset = load(s)
    subset = subsets(s, dataset)
    found = audit(s, dataset, subset)
    write_tables(s, dataset, subset, found)
    done = trained(s, dataset, subset)
    kept = done.folder / "studies.json"
    if not kept.exists():
        files.write_json(kept, studies(s, dataset, subset))
    return finish(s, done, dataset, found)


def finish(s, run, dataset, audit=None) -> Path:
    """The app's state, the report and the index of a trained run; returns the report's path."""
    from dermai_utils import reports
    from dermai_utils.app import state
    from dermai_utils.study import text

    kept = files.read_json(run.folder / "studies.json") or {}
    answers = state.save(run, state.prepare(run, dataset))
    page = dermai.report(run, dataset, audit=audit, answers=answers, **kept)
    print(text.headline(run.metrics))
    print(f"start here: {reports.index(s.work)}")
    return page


def opened(s, own):
    """The run of these Settings, or the pack that --run names. UserError where there is none."""
    if own.run:
        from dermai_utils.app import pack

        return pack.open_pack(own.run, s.cache, device=s.device)
    return dermai.open_run(s.run_folder, device=s.device)


def dataset_of(s, run):
    """The Dataset at the run's size. UserError where the run was trained on another one."""
    if run.settings["data"] != s.name:
        other = run.settings["data"]
        raise UserError(f"run {run.name} was trained on data={other}, not on {s.name}: give --data")
    return load(s, run.size)


def report(s, own):
    """evaluate a run: metrics, figures, Grad-CAM, report.html, model card"""
    done = dermai.open_run(s.run_folder, device=s.device)
    return finish(s, done, dataset_of(s, done))


def evaluate(s, own):
    """the same without the pictures; needs no data, but for a new --test"""
    done = opened(s, own)
    return dermai.report(done, dataset_of(s, done) if s.test else None)


def gradcam(s, own):
    """where the network looks: gradcam.png, and a check of the maps"""
    from dermai_utils import predictions
    from dermai_utils.reports import maps

    done = dermai.open_run(s.run_folder, device=s.device)
    rows = predictions.primary_rows(done.predictions)
    figures, checks = maps.explain(done, dataset_of(s, done), rows, rows[:0])
    files.write_json(done.folder / "gradcam.json", checks)
    for name, figure in figures.items():
        figure.save(done.folder / name)
    print(maps.note(checks))
    return done.folder / "gradcam.png"


def compare(s, own):
    """two runs on the same images, paired by lesion: --other NAME"""
    if not own.other:
        raise UserError("compare needs --other NAME, another run on the same data")
    from dermai_utils.reports import comparison

    found = comparison(dermai.open_run(s.run_folder), dermai.open_run(s.runs / own.other))
    print(found.round(3).to_string())
    print(
        f"over 0: {s.run_name} is better. Intervals of 95 %, by lesion: with 0 in it, nobody knows "
        "which is better. They leave out the luck of training: another seed moves balanced "
        "accuracy by up to 0.05"
    )


# Studies of the data with a network that was not trained on it.


def features(s, dataset):
    """(N, D) features of every image by the backbone as it was before training."""
    from dermai_utils import inference

    net = dermai.network(s.backbone, s.weights, s.size, s.seed).to(inference.device(s.device))
    return dermai.predict(net, dataset.pixels, with_features=True)[1]


def studies(s, dataset, subset) -> dict:
    """{"probe", "leakage_effect"}, for the report; None, and why, for what is not possible."""
    found = features(s, dataset)
    return {
        "probe": optional(linear_probe, s, dataset, subset, found),
        "leakage_effect": optional(effect, s, dataset, found),
    }


def optional(function, *arguments):
    """What `function` returns; None, and a line that says why, where that is not possible."""
    try:
        return function(*arguments)
    except UserError as reason:
        print(f"not possible here: {reason}")


def linear_probe(s, dataset, subset, found) -> dict:
    """Logistic regression on the features `found`: the number to beat."""
    about = {"backbone": s.backbone, "size": s.size}
    return about | dermai.linear_probe(found, dataset.table, subset)


def effect(s, dataset, found) -> dict:
    """How much a random split flatters, on the training images."""
    about = {"backbone": s.backbone, "weights": Path(s.weights).name, "size": s.size}
    return about | dermai.leakage_effect(
        found, dataset.table, dermai.near_duplicates(s.near_duplicates)
    )


def probe(s, own):
    """logistic regression on frozen features: the number that training has to beat"""
    from dermai_utils.study import text

    dataset = load(s)
    found = linear_probe(s, dataset, subsets(s, dataset), features(s, dataset))
    for name, scores in found["subsets"].items():
        words = (f"{text.pretty_name(m)} {text.with_interval(scores[m])}" for m in SCORES)
        print(f"probe: {name}, n={scores['n']:,}: {', '.join(words)}")
    return _write(s.work / "linear_probe.json", found)


def leakage_effect(s, own):
    """the scores of one classifier under a random and a lesion-safe split"""
    dataset = load(s)
    found = effect(s, dataset, features(s, dataset))
    for name, row in found["classifiers"].items():
        print(
            f"leakage effect: {name}: balanced accuracy {row['random']:.3f} under the random split, "
            f"{row['lesion']:.3f} under the lesion-safe one, on the {found['prone_images']:,} "
            "images of lesions with several images"
        )
    return _write(s.work / "leakage_effect.json", found)


def _write(path, values):
    files.write_json(path, values)
    return path


def near_duplicates(s, own):
    """search for pictures of one lesion under two ids: a table and a sheet of pictures"""
    from dermai_utils.study.near_duplicates import search

    dataset = load(s)
    pairs = search(dataset.table, dataset.pixels, features(s, dataset))
    files.write_table(pairs, s.work / "near_duplicates.csv")
    return s.work / "near_duplicates.csv"


# Answers.


def predict(s, own):
    """answers about photos of your own: --image FILE, FOLDER or URL"""
    if not own.image:
        raise UserError("predict needs --image PHOTO: a file, a folder or a URL")
    from dermai_utils.app import answers

    run = opened(s, own)
    found = dermai.answer(run, own.image, maps=False)
    print(answers.printed(found), DISCLAIMER, sep="\n")
    path = (Path.cwd() if own.run else run.folder) / "own_predictions.csv"
    files.write_table(answers.table(found), path)
    return path


def page(s, own):
    """a page on this machine where a photo can be dropped"""
    from dermai_utils.app import page, predictor

    page.serve(predictor.Predictor(opened(s, own)))


def export(s, own):
    """the network as .pt2 and ONNX, preprocessing inside"""
    from dermai_utils.app import export

    return export.export(opened(s, own))[0]


def pack(s, own):
    """a run as one file to give away"""
    from dermai_utils.app import pack

    return pack.pack(dermai.open_run(s.run_folder, device=s.device))


def settings_page(s, own):
    """the list of settings, as docs/settings.md has it"""
    print(settings.page(), end="")


class Command(NamedTuple):
    function: Callable  # of Settings and the command's own options; returns where the result lies
    reads: tuple  # groups of settings, and single ones
    options: dict = {}  # its own: {flag: arguments of add_argument}


IMAGE = {"image": dict(action="extend", nargs="+", help="your own pictures")}
PACK = {"run": dict(metavar="FILE_OR_URL", help="a pack, in place of a run of this machine")}
OTHER = {"other": dict(metavar="NAME", help="the run to compare with")}
COMMANDS = {
    "run": Command(run, ALL),
    "data": Command(data, DATA),
    "split": Command(split, SPLIT),
    "train": Command(train, ALL),
    "report": Command(report, RUN),
    "evaluate": Command(evaluate, RUN, PACK),
    "gradcam": Command(gradcam, RUN),
    "compare": Command(compare, RUN, OTHER),
    "predict": Command(predict, RUN, IMAGE | PACK),
    "app": Command(page, RUN, PACK),
    "pack": Command(pack, RUN),
    "export": Command(export, RUN, PACK),
    "probe": Command(probe, FEATURES),
    "leakage-effect": Command(leakage_effect, FEATURES),
    "near-duplicates": Command(near_duplicates, FEATURES),
    "settings": Command(settings_page, ()),
}
