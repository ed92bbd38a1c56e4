"""model_card.md: what a model is, what it was made from, how good it is, and what it must not be used for.

After Mitchell et al. 2019, arXiv 1810.03993.
"""

from pathlib import Path
from string import Template

from dermai_utils import files, split
from dermai_utils.config import CLASS_NAMES, CLASSES, DISCLAIMER
from dermai_utils.findings import RULE_SCORES
from dermai_utils.markup import shown, with_interval
from dermai_utils.page import LIMITS, PART_WORDS
from dermai_utils.page_decisions import COLUMN_NAMES, RULE_NAMES

SETTINGS = (
    "backbone", "weights", "image_size", "split", "split_seed", "folds", "fold", "imbalance", "augment", "optimizer", "epochs",
    "batch_size", "learning_rate", "weight_decay", "precision", "seed",
)  # fmt: skip
HAM10000 = (
    "HAM10000, as given out for ISIC 2018 Task 3: dermoscopic images from Vienna and Queensland, licence CC BY-NC 4.0 "
    "(so nothing made from them may be sold)."
)
SAMPLE = "**Trained on the sample: made-up pictures, not patients. Its numbers mean nothing.**\n\n"


DATA = {"isic2018": HAM10000, "sample": f"Made-up pictures (tests/fixture) in the layout of the real data. That is {HAM10000}"}
OWN = f"A folder of the user's own. The classes and the layout are those of {HAM10000}"


def write(cfg, found: dict) -> None:
    """Write cfg.report_dir/model_card.md from `found` (metrics.json), the split, and the run's config.json."""
    settings = files.read_json(cfg.run_dir / "config.json") or {}
    part, counts = found["headline"], split.counts(split.read(cfg))
    decided = found["decisions"]
    text = CARD.substitute(
        run=found["run"], disclaimer=DISCLAIMER, sample=SAMPLE if found["data"] == "sample" else "",
        data=DATA.get(found["data"], OWN),
        split=found["split"], part=PART_WORDS[part], n=found["parts"][part]["n"], chosen=RULE_NAMES[decided["chosen"]],
        counts=_rows(["class", *counts], [[f"{c} ({CLASS_NAMES[c]})", *counts.loc[c]] for c in CLASSES]),
        settings=_rows(["setting", "value"], [[name, Path(str(settings[name])).name] for name in SETTINGS if name in settings]),
        headline=_rows(["", *found["parts"]], [[name.replace("_", " "), *(with_interval(found["intervals"][one][name])
                       for one in found["parts"])] for name in found["intervals"][part]]),
        classes=_rows(["class", "n", "recall", "precision", "F1", "AUC"], [[c, *(shown(row[key]) for key in
                      ("n", "recall", "precision", "f1", "auc"))] for c, row in found["parts"][part]["per_class"].items()]),
        temperature=shown(found["calibration"]["temperature"]), calibration=_calibration(found),
        rules=_rules(decided["rules"]),
        points=_points(found), coverage=_coverage(found), subgroups=_subgroups(found["subgroups"]),
        leakage=_leakage(found), limits="\n".join(f"- {text}" for text in LIMITS),
        same="Caution: that is the validation part itself; these numbers flatter.\n\n"
             if found["chosen_and_scored_on_the_same_images"] else "",
    )  # fmt: skip
    with files.atomic(cfg.report_dir / "model_card.md") as file:
        file.write(text)


