"""report.html: one file that holds the whole report, numbers and figures, and asks the network for nothing.

Every number in it is looked up in metrics.json by a key that stands beside it in the HTML (`data-key`), so the page and
the file can't differ, and a reader can find each number again.
"""

import html
import math

from dermai_utils import files
from dermai_utils.config import CLASS_NAMES, CLASSES, DISCLAIMER
from dermai_utils.markup import PAGE, figure, interval, num, p, pretty, section, shown, table
from dermai_utils.page_decisions import decisions, mistakes, same_images, subgroups
from dermai_utils.page_leakage import leakage

OFFICIAL_N = 1511  # images of the official test set that count
PUBLISHED = (  # on the official test set; balanced accuracy as the source prints it
    ("quick single model", "0.680 [0.634, 0.726]"),
    ("best of the challenge without external data", "0.845"),
    ("winner of the challenge", "0.885"),
)
CALIBRATION_NAMES = {
    "ece": "expected calibration error",
    "adaptive_ece": "adaptive calibration error",
    "brier": "Brier score (0 to 2)",
    "nll": "negative log-likelihood, nats",
    "confidence": "mean confidence",
    "accuracy": "accuracy",
}
LIMITS = (
    "The training images come from one clinic in Vienna and one practice in Queensland: expect lower numbers elsewhere.",
    "There are few images of dark skin, and the skin type isn't recorded: nothing here shows that it works there.",
    "Dermatoscopes only: a telephone photograph without one is another kind of image.",
    "Seven classes of pigmented lesions. Anything else gets one of the seven names all the same.",
    "Images were chosen for teaching and research. The shares of the classes are not those of a waiting room.",
    "About half of the diagnoses were confirmed under the microscope; the others by follow-up, expert consensus or confocal "
    "microscopy. So some labels are wrong.",
    "One run, one seed: the intervals tell how the numbers depend on the images, not on the training's chance.",
)
SAMPLE = " <strong>This run was made on the sample, made-up pictures, not patients: its numbers mean nothing.</strong>"
PART_WORDS = {
    "val": "the validation part, on which the checkpoint was chosen too: expect less on new images",
    "test": "the held-out test part, on which nothing was chosen",
    "official": "the official ISIC 2018 test set, on which nothing was chosen",
}


def write(cfg, found: dict) -> None:
    """Write cfg.report_dir/report.html from `found` (metrics.json) and the figures that lie beside it."""
    folder, part = cfg.report_dir, found["headline"]
    audit, checks = files.read_json(cfg.audit_file), files.read_json(folder / "gradcam.json")
    sections = [
        _headline(found, folder), _classes(found), _confusion(folder, part), _calibration(found, folder),
        decisions(found, folder), subgroups(found, folder), mistakes(found, folder), _explanations(folder, checks),
        leakage(found, audit, folder), _limits(),
    ]  # fmt: skip
    facts = {key: html.escape(str(found[key])) for key in ("run", "data", "split")}
    text = PAGE.substitute(
        facts,
        disclaimer=DISCLAIMER,
        sample=SAMPLE if found["data"] == "sample" else "",
        part=PART_WORDS[part],
        body="\n".join(filter(None, sections)),
    )
    with files.atomic(folder / "report.html") as file:
        file.write(text)


# Sections, in the order of the story.


