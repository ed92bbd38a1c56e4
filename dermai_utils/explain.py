"""Grad-CAM and plain saliency, by captum: where in the image the evidence for a class lies."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam, Saliency

from dermai_utils import clean, plots, train
from dermai_utils.config import CLASSES, UserError
from dermai_utils.report import save_figure


def last_feature_map(net, size: int) -> torch.nn.Module:
    """The last module whose output is a map (1, C, h, w) with more than one place: what Grad-CAM weighs.

    UserError where there is none: a vision transformer keeps a list of tokens instead.
    """
    found, hooks = [], []

    def note(module, _, output):
        is_map = isinstance(output, torch.Tensor) and output.ndim == 4 and output.requires_grad
        if is_map and output.shape[2] == output.shape[3] > 1:  # square, as the input: not (1, h, w, C)
            found.append(module)

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
    return found[-1]


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
    accelerator = train.start(cfg)
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


def run(cfg) -> None:
    """Write gradcam.png to cfg.report_dir: correct, wrong and uncertain images of each class of the part that is quoted."""
    predictions = clean.read_table(cfg.report_dir / "predictions.csv")
    part = [p for p in ("val", "test", "official") if p in set(predictions["part"])][-1]
    chosen = choose(predictions[predictions["part"] == part])
    try:
        figure = plots.explanations(maps_for(cfg, chosen))
    except UserError as reason:
        print(f"gradcam: {reason}")
        figure = plots.message(str(reason))
    save_figure(figure, cfg.report_dir / "gradcam.png")
    print(f"gradcam: {len(chosen)} images, {cfg.show(cfg.report_dir / 'gradcam.png')}")
