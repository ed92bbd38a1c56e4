"""Grad-CAM of a run: gradcam.jpg, gradcam_mistakes.jpg, and gradcam.json with the checks."""

import pandas as pd

from dermai_utils import augmentation, inference, saliency
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.metrics import jsonable
from dermai_utils.predictions import unseen_by_first
from dermai_utils.reports import pictures

# Images of each class and kind whose map is checked: each costs some forty forward passes, and with
# a single one chance decides whether the maps are better than random ones.
CHECKED = 3


def choose(rows: pd.DataFrame, each: int = 1) -> pd.DataFrame:
    """The rows of predictions to explain, with their `kind`: of every class the most confident
    correct, the most confident wrong, and the least certain image.

    With folds only images that the first network was not trained on: the maps are that network's.
    """
    rows = unseen_by_first(rows)
    right, chosen = rows["truth"] == rows["prediction"], []
    for label in CLASSES:
        here = rows["truth"] == label
        chosen += [
            rows[here & right].nlargest(each, "confidence").assign(kind="correct"),
            rows[here & ~right].nlargest(each, "confidence").assign(kind="wrong"),
            rows[here].nsmallest(each, "confidence").assign(kind="least sure"),
        ]
    return pd.concat(chosen).drop_duplicates("image").reset_index(drop=True)


def squares(run, dataset, rows: pd.DataFrame):
    """(N, 3, S, S) in 0 to 1: what the network sees of N rows of predictions."""
    place = pd.Series(dataset.table.index, dataset.table["image"])
    images = inference.gather(dataset.pixels, place[rows["image"]].to_numpy(), run.device)
    return augmentation.squares(images, run.size)


def explain(run, dataset, rows: pd.DataFrame, mistakes: pd.DataFrame) -> tuple[dict, dict]:
    """({file: Figure}, what gradcam.json holds) for the rows of predictions to `choose` from, and
    for the `mistakes` that the report lists.

    Where the network has no maps, or is not here, there is no figure, and "note" says why.
    """
    try:
        checks = _checks(run, dataset, rows)
        figures = {"gradcam.jpg": _drawn(run, dataset, choose(rows), checks, with_saliency=True)}
        if len(wrong := unseen_by_first(mistakes)):
            figures["gradcam_mistakes.jpg"] = _drawn(run, dataset, wrong, checks)
    except UserError as reason:
        print(f"gradcam: {reason}")
        return {}, {"images": [], "mean": {}, "note": str(reason)}
    return figures, checks


def _targets(rows):
    return [CLASSES.index(label) for label in rows["prediction"]]


def _drawn(run, dataset, rows, checks, with_saliency=False):
    """The maps of rows of predictions, with what the checks say about them."""
    images, targets, titles = squares(run, dataset, rows), _targets(rows), pictures.verdicts(rows)
    found = saliency.gradcam(run.net, images, targets)
    if not with_saliency:
        return pictures.gradcam(images, found, titles, note(checks))
    titles = [f"{title}, {kind}" for title, kind in zip(titles, rows["kind"], strict=True)]
    smooth = saliency.saliency(run.net, images, targets)
    return pictures.gradcam(images, found, titles, note(checks), columns=2, saliency=smooth)


def _checks(run, dataset, rows) -> dict:
    """{"images": saliency.check of correct and wrong images, "mean", "verdicts"}."""
    few = choose(rows, CHECKED)
    few = few[few["kind"] != "least sure"].reset_index(drop=True)
    images, seed = squares(run, dataset, few), run.settings.get("seed", 0)
    values = saliency.check(run.net, images, _targets(few), seed)
    names = few[["image", "kind", "truth", "prediction"]]
    found = pd.concat([names, values], axis=1).to_dict("records")
    checks = {"images": found, "mean": values.mean().to_dict(), "note": ""}
    return jsonable(checks | {"verdicts": verdicts(checks)} if found else checks)


def verdicts(checks: dict) -> dict:
    """{"deletion", "insertion"}: whether the maps of gradcam.json are "better" than random ones,
    by more than twice the standard error of the paired differences; else "not clearly better"."""
    images, found = pd.DataFrame(checks["images"]), {}
    for name, sign in (("deletion", -1), ("insertion", 1)):
        gain = sign * (images[name] - images[f"{name}_random"])
        clear = len(gain) > 2 and gain.mean() > 2 * gain.sem()
        found[name] = "better" if clear else "not clearly better"
    return found


def note(checks: dict | None) -> str:
    """What must stand beside each map of a run (`checks`: gradcam.json); "" where both checks say
    that its maps are better than random ones."""
    if not (checks or {}).get("images"):
        return "Nobody checked whether the maps of this run are better than random ones."
    if set(verdicts(checks).values()) == {"better"}:
        return ""
    return "The maps of this run are not clearly better than random ones: do not rely on them."
