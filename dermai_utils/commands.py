"""What the commands do: each takes Settings, and returns where its result lies.

Only `train` and `run` train. Notebook 00 calls `run`.
"""

import contextlib
import functools
import os
from pathlib import Path

import dermai_utils as dermai
from dermai_utils import colab, files, settings
from dermai_utils.basics import UserError, counted

SCORES = ("balanced_accuracy", "macro_f1", "macro_auc")  # that are printed


# The data.


def data(s):
    """find or download the data, decode it once: table.csv, rejected.csv"""
    return _write_tables(s, load(s))


def split(s):
    """the same table with the subset of each image; audit.json"""
    dataset = load(s)
    shared = _audit(s, dataset, subsets(s, dataset))
    print(shared.astype(object).fillna("not known").to_string())
    return s.work / "table.csv"


def load(s, size=None):
    """The Dataset of these Settings; size: px, by default theirs."""
    folders = dict(test=s.test_sets, extra=s.extra, cache=s.cache, leave_out=(s.work,))
    first = contextlib.nullcontext()
    if "RANK" in os.environ:  # one of accelerate's processes fills the cache; the others find it
        from accelerate import PartialState

        first = PartialState().main_process_first()
    with first:
        return dermai.load(s.data, size or s.size, base_url=s.base_url, **folders)


def subsets(s, dataset):
    """The subset of each row of `dataset.table`: a split, folds, or the file given as --split."""
    from dermai_utils import splits

    table, pairs = dataset.table, dermai.near_duplicates(s.near_duplicates)
    options = dict(val=s.val_fraction, seed=s.split_seed, pairs=pairs)
    ours = options | dict(test=s.test_share, train_fraction=s.train_fraction)
    if s.split not in ("lesion", "random"):
        subset = dermai.read_split(s.split, table, leave_out=s.leaks == "leave_out", **options)
    elif s.folds:
        subset = dermai.folds(table, s.folds, **ours)
    else:
        subset = dermai.split(table, strategy=s.split, **ours)
    for note in splits.notes(table, subset, pairs):
        print(f"split: {note}")
    return subset


def _write_tables(s, dataset, subset=None, audit=None):
    """table.csv, rejected.csv and audit.json, for reading."""
    table = dataset.table.drop(columns="path")
    table = table if subset is None else table.assign(subset=subset)
    s.work.mkdir(parents=True, exist_ok=True)
    with files.locked(s.work):
        files.sweep(s.work)
        files.write_table(table, s.work / "table.csv")
        files.write_table(dataset.rejected, s.work / "rejected.csv")
        if audit is not None:
            files.write_json(s.work / "audit.json", audit)
    return s.work / "table.csv"


def _audit(s, dataset, subset):
    """What every two subsets share, as a DataFrame; also writes it and the tables."""
    found = dermai.audit(dataset.table, subset, dermai.near_duplicates(s.near_duplicates))
    rows = found.astype(object).where(found.notna(), None)  # not known
    _write_tables(s, dataset, subset, rows.to_dict("index"))
    return found


# A run.


def train(s):
    """train a network: the folder of a run"""
    return trained(s, *_prepared(s)).folder


def _prepared(s):
    """(Dataset, the subset of each row); a misspelt backbone is refused before any download."""
    from dermai_utils import networks

    networks.check_name(s.backbone)
    dataset = load(s)
    return dataset, subsets(s, dataset)


def new_network(s):
    """The network of these Settings, before training."""
    return dermai.network(s.backbone, s.weights, s.size, s.seed)


def trained(s, dataset, subset):
    """The finished Run of these Settings; goes on from its last checkpoint."""
    from dermai_utils import training

    options = settings.training_options(s)
    if subset.str.isdecimal().any():
        make = functools.partial(new_network, s)
        return training.train_folds(dataset, subset, make, s.run_folder, **options)
    return training.train(dataset, subset, new_network(s), s.run_folder, **options)


def finished(s):
    """(Run, Dataset) of these Settings: the run is opened where it is finished, else trained."""
    if (s.run_folder / "predictions.csv").exists():
        done = opened(s)
        return done, _dataset_of(s, done)
    dataset, subset = _prepared(s)
    return trained(s, dataset, subset), dataset


def run(s):
    """all of it, from the data to the report: what notebook 00 does"""
    speed = colab.check(s)
    dataset, subset = _prepared(s)
    if speed and s.data not in settings.NAMES:  # now the number of images is known
        used = subset.isin(("train", "val")) | subset.str.isdecimal()
        print(colab.time_line(s, speed, int(used.sum())))
    _audit(s, dataset, subset)
    done, kept = trained(s, dataset, subset), s.run_folder / "studies.json"
    if not kept.exists():
        files.write_json(kept, _studies(s, dataset, subset))
    return _report(s, done, dataset)