def _headline(found, folder):
    part = found["headline"]
    key, small = f"intervals/{part}/balanced_accuracy", found["smallest_class"]
    big = num(found, f"{key}/value", "b")
    ends = [num(found, f"{key}/{end}") for end in ("low", "high")]
    names = ("balanced_accuracy", "macro_f1", "weighted_f1", "accuracy", "macro_auc", "malignant_auc")
    rows = [[pretty(name), *(interval(found, f"intervals/{one}/{name}") for one in found["parts"])] for name in names]
    header = ["", *(f"{one}, n={num(found, f'parts/{one}/n')}" for one in found["parts"])]
    return section(
        "How good is it?",
        f'<p class=hero>{big} <span>balanced accuracy<br>95 % interval {ends[0]} to {ends[1]}<br>'
        f'n={num(found, f"parts/{part}/n")} images</span></p>',
        p(f"Measured on {PART_WORDS[part]}. Balanced accuracy is the challenge's own metric: the mean, over the classes, of "
          f"the share of each that was recognised. By chance alone it would be {1 / _present(found, part):.2f}."),
        p("The interval says how far the number would move with other lesions of the same kind: lesions, not images, "
          f"were drawn anew {num(found, 'resamples')} times (two pictures of one lesion tell nearly the same thing twice). "
          "Two results whose intervals overlap widely are not known to differ. Where none or all were recognised there is "
          "nothing to draw from, and the interval comes out too narrow."),
        p(f"<strong>Small classes make it wide.</strong> Of {small['class']} ({CLASS_NAMES[small['class']]}) there are only "
          f"{num(found, 'smallest_class/n')} images: one of them more or less recognised is "
          f"{num(found, 'smallest_class/points')} points (hundredths) of balanced accuracy.", "note"),
        figure(folder / "headline.png", "Dots with whiskers: " + "; ".join(_words(found, part, name) for name in names)),
        table(header, rows, "Every held-out part, with 95 % intervals. The validation column may flatter: the checkpoint was "
                            "chosen on it."),
        _published(found, part),
    )  # fmt: skip


def _words(found, part, name):
    row = found["intervals"][part][name]
    return f"{pretty(name)} {shown(row['value'])}, {shown(row['low'])} to {shown(row['high'])}"


def _present(found, part):
    return sum(row["n"] > 0 for row in found["parts"][part]["per_class"].values())


def _published(found, part):
    """Others' results, only beside a number on the very same images."""
    if part != "official" or found["parts"][part]["n"] != OFFICIAL_N:
        return ""
    rows = [[name, text] for name, text in PUBLISHED] + [["this run", interval(found, f"intervals/{part}/balanced_accuracy")]]
    return table(["on the official test set", "balanced accuracy"], rows, "Published results on the same images.")


def _classes(found):
    part = found["headline"]
    base = f"parts/{part}/per_class"
    own = ("n", "recall", "precision", "f1", "auc")
    other = ("sensitivity", "specificity", "ppv", "npv", "dice", "ap", "auc_sens_80")

    def rows(columns):
        return [[f"<td title='{CLASS_NAMES[c]}'>{c} <small>{CLASS_NAMES[c]}</small></td>",
                 *(num(found, f"{base}/{c}/{name}", "td") for name in columns)] for c in CLASSES]  # fmt: skip

    return section(
        "Class by class",
        p("Recall: of the melanomas, how many were called melanoma. Precision: of those called melanoma, how many were. "
          "AUC: how often an image of the class scores above one of another (0.5 is chance). Read the n beside each."),
        table(["class", *map(pretty, own)], rows(own), "By the most probable class."),
        table(["class", "sensitivity", "specificity", "PPV", "NPV", "Dice", "AP", "AUC over sensitivity 80 %"], rows(other),
              "The challenge's secondary metrics: a class is called where its probability is over 0.5."),
    )  # fmt: skip


def _confusion(folder, part):
    return section(
        "What is taken for what",
        figure(folder / f"confusion_{part}.png", "Two heatmaps of true class against predicted class: images, and shares of "
               "the true class with recall on the diagonal. The class table above holds the recalls.",
               "Rows are the true class. A strong cell off the diagonal is a typical confusion."),
        figure(folder / f"roc_{part}.png", "ROC curves of the seven classes, each against the rest, with the areas that the "
               "class table lists as AUC.",
               "How well each class is ranked, whatever the threshold. A high curve with a low recall means that the "
               "decision rule is the weak part, not the features."),
    )  # fmt: skip