def _rows(header, rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _calibration(found):
    names = {"ece": "expected calibration error", "adaptive_ece": "adaptive calibration error", "brier": "Brier score",
             "nll": "negative log-likelihood, nats"}  # fmt: skip
    both = [found["calibration"][when] for when in ("before", "after")]
    return _rows(["", "as predicted", "after temperature scaling"],
                 [[name, *(shown(numbers[key]) for numbers in both)] for key, name in names.items()])  # fmt: skip


def _rules(rules):
    lines = [[RULE_NAMES[rule], *(with_interval(row["scored"][name]) for name in RULE_SCORES)] for rule, row in rules.items()]
    return _rows(["rule", "balanced accuracy", "macro F1", "accuracy"], lines)


def _points(found):
    lines = [[point["finding"], f"{point['rate']} {100 * point['level']:.0f} %", shown(point["threshold"]),
              *(_ends(point["scored"], rate) for rate in ("sensitivity", "specificity"))]
             for point in found["operating_points"]]  # fmt: skip
    return _rows(["finding", "asked for", "threshold", "sensitivity", "specificity"], lines)


def _coverage(found):
    lines = [
        [shown(point[name]) for name in ("threshold", "coverage", "risk", "n")] for point in found["risk_coverage"]["points"]
    ]
    return _rows(["confidence from", "share answered", "share of the answers that is wrong", "n answered"], lines)


def _subgroups(found):
    if not found["part"]:
        return "No age, sex, localization or way of confirmation is given with these images."
    lines = [[COLUMN_NAMES.get(column, column), f"{row['group']}{' (few)' if row['small'] else ''}", row["n"], row["classes"],
              *(_ends(row, name) for name in ("balanced_accuracy", "accuracy"))]
             for column, rows in found["groups"].items() for row in rows]  # fmt: skip
    words = (
        f"Of the {found['part']} part; “few” marks under {found['small_below']} images, “classes” how many of the seven occur."
    )
    return words + "\n\n" + _rows(["", "group", "n", "classes", "balanced accuracy", "accuracy"], lines)


def _ends(row, name) -> str:
    return with_interval({"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]})


def _leakage(found):
    counts, about = found["near_duplicates"], found["inflation"]
    text = (f"{counts['pairs']} pairs of images are known to show one lesion under two ids. {counts['in_two_parts']} of them "
            f"lie in two parts of this split; {counts['with_official']} more tie a training to an official image.")  # fmt: skip
    if not about or not about["prone_images"]:
        return text
    lines = [[name, shown(row["random"]), shown(row["lesion"]), with_interval(row | {"value": row["difference"]})]
             for name, row in about["classifiers"].items()]  # fmt: skip
    return (f"{text} What a random split would add, measured with simple classifiers on frozen features, on the "
            f"{about['prone_images']:,} images of which another view exists (balanced accuracy):\n\n"
            + _rows(["", "random split", "lesion-safe split", "difference"], lines))  # fmt: skip


CARD = Template("""# Model card: DermAI-ISIC2018, run $run

> $disclaimer

${sample}A classifier of one dermoscopic image into seven diagnoses. It gives seven probabilities.

## Intended use

Teaching and research: how such classifiers are trained, evaluated and misjudged. A baseline for other work on the same data.

Not intended: any decision about a person, screening, triage, self-examination, photographs made without a dermatoscope, lesions
outside the seven classes, or a comparison with physicians.

## Data

$data

Split by $split; images of each class in each part:

$counts

## Training

$settings

## Results

Quoted: $part, n=$n. All intervals are 95 %, bootstrapped by lesion.

$headline

$classes

### Calibration

One temperature, $temperature, fitted on validation alone.

$calibration

### Decisions

Thresholds and rule were chosen on validation and scored on the quoted part. The rule chosen there: $chosen.

$same$rules

$points

### Abstaining

Answering only the surest images, with confidence thresholds chosen on validation:

$coverage

### Subgroups

$subgroups

### Leakage

$leakage

The mistakes stand in `report.html`, with their Grad-CAM; every number in `metrics.json`.

## Limits

$limits

## Citations

- Tschandl P., Rosendahl C., Kittler H. The HAM10000 dataset, a large collection of multi-source dermatoscopic images of common
  pigmented skin lesions. Sci. Data 5, 180161 (2018). doi.org/10.1038/sdata.2018.161
- Codella N. et al. Skin Lesion Analysis Toward Melanoma Detection 2018: A Challenge Hosted by the International Skin Imaging
  Collaboration (ISIC). arXiv 1902.03368 (2019).
""")