def _report(s, run, dataset):
    """The report and the index of a trained run; returns the report's path."""
    from dermai_utils import reports
    from dermai_utils.study import text

    page = dermai.report(run, dataset)
    print(text.headline(run.metrics))
    print(f"start here: {reports.index(s.work)}")
    return page


def opened(s, run="", pretrained=False):
    """The run of these Settings, of the pack `run` (a file or an address), or the shipped model."""
    if run and pretrained:
        raise UserError("--run and --pretrained: give one of them")
    if pretrained:
        return dermai.pretrained(s.device)
    if run:
        from dermai_utils.app import pack

        return pack.open_pack(run, s.cache, device=s.device)
    return dermai.open_run(s.run_folder, device=s.device)


def _answering(s, run, run_name) -> tuple:
    """(the run that answers, the folder for its table): the run of that name, the pack, else
    always the shipped model. Prints which."""
    if run_name and run:
        raise UserError("--run and --run-name: give one of them")
    done = opened(s, run, pretrained=not (run or run_name))
    date = done.settings.get("date")
    shipped = f"{done.name}, the model that comes with the package"
    which = f"run {done.name}" if run_name else f"pack {done.name}" if run else shipped
    if not (run or run_name) and s.data != "sample":
        which += f" (for a run on {s.name}, add --run-name NAME)"
    print(f"answers by {which}{f', trained on {date}' if date else ''}")
    return done, done.folder if run_name else Path.cwd()


def _dataset_of(s, run):
    """The Dataset at the run's size. UserError where the run was trained on another one."""
    if (other := run.settings["data"]) != s.name:
        raise UserError(f"run {run.name} was trained on data={other}, not on {s.name}: give --data")
    dataset = load(s, run.size)
    if changes := run.changes(dataset):
        print(f"data: since run {run.name} was trained: {changes}")
        print("data: its scores are of the images that it had then")
        print("data: to train and score on new images, train again with another --run-name")
    return dataset


def report(s):
    """evaluate a run: metrics, figures, Grad-CAM, report.html, model card"""
    done = opened(s)
    return _report(s, done, _dataset_of(s, done))


def evaluate(s, run="", pretrained=False, run_name=""):
    """judge a model on your own labelled images: --pretrained --test FOLDER, the shipped model"""
    if not s.test:
        raise UserError("evaluate: give --test FOLDER, the labelled images to judge the model on")
    if not (run or pretrained or run_name):
        raise UserError("evaluate: which model? give --pretrained, --run PACK or --run-name NAME")
    if not (run or pretrained):
        return report(s)
    done = opened(s, run, pretrained)
    from dermai_utils.app import clinic

    work = Path(s.work_dir or settings.ROOT / "work").absolute()
    folder = work / "pretrained" if pretrained else work / "packs" / done.name
    cache = Path(s.cache_dir or settings.ROOT / "cache" / "test_sets").absolute()
    tests = clinic.load(s.test, done.size, cache)
    folder = clinic.free_folder(folder / "_".join(tests.table["source"].unique()), s.test)
    return clinic.evaluate(done, tests, folder)


def gradcam(s):
    """where the network looks: gradcam.jpg, and a check of the maps"""
    from dermai_utils import predictions
    from dermai_utils.reports import maps

    done = opened(s)
    rows = predictions.primary_rows(done.predictions)
    figures, checks = maps.explain(done, _dataset_of(s, done), rows, rows[:0])
    files.write_json(done.folder / "gradcam.json", checks)
    for name, figure in figures.items():
        figure.save(done.folder / name)
    print(maps.note(checks))
    return done.folder / "gradcam.json"


def compare(s, other=""):
    """two runs with a report, on the same images, paired by lesion: --other NAME"""
    if not other:
        raise UserError("compare needs --other NAME, another run on the same data")
    from dermai_utils.reports import comparison

    found = comparison(opened(s), dermai.open_run(s.runs / other))
    print(found.round(3).to_string(na_rep="not known"))
    print(
        f"over 0: {s.run_name} is better on these images. low and high: the 95 % interval, by "
        "lesion where that is known; where it holds 0, nobody knows which is better. Another seed "
        "of one setting may differ as much: five networks on ISIC 2018 differed by up to 0.07 in "
        "balanced accuracy"
    )


# Studies of the data, by a network as it was before training.


def _features(s, dataset):
    """(N, D) features of every image."""
    from dermai_utils import inference

    net = new_network(s).to(inference.device(s.device))
    return dermai.predict(net, dataset.pixels, with_features=True)[1]


def _studies(s, dataset, subset) -> dict:
    """{"probe", "leakage_effect"}, for the report; None, and why, for what is not possible."""
    features, found = _features(s, dataset), {}
    for name, study in (("probe", _probe), ("leakage_effect", _leakage_effect)):
        try:
            found[name] = study(s, dataset, subset, features)
        except UserError as reason:
            print(f"not possible here: {reason}")
            found[name] = None
    return found


