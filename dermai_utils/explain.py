"""Grad-CAM and plain saliency, by captum: where in the image the evidence for a class lies, and whether to believe it."""

import copy
import warnings

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam, Saliency
from scipy.stats import ConstantInputWarning, spearmanr

from dermai_utils import clean, files, masks, page, plots, train
from dermai_utils.config import CLASSES, UserError
from dermai_utils.findings import plain
from dermai_utils.report import counting, headline_part, mistaken, save_figure

MISTAKES = {"most_confident": "most confident", "costly": "costly", "likely_mislabelled": "doubtful label"}


def last_feature_map(net, size: int) -> torch.nn.Module:
    """The last module whose output is a map (1, C, h, w) with more than one place: what Grad-CAM weighs.

    UserError where there is none: a vision transformer keeps a list of tokens instead.
    """
    return feature_maps(net, size)[-1][0]


def feature_maps(net, size: int) -> list:
    """Every (module, side of its map), in the order in which they run; a module that runs twice is there twice. UserError as
    `last_feature_map`."""
    found, hooks = [], []

    def note(module, _, output):
        is_map = isinstance(output, torch.Tensor) and output.ndim == 4 and output.requires_grad
        if is_map and output.shape[2] == output.shape[3] > 1:  # square, as the input: not (1, h, w, C)
            found.append((module, output.shape[2]))

    for module in net.modules():
        if not list(module.children()):
            hooks.append(module.register_forward_hook(note))
    try:
        device = next(net.parameters()).device
        net(torch.zeros(1, 3, size, size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    if len(found) < 2:  # one alone is a transformer's patch embedding
        raise UserError("Grad-CAM needs a convolutional feature map, and this backbone (a transformer on tokens) has none")
    return found


def gradcam(net, images: torch.Tensor, targets) -> np.ndarray:
    """(N, S, S) maps in 0..1 for `images` (N, 3, S, S), normalised, and the class of each.

    Selvaraju et al. 2017, arXiv 1610.02391.
    """
    layer = last_feature_map(net, images.shape[-1])
    maps = LayerGradCam(net, layer).attribute(
        images, target=torch.as_tensor(targets, device=images.device), relu_attributions=True
    )
    maps = F.interpolate(maps.detach().float(), images.shape[-2:], mode="bilinear", align_corners=False)
    return _unit(maps[:, 0])


def saliency(net, images: torch.Tensor, targets) -> np.ndarray:
    """(N, S, S) maps in 0..1: the largest absolute gradient of the logit over the colours.

    Simonyan et al. 2014, arXiv 1312.6034.
    """
    maps = Saliency(net).attribute(
        images.detach().clone().requires_grad_(), target=torch.as_tensor(targets, device=images.device)
    )
    maps = F.avg_pool2d(maps.abs().amax(dim=1, keepdim=True), 5, stride=1, padding=2)  # single pixels can't be seen
    return _unit(maps[:, 0])


def _unit(maps) -> np.ndarray:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low).clamp_min(1e-12)).cpu().numpy()


def choose(predictions: pd.DataFrame, each: int = 1) -> pd.DataFrame:
    """For every class, where there are such: its most confident correct, most confident wrong, and least certain image."""
    right = predictions["truth"] == predictions["prediction"]
    picked = []
    for label in CLASSES:
        mine = predictions["truth"] == label
        for kind, rows in (
            ("correct", predictions[mine & right].nlargest(each, "confidence")),
            ("wrong", predictions[mine & ~right].nlargest(each, "confidence")),
            ("uncertain", predictions[mine].nsmallest(each, "confidence")),
        ):
            picked.append(rows.assign(kind=kind))
    return pd.concat(picked).drop_duplicates("image").reset_index(drop=True)


def maps_for(cfg, chosen: pd.DataFrame) -> list[dict]:
    """For each chosen row: the square that the model saw, Grad-CAM and saliency for the class it predicted, and a title."""
    accelerator = train.start(cfg, train.quiet)
    net, _ = train.load_best(cfg, accelerator.device)
    batches = train.batches_for(cfg, net, accelerator.device)
    items = []
    for start in range(0, len(chosen), 8):
        some = chosen.iloc[start : start + 8]
        images = batches(some["row"].to_numpy())
        targets = [CLASSES.index(label) for label in some["prediction"]]
        cams, grads = gradcam(net, images, targets), saliency(net, images, targets)
        for image, cam, grad, (_, row) in zip(seen(images, net), cams, grads, some.iterrows(), strict=True):
            title = f"{row['image']} ({row['kind']})\n{row['truth']} called {row['prediction']} ({row['confidence']:.0%})\n"
            items.append({"image": image, "gradcam": cam, "saliency": grad, "title": title})
    return items


