"""What fastai's fine_tune reaches in the same time: python tools/fastai_baseline.py [--minutes 20] [--field value ...]

The same backbone and weights, split, images, size and batch size; flips, any rotation and zoom; one frozen epoch, then as
many as fit into the minutes (by default those that run `run_name` was trained for). The epoch of the highest balanced
accuracy on validation is kept, as ours is; where ours averages views, so does fastai's test-time augmentation. Prints the
validation scores of both, and the paired difference with its 95 % interval by lesion; never looks at test. Written to
work/<data>/fastai.json. Needs `pip install -r requirements-bench.txt`.
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import flags  # noqa: E402
import pandas as pd  # noqa: E402
from fastai.vision import all as fastai  # noqa: E402

from dermai_utils import clean, config, files, findings, intervals, markup, model, pipeline, pixels, report, split  # noqa: E402
from dermai_utils.config import CLASSES  # noqa: E402
from dermai_utils.instant import SHOWN  # noqa: E402


def learner(cfg, frame):
    """fastai's vision_learner on `frame` (name, label, valid), its body holding the weights that ours begins with."""
    net = model.build(cfg.backbone, cfg.weights, cfg.image_size)
    loaders = fastai.ImageDataLoaders.from_df(
        frame, path="/", fn_col="name", label_col="label", valid_col="valid", bs=cfg.batch_size, num_workers=cfg.workers or 2,
        item_tfms=fastai.Resize(pixels.shape(cfg.image_size)[0]),
        batch_tfms=[
            *fastai.aug_transforms(size=cfg.image_size, flip_vert=True, max_rotate=180, max_zoom=1.25, max_warp=0.0),
            fastai.Normalize.from_stats(net.mean, net.std),
        ],
    )  # fmt: skip
    made = fastai.vision_learner(
        loaders, cfg.backbone.removeprefix("timm:"), normalize=False, pretrained=False, metrics=fastai.BalancedAccuracy()
    )
    given, body = net.state_dict(), made.model[0]
    body.load_state_dict({key: given[key.removeprefix("model.")] for key in body.state_dict()})
    made.path = cfg.cache  # where it keeps its best epoch
    return made.remove_cb(fastai.ProgressCallback)


def trained(cfg, frame, minutes):
    """(validation probabilities (N, 7), epochs, seconds) of as long a fine_tune as fits into `minutes`."""
    fastai.set_seed(cfg.seed, reproducible=True)
    trial, started = learner(cfg, frame), time.monotonic()
    trial.unfreeze()
    trial.fit(1, 1e-6)
    each = time.monotonic() - started
    epochs = max(1, round(60 * minutes / each - 0.7))  # less the frozen one, which takes 0.7 of it
    print(f"fastai: {each:.0f} s an epoch; fine_tune({epochs}) after one frozen epoch", flush=True)
    made, started = learner(cfg, frame), time.monotonic()
    made.fine_tune(epochs, cbs=fastai.SaveModelCallback(monitor="balanced_accuracy_score"))
    taken = time.monotonic() - started
    probabilities = (made.tta() if cfg.views > 1 else made.get_preds())[0].numpy()
    return probabilities[:, [list(made.dls.vocab).index(label) for label in CLASSES]], epochs, taken


def ours(cfg):
    """(rows of validation, minutes of training) of run `run_name`."""
    rows = clean.read_table(cfg.report_dir / "predictions.csv")
    return rows[rows["part"] == "val"].set_index("image"), clean.read_table(cfg.run_dir / "history.csv")["seconds"].sum() / 60


def compared(cfg, minutes) -> dict:
    """Scores of both on validation and their difference, ready for JSON."""
    found = clean.images_by_id(files.read_json(cfg.sources_file)["train"]["images"])
    table = split.read(cfg)
    table = table[table["part"].isin(["train", "val"])]
    frame = pd.DataFrame(
        {"name": table["image"].map(found).astype(str), "label": table["label"], "valid": table["part"] == "val"}
    )
    mine, taken = ours(cfg)
    rows = mine.loc[table.loc[frame["valid"], "image"]]
    truth, probabilities = report.arrays(rows)
    theirs, epochs, seconds = trained(cfg, frame, minutes or taken)
    prior = findings.training_prior(table)
    found = {"minutes": {"ours": taken, "fastai": seconds / 60}, "epochs": epochs, "n": len(truth), "seed": cfg.seed}
    for rule in ("argmax", "prior_tuned"):
        both = {"ours": _by_rule(rule, rows, probabilities, prior), "fastai": _by_rule(rule, rows, theirs, prior)}
        found[rule] = {name: intervals.headline(truth, p, rows["lesion_id"]) for name, p in both.items()}
        found[rule]["difference"] = intervals.difference(truth, both["ours"], both["fastai"], rows["lesion_id"])
    return found


def _by_rule(rule, rows, probabilities, prior):
    """The probabilities as they are, or by the rule that is tuned on these same images, for both sides alike."""
    strength = findings.tuned_strength(rows.assign(**dict(zip(CLASSES, probabilities.T, strict=True))), prior)
    return findings.rules(probabilities, prior, strength)[rule]


@flags.command
def main(words):
    given, own = flags.read(words, minutes=0.0)
    cfg = config.of_run(**given)
    pipeline.ensure(cfg, "evaluate")
    found = compared(cfg, **own)
    files.write_json(cfg.work / "fastai.json", found)
    for rule in ("argmax", "prior_tuned"):
        for name, scores in found[rule].items():
            told = ", ".join(f"{key.replace('_', ' ')} {markup.with_interval(scores[key])}" for key in SHOWN)
            print(f"{rule:<12} {name:<10} {told}")
    print("minutes of training:", ", ".join(f"{name} {minutes:.1f}" for name, minutes in found["minutes"].items()))
    print(cfg.work / "fastai.json")


if __name__ == "__main__":
    sys.exit(main())