def _probe(s, dataset, subset, features) -> dict:
    about = {"backbone": s.backbone, "size": s.size}
    return about | dermai.linear_probe(features, dataset.table, subset)


def _leakage_effect(s, dataset, subset, features) -> dict:
    about = {"backbone": s.backbone, "weights": Path(s.weights).name, "size": s.size}
    pairs = dermai.near_duplicates(s.near_duplicates)
    return about | dermai.leakage_effect(features, dataset.table, pairs)


def probe(s):
    """logistic regression on frozen features: the number that training has to beat"""
    from dermai_utils.study import text

    dataset, path = load(s), s.work / "linear_probe.json"
    found = _probe(s, dataset, subsets(s, dataset), _features(s, dataset))
    for name, scores in found["subsets"].items():
        words = (f"{text.pretty_name(m)} {text.with_interval(scores[m])}" for m in SCORES)
        print(f"probe: {name}, n={scores['n']:,}: {', '.join(words)}")
    files.write_json(path, found)
    return path


def leakage_effect(s):
    """the scores of one classifier under a random and a lesion-safe split"""
    dataset, path = load(s), s.work / "leakage_effect.json"
    found = _leakage_effect(s, dataset, None, _features(s, dataset))
    print(f"leakage effect: the {found['prone_images']:,} images whose lesion has several images")
    for name, row in found["classifiers"].items():
        scores = f"{row['random']:.3f} under a random split, {row['lesion']:.3f} by lesion"
        print(f"leakage effect: {name}: balanced accuracy {scores}")
    files.write_json(path, found)
    return path


def near_duplicates(s):
    """search for pictures of one lesion under two ids: near_duplicates.csv and .jpg"""
    from dermai_utils.reports import pictures
    from dermai_utils.study.near_duplicates import search

    dataset, path = load(s), s.work / "near_duplicates.csv"
    found = search(dataset.table, dataset.pixels, _features(s, dataset))
    files.write_table(found, path)
    print(f"near-duplicates: {counted(len(found), 'pair')} found")
    if len(found):
        print("look at each pair and delete the wrong rows; then train with --near-duplicates FILE")
        a, b = (dataset.pixels[dataset.rows(found[f"image_{x}"])] for x in "ab")
        titles = found.astype(str).agg(" ".join, axis=1)
        pictures.pairs(list(zip(a, b, titles, strict=True))).save(path.with_suffix(".jpg"))
    return path


# Anybody's split or predictions.


def audit(s, files, against=""):
    """check anybody's split or predictions, without images: leaks, score, verdict"""
    from dermai_utils import audits

    pairs = dermai.near_duplicates(s.near_duplicates)
    options = dict(against=against, cache=s.cache, pairs=pairs)
    found = audits.audit_files(files, _known_images(s), **options)
    print("\n".join(audits.lines(found)))
    about_data = s.work_dir or s.data not in settings.NAMES
    folder = (s.work if about_data else settings.ROOT / "work") / "audits"
    return audits.save_in(folder, found, [*files, *[against] * bool(against)])


def _known_images(s):
    """What --data says of its images: a copy of a data set, or a table alone. None without it."""
    from dermai_utils.audits import reading

    if s.data in settings.NAMES:
        return None
    path = Path(s.data)
    table_alone = path.is_file() and path.suffix.lower() != ".zip"
    table = reading.read(path) if table_alone else load(s, 32).table.fillna("").astype(str)
    return reading.described(table).assign(known_as=s.name)


# Answers.


def predict(s, image=(), run="", run_name=""):
    """answers about photos of your own, by the shipped model: --image FILE, FOLDER or URL"""
    if not image:
        raise UserError("predict needs --image PHOTO: a file, a folder or a URL")
    from dermai_utils.app import answers

    done, folder = _answering(s, run, run_name)
    found = dermai.answer(done, list(image), maps=False)
    print(answers.printed(found))
    numbered = (folder / f"own_predictions{k and f'-{k}' or ''}.csv" for k in (0, *range(2, 10**6)))
    path = next(path for path in numbered if not path.exists())
    files.write_table(answers.table(found), path)
    return f"table written to {path}"


def app(s, run="", run_name=""):
    """a page on this machine where a photo can be dropped"""
    from dermai_utils.app import page, predictor

    done, _ = _answering(s, run, run_name)
    here = run_name and s.cache.exists()  # with the data, similar images are shown too
    page.serve(predictor.Predictor(done, _dataset_of(s, done) if here else None))


def export(s, run="", pretrained=False):
    """the network as .pt2 and ONNX, with the preprocessing in it"""
    from dermai_utils.app import export

    done = opened(s, run, pretrained)
    return export.export(done, folder=Path.cwd() if run or pretrained else done.folder)[0]


def pack(s):
    """a run as one file to give away"""
    from dermai_utils.app import pack

    return pack.pack(opened(s))


def list_settings(s):
    """print the list of all settings and presets, as Markdown"""
    print(settings.page(), end="")