def seen(images: torch.Tensor, net) -> np.ndarray:
    """(N, S, S, 3) uint8: normalised images as the pictures they were."""
    scale, middle = images.new_tensor(net.std)[:, None, None], images.new_tensor(net.mean)[:, None, None]
    return ((images * scale + middle) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


# Checks: a map that a random one or a random network equals tells nothing.


@torch.inference_mode()
def curves(net, images: torch.Tensor, targets, maps, steps: int = 10) -> dict:
    """(N, steps + 1) float each: the target's probability while the places of `maps` (N, S, S) are taken away or put back.

    The most marked places go first. `deletion` starts at the image and blurs it place by place; `insertion` starts at the
    blurred image and sharpens it. A good map's deletion falls soon and its insertion rises soon (Petsiuk et al. 2018,
    arXiv 1806.07421; blurred in place of grey, because grey edges are evidence of their own).
    """
    rank = torch.as_tensor(np.ascontiguousarray(maps), device=images.device).flatten(1)
    rank = rank.argsort(1, descending=True).argsort(1).view(len(images), 1, *images.shape[2:])  # 0: the most marked
    blurred = blur(images)
    targets, found = torch.as_tensor(targets, device=images.device)[:, None], {"deletion": [], "insertion": []}
    for step in range(steps + 1):
        first = rank < rank[0].numel() * step / steps
        for name, (then, now) in {"deletion": (images, blurred), "insertion": (blurred, images)}.items():
            probabilities = net(torch.where(first, now, then)).float().softmax(1)
            found[name].append(probabilities.gather(1, targets)[:, 0])
    return {name: torch.stack(values, 1).cpu().numpy() for name, values in found.items()}


def blur(images: torch.Tensor) -> torch.Tensor:
    """`images` without detail: averaged to 4 x 4 places, and back to their size."""
    return F.interpolate(F.adaptive_avg_pool2d(images, 4), images.shape[-2:], mode="bilinear", align_corners=False)


def random_maps(n: int, size: int, seed: int, cells: int = 7) -> np.ndarray:
    """(n, size, size) float in 0..1: noise as coarse as a Grad-CAM of `cells` x `cells`, so that only the place differs."""
    noise = torch.rand(n, 1, cells, cells, generator=torch.Generator().manual_seed(seed))
    return _unit(F.interpolate(noise, (size, size), mode="bilinear", align_corners=False)[:, 0])


def randomised(net, seed: int = 0) -> torch.nn.Module:
    """A copy of `net` with every layer initialised anew: the same architecture, nothing learnt (Adebayo et al. 2018)."""
    other = copy.deepcopy(net)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in other.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return other.eval()


def rank_correlation(a, b) -> np.ndarray:
    """(N,) Spearman's correlation of the maps (N, S, S) of two models, pair by pair; NaN where a map is constant.

    About 1: the maps don't depend on what was learnt, they only find edges (Adebayo et al. 2018, arXiv 1810.03292).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return np.array([spearmanr(one.ravel(), two.ravel()).statistic for one, two in zip(a, b, strict=True)])


def maps_of(cfg, rows) -> np.ndarray:
    """(N, S, S) in 0..1: Grad-CAM of each row of predictions, for the class it was called."""
    accelerator = train.start(cfg)
    net, _ = train.load_best(cfg, accelerator.device)
    batches, maps = train.batches_for(cfg, net, accelerator.device), []
    for start in range(0, len(rows), 16):
        some = rows.iloc[start : start + 16]
        maps.append(gradcam(net, batches(some["row"].to_numpy()), [CLASSES.index(label) for label in some["prediction"]]))
    return np.concatenate(maps)


def check(net, images: torch.Tensor, targets, seed: int = 0) -> pd.DataFrame:
    """One row an image: the means of its deletion and insertion curves with Grad-CAM and with a random map, and the rank
    correlation of its Grad-CAM with that of a randomised network."""
    maps = gradcam(net, images, targets)
    found = {name: curve.mean(1) for name, curve in curves(net, images, targets, maps).items()}
    noise = random_maps(len(images), images.shape[-1], seed)
    found |= {f"{name}_random": curve.mean(1) for name, curve in curves(net, images, targets, noise).items()}
    other = gradcam(randomised(net, seed), images, targets)
    return pd.DataFrame(found | {"randomised_correlation": rank_correlation(maps, other)})


def checks_for(cfg, chosen: pd.DataFrame) -> dict:
    """What gradcam.json holds: `check` for each chosen image, and the means."""
    accelerator = train.start(cfg, train.quiet)
    net, _ = train.load_best(cfg, accelerator.device)
    images = train.batches_for(cfg, net, accelerator.device)(chosen["row"].to_numpy())
    numbers = check(net, images, [CLASSES.index(label) for label in chosen["prediction"]], cfg.seed)
    rows = pd.concat([chosen[["image", "kind", "truth", "prediction"]].reset_index(drop=True), numbers], axis=1)
    return plain({"images": rows.to_dict("records"), "mean": numbers.mean().to_dict()})


def run(cfg) -> None:
    """Write gradcam.png (correct, wrong and uncertain images of each class of the part that is quoted), gradcam.json (the
    maps, checked), gradcam_mistakes.png (the report's mistakes), and the report anew with them."""
    predictions, found = clean.read_table(cfg.report_dir / "predictions.csv"), files.read_json(cfg.report_dir / "metrics.json")
    known = masks.find(cfg.masks) if cfg.masks else {}  # a wrong folder is told before the maps are made
    rows = counting(predictions, headline_part(set(predictions["part"])))
    chosen, checks = choose(rows), {"images": [], "mean": {}}
    try:
        figure = plots.explanations(maps_for(cfg, chosen))
        checks = checks_for(cfg, chosen[chosen["kind"] != "uncertain"])
        if known:
            checks["lesion"] = masks.on_lesion(cfg, predictions, known, maps_of)
        wrong = pd.concat([mistaken(found, rows, kind).assign(kind=name) for kind, name in MISTAKES.items()])
        wrong = wrong.drop_duplicates("image")
        if len(wrong):
            save_figure(plots.pairs(maps_for(cfg, wrong)), cfg.report_dir / "gradcam_mistakes.png")
    except UserError as reason:
        print(f"gradcam: {reason}")
        figure, checks = plots.message(str(reason)), checks | {"note": str(reason)}
    save_figure(figure, cfg.report_dir / "gradcam.png")
    files.write_json(cfg.report_dir / "gradcam.json", checks)
    page.write(cfg, found)
    print(f"gradcam: {len(chosen)} images, {cfg.show(cfg.report_dir / 'gradcam.png')}")
