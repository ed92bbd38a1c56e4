"""Grad-CAM, and plain saliency by captum: where in the image the evidence for a class lies, and
whether to believe it."""

import copy
import warnings

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from captum.attr import Saliency
from scipy.stats import ConstantInputWarning, spearmanr

from dermai_utils import files
from dermai_utils.config import CLASSES, UserError
from dermai_utils.metrics.classification import jsonable
from dermai_utils.metrics.predictions import primary_rows, unseen_by_first
from dermai_utils.report import photographs, plots, render
from dermai_utils.report.summary import listed_mistakes
from dermai_utils.training.feature_maps import feature_maps
from dermai_utils.training.inference import LoadedRun

MISTAKES = {
    "most_confident": "most confident",
    "costly": "costly",
    "likely_mislabelled": "doubtful label",
}
AT_ONCE = 8  # images whose gradients are in memory


def gradcam(network, images: torch.Tensor, targets) -> np.ndarray:
    """(N, S, S) maps in 0..1 for `images` (N, 3, S, S), normalised, and the class of each.

    Of the last feature map with more than one place (Selvaraju et al. 2017, arXiv 1610.02391),
    whose channels may come last. UserError where the network has none.
    """
    place, outputs = feature_maps(network, images.shape[-1])[-1], []

    def keep(_, __, output):
        outputs.append(output)
        return output.clone()  # what comes next may change it in place

    hook = place.module.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = network(images.detach().requires_grad_())
            targets = torch.as_tensor(targets, device=images.device)[:, None]
            gradients = torch.autograd.grad(logits.gather(1, targets).sum(), outputs)
    finally:
        hook.remove()
    gradient, activation = (place.first(x[0].detach().float()) for x in (gradients, outputs))
    maps = (gradient.mean((2, 3), keepdim=True) * activation).sum(1, keepdim=True).relu()
    return _unit(_resized(maps, images.shape[-2:])[:, 0])


def saliency(network, images: torch.Tensor, targets) -> np.ndarray:
    """(N, S, S) maps in 0..1: the largest absolute gradient of the logit over the colours.

    Simonyan et al. 2014, arXiv 1312.6034.
    """
    inputs = images.detach().clone().requires_grad_()
    maps = Saliency(network).attribute(inputs, torch.as_tensor(targets, device=images.device))
    maps = maps.abs().amax(dim=1, keepdim=True)
    maps = F.avg_pool2d(maps, 5, stride=1, padding=2)  # single pixels can't be seen
    return _unit(maps[:, 0])


def _resized(maps, size):
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _unit(maps) -> np.ndarray:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low).clamp_min(1e-12)).cpu().numpy()


def choose(predictions: pd.DataFrame, each: int = 1) -> pd.DataFrame:
    """For every class, where there are such: its most confident correct, most confident wrong, and
    least certain image, with `kind`; of several folds, of the images that the first network, of
    which the maps are, did not learn."""
    predictions = unseen_by_first(predictions)
    right = predictions["truth"] == predictions["prediction"]
    chosen = []
    for label in CLASSES:
        of_class = predictions["truth"] == label
        kinds = {
            "correct": predictions[of_class & right].nlargest(each, "confidence"),
            "wrong": predictions[of_class & ~right].nlargest(each, "confidence"),
            "uncertain": predictions[of_class].nsmallest(each, "confidence"),
        }
        chosen += [rows.assign(kind=kind) for kind, rows in kinds.items()]
    return pd.concat(chosen).drop_duplicates("image").reset_index(drop=True)


def maps_for(run: LoadedRun, rows: pd.DataFrame) -> list[dict]:
    """For each row of predictions with its `kind`: the square that the network saw, Grad-CAM and
    saliency for the class it predicted, and a title."""
    items, network = [], run.networks[0]
    for start in range(0, len(rows), AT_ONCE):
        batch = rows.iloc[start : start + AT_ONCE]
        inputs, targets = run.inputs(batch["row"].to_numpy()), _targets(batch)
        arrays = {
            "image": run.squares(inputs),
            "gradcam": gradcam(network, inputs, targets),
            "saliency": saliency(network, inputs, targets),
        }
        for k, row in enumerate(batch.to_dict("records")):
            title = f"{row['image']} ({row['kind']})\n{photographs.verdict(row)}\n"
            items.append({name: array[k] for name, array in arrays.items()} | {"title": title})
    return items


def _targets(rows):
    return [CLASSES.index(label) for label in rows["prediction"]]


# Checks: a map that a random one or a random network equals tells nothing.


@torch.inference_mode()
def curves(network, images: torch.Tensor, targets, maps, steps: int = 10) -> dict:
    """(N, steps + 1) float each: the target's probability while the places of `maps` (N, S, S) are
    taken away or put back.

    The most marked places go first. `deletion` starts at the image and blurs it place by place;
    `insertion` starts at the blurred image and sharpens it. A good map's deletion falls soon and
    its insertion rises soon (Petsiuk et al. 2018, arXiv 1806.07421; blurred in place of grey,
    because grey edges are evidence of their own).
    """
    rank = torch.as_tensor(np.ascontiguousarray(maps), device=images.device).flatten(1)
    rank = rank.argsort(1, descending=True).argsort(1)  # 0: the most marked
    rank = rank.view(len(images), 1, *images.shape[2:])
    blurred = blur(images)
    ways = {"deletion": (images, blurred), "insertion": (blurred, images)}
    targets = torch.as_tensor(targets, device=images.device)[:, None]
    values = {name: [] for name in ways}
    for step in range(steps + 1):
        first = rank < rank[0].numel() * step / steps
        for name, (before, after) in ways.items():
            probabilities = network(torch.where(first, after, before)).float().softmax(1)
            values[name].append(probabilities.gather(1, targets)[:, 0])
    return {name: torch.stack(each, 1).cpu().numpy() for name, each in values.items()}