def _calibration(found, folder):
    rows = [[name, *(num(found, f"calibration/{when}/{key}", "td") for when in ("before", "after"))]
            for key, name in CALIBRATION_NAMES.items()]  # fmt: skip
    before, after = (shown(found["calibration"][when]["ece"]) for when in ("before", "after"))
    return section(
        "Can its probabilities be believed?",
        p("Of the images called with 80 % confidence, 80 % should be right. Points below the dotted line are too sure. "
          f"Temperature scaling divides the logits by one number, here {num(found, 'calibration/temperature')} (over 1: the "
          "model was too sure; under 1: not sure enough). It changes no call, only how sure it is."),
        same_images(found, "The temperature was fitted on the validation part only."),
        figure(folder / "calibration.png", "Two reliability diagrams, accuracy against confidence, with the number of images "
               f"in each bin. Expected calibration error {before} as predicted, {after} after temperature scaling."),
        table(["lower is better, but for the last two", "as predicted", "after temperature scaling"], rows),
    )  # fmt: skip


def _explanations(folder, checks):
    pictures = figure(
        folder / "gradcam.png",
        "For correct, wrong and uncertain images of each class: the image, its Grad-CAM and its saliency map.",
        "Left the image, middle Grad-CAM, right saliency, for the class called.",
    )
    wrong = figure(folder / "gradcam_mistakes.png", "The mistakes shown above, each beside its Grad-CAM.",
                   "The mistakes from above, each once, with its Grad-CAM.")  # fmt: skip
    if not pictures:
        return ""
    if checks and "note" in checks:
        return section("Where does it look?", p(html.escape(checks["note"])))
    return section(
        "Where does it look?",
        p("Grad-CAM marks where the evidence for the called class lies. A map on a ruler, a hair or the rim of the lens is a "
          "warning; a map on the lesion is not a proof."),
        _checked(checks),
        _on_lesion(checks),
        wrong,
        f"<details><summary>Correct, wrong and uncertain images of each class</summary>{pictures}</details>",
    )  # fmt: skip


def _checked(checks):
    """The numbers of gradcam.json, which stand there and not in metrics.json."""
    if not checks or not checks.get("mean"):
        return ""
    mean = {name: shown(number) for name, number in checks["mean"].items()}
    return p(
        f"Are the maps more than decoration? On {len(checks['images'])} images: taking away the places that the map marks "
        f"first, the mean probability of the class over the way is {mean['deletion']} (random map: "
        f"{mean['deletion_random']}; lower is better). Putting them back first: {mean['insertion']} (random: "
        f"{mean['insertion_random']}; higher is better). With the weights replaced by random ones, the maps' rank "
        f"correlation with these is {mean['randomised_correlation']}: near 0 means that they do depend on what was learnt. "
        f"<strong>Against random maps: by deletion {_than_random(checks, 'deletion', -1)}, by insertion "
        f"{_than_random(checks, 'insertion', 1)}.</strong> Where they aren't better, read nothing into the places they mark."
    )


def _on_lesion(checks):
    """Grad-CAM against the lesion masks, where the user gave some; from gradcam.json too."""
    found = (checks or {}).get("lesion", {"n": 0})
    if not found["n"]:
        return ""
    inside, area, *ends = (shown(found[name]) for name in ("inside", "area", "difference", "low", "high"))
    known = found["low"] > 0 or found["high"] < 0
    verdict = (
        ("more on the lesion than beside it" if found["low"] > 0 else "less on the lesion than beside it") if known else ""
    )
    return p(
        f"On the lesion or beside it? On {found['n']} images of the {found['part']} part with a lesion mask, {inside} of the "
        f"map lies inside the lesion, which fills {area} of the square: a difference of {ends[0]} [{ends[1]}, {ends[2]}]. "
        "A map that knows nothing of the lesion would have both equal. "
        f"<strong>These maps lie {verdict or 'no more on the lesion than chance would have it'}.</strong>"
    )


def _than_random(checks, name, sign):
    """better or no better, by more than twice the standard error of the paired differences."""
    gains = [sign * (row[name] - row[f"{name}_random"]) for row in checks["images"]]
    mean = sum(gains) / len(gains)
    error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / max(len(gains) - 1, 1) / len(gains))
    return "better" if mean > 2 * error and len(gains) > 2 else "not clearly better"


def _limits():
    return section("What it can't do", "<ul>" + "".join(f"<li>{text}</li>" for text in LIMITS) + "</ul>",
                   p(f"<strong>{DISCLAIMER}</strong>", "note"))  # fmt: skip