def blur(images: torch.Tensor) -> torch.Tensor:
    """`images` (..., S, S) without detail: averaged to 4 x 4 places, and back to their size."""
    means = images.new_tensor(_means(images.shape[-1], 4))  # adaptive pooling, that MPS has not
    return _resized(means @ images @ means.T, images.shape[-2:])


def _means(size, places):
    """(places, size) float32: row k takes the mean of the part k of a line of `size`."""
    k = np.arange(places)[:, None]
    first, last = size * k // places, -(-size * (k + 1) // places)
    inside = (first <= np.arange(size)) & (np.arange(size) < last)
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


def random_maps(n: int, size: int, seed: int, cells: int = 7) -> np.ndarray:
    """(n, size, size) float in 0..1: noise as coarse as a Grad-CAM of `cells` x `cells`, so that
    only the place differs."""
    noise = torch.rand(n, 1, cells, cells, generator=torch.Generator().manual_seed(seed))
    return _unit(_resized(noise, (size, size))[:, 0])


def randomised(network, seed: int = 0) -> torch.nn.Module:
    """A copy with every layer initialised anew: the same architecture, nothing learnt (Adebayo et
    al. 2018)."""
    other = copy.deepcopy(network)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in other.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return other.eval()


def rank_correlation(a, b) -> np.ndarray:
    """(N,) Spearman's correlation of the maps (N, S, S) of two models; NaN where a map is constant.

    About 1: the maps don't depend on what was learnt, they only find edges (Adebayo et al. 2018,
    arXiv 1810.03292).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        pairs = zip(a, b, strict=True)
        return np.array([spearmanr(x.ravel(), y.ravel()).statistic for x, y in pairs])


def check(network, images: torch.Tensor, targets, seed: int = 0) -> pd.DataFrame:
    """One row an image: the means of its deletion and insertion curves with Grad-CAM and with a
    random map, and the rank correlation of its Grad-CAM with that of a randomised network."""
    maps = gradcam(network, images, targets)
    noise = random_maps(len(images), images.shape[-1], seed)
    by_map, by_noise = (curves(network, images, targets, which) for which in (maps, noise))
    columns = {name: curve.mean(1) for name, curve in by_map.items()}
    columns |= {f"{name}_random": curve.mean(1) for name, curve in by_noise.items()}
    other = gradcam(randomised(network, seed), images, targets)
    return pd.DataFrame(columns | {"randomised_correlation": rank_correlation(maps, other)})


def checks_for(run: LoadedRun, rows: pd.DataFrame) -> dict:
    """What gradcam.json holds: `check` for each of `rows` of predictions, and the means."""
    inputs = run.inputs(rows["row"].to_numpy())
    values = check(run.networks[0], inputs, _targets(rows), run.cfg.seed)
    names = rows[["image", "kind", "truth", "prediction"]].reset_index(drop=True)
    images = pd.concat([names, values], axis=1).to_dict("records")
    return jsonable({"images": images, "mean": values.mean().to_dict()})


def note(cfg) -> str:
    """What must stand beside each map of a run; "" where its check says that they are better than
    random ones."""
    checks = render.gradcam_checks(files.read_json(cfg.report_dir / "gradcam.json"))
    if not checks["mean"]:
        return "Whether this run's maps are better than random ones was not checked."
    if checks["deletion"] == checks["insertion"] == "better":
        return ""
    return "This run's maps are not clearly better than random ones: read nothing into the places."


def run(cfg) -> None:
    """Write gradcam.png (correct, wrong and uncertain images of each class of the primary subset),
    gradcam.json (the maps, checked), gradcam_mistakes.png (the report's mistakes), the report anew
    with them, and index.html."""
    metrics = files.read_json(cfg.report_dir / "metrics.json")
    rows = primary_rows(files.read_table(cfg.report_dir / "predictions.csv"))
    chosen, checks = choose(rows), {"images": [], "mean": {}}
    try:
        loaded = LoadedRun(cfg)
        checks = checks_for(loaded, chosen[chosen["kind"] != "uncertain"])
        files.write_json(cfg.report_dir / "gradcam.json", checks)
        figure = photographs.explanations(maps_for(loaded, chosen), note(cfg))
        wrong = unseen_by_first(_listed(metrics, rows))
        if len(wrong):
            pairs = photographs.pairs(maps_for(loaded, wrong), note(cfg))
            pairs.save(cfg.report_dir / "gradcam_mistakes.png")
    except UserError as reason:
        print(f"gradcam: {reason}")
        figure = plots.message(str(reason))
        files.write_json(cfg.report_dir / "gradcam.json", checks | {"note": str(reason)})
    figure.save(cfg.report_dir / "gradcam.png")
    render.report(cfg, metrics)
    print(f"gradcam: {len(chosen)} images, {cfg.show(cfg.report_dir / 'gradcam.png')}")
    print(
        f"report: {cfg.show(cfg.report_dir / 'report.html')}; all there is: "
        f"{cfg.show(render.index(cfg))}"
    )


def _listed(metrics, rows):
    """The report's mistakes of every kind, each image once."""
    kinds = [listed_mistakes(metrics, rows, k).assign(kind=name) for k, name in MISTAKES.items()]
    return pd.concat(kinds).drop_duplicates("image")
