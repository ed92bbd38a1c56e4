"""Every figure. Each function returns a matplotlib Figure; notebooks show it, the report saves it."""

import io

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import figure as mpl
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

from dermai_utils.config import CLASS_NAMES, CLASSES
from dermai_utils.markup import pretty

# Okabe and Ito's palette, told apart with any kind of colour vision (jfly.uni-koeln.de/color).
COLOURS = dict(zip(CLASSES, ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00"), strict=True))
PART_COLOURS = {"train": "#56B4E9", "val": "#E69F00", "test": "#009E73", "official": "#CC79A7"}
INK = "#333333"


class Figure(mpl.Figure):
    """A figure without pyplot: nothing to close, no window, and every notebook shows it as a PNG."""

    photographs = False  # then a notebook gets it as JPEG, a tenth of the size

    def encoded(self, kind: str = "png", dpi: int = 80) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format=kind, dpi=dpi, bbox_inches="tight")
        return buffer.getvalue()

    def _repr_png_(self):
        return None if self.photographs else self.encoded("png")

    def _repr_jpeg_(self):
        return self.encoded("jpeg") if self.photographs else None


def _figure(width, height, rows=1, columns=1, **options):
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(colors=INK, labelsize=9)
    return figure, axes


def _few_ticks(axis, formatter):
    """Of a log scale: 1, 2, 5, 10 ..., since small counts may lie within one power of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())


def class_counts(counts: pd.DataFrame) -> Figure:
    """Bars of images and lesions a class (clean.class_counts), on a log scale: the classes differ sixtyfold."""
    figure, axes = _figure(8, 3.2)
    ax, place = axes[0, 0], np.arange(len(counts))
    for shift, name, alpha in ((-0.2, "images", 1.0), (0.2, "lesions", 0.45)):
        bars = ax.bar(place + shift, counts[name], 0.38, color=[COLOURS[c] for c in counts.index], alpha=alpha, label=name)
        ax.bar_label(bars, fontsize=8, color=INK)
    ax.set_xticks(place, counts.index)
    ax.set_yscale("log")
    _few_ticks(ax.yaxis, "{x:,.0f}")
    ax.set_ylabel("count (log scale)")
    ax.set_title("Images (solid) and lesions (pale) of each class", fontsize=11)
    return figure


def contact_sheet(table: pd.DataFrame, images, each: int = 8) -> Figure:
    """The first `each` images of every class, a row a class."""
    figure, axes = _figure(1.25 * each, 7.2, len(CLASSES), each)
    figure.photographs = True
    for row, label in zip(axes, CLASSES, strict=True):
        some = table[table["label"] == label].head(each)
        for ax, (_, item) in zip(row, some.iterrows(), strict=False):
            ax.imshow(images[item["row"]])
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10, color=INK)
        _blank(row)
    return figure


def _blank(axes):
    for ax in np.ravel(axes):
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)


def split_counts(counts: pd.DataFrame) -> Figure:
    """Share of each class in each part (split.counts): the bars of one class should be equally long in every part."""
    figure, axes = _figure(8, 3)
    shares = counts / counts.sum()
    shares.plot.bar(ax=axes[0, 0], color=[PART_COLOURS[part] for part in counts], width=0.75, rot=0)
    axes[0, 0].set(xlabel="", ylabel="share of the part (log scale)", yscale="log")
    _few_ticks(axes[0, 0].yaxis, PercentFormatter(1, decimals=0))
    axes[0, 0].legend([f"{part} (n={counts[part].sum():,})" for part in counts], frameon=False, fontsize=9)
    return figure


def leakage(audit: dict) -> Figure:
    """Images whose lesion is on both sides, for the random and the lesion-safe split (leakage.json)."""
    figure, axes = _figure(8, 1.8)
    names = ("random", "lesion")
    bars = axes[0, 0].barh(names, [audit[name]["images_of_such_lesions"] for name in names], color=["#D55E00", "#009E73"])
    axes[0, 0].bar_label(bars, fmt="{:,.0f}", padding=4, color=INK)
    axes[0, 0].set(xlabel="images whose lesion is in more than one part")
    return figure


def curves(history: pd.DataFrame) -> Figure:
    """Loss, and validation balanced accuracy and macro F1, by epoch; the best epoch is marked."""
    figure, axes = _figure(9, 3.2, 1, 2)
    left, right = axes[0]
    left.plot(history["epoch"], history["loss"], "o-", ms=3, color="#0072B2", label="training (weighted, augmented)")
    left.plot(history["epoch"], history["val_loss"], "o-", ms=3, color="#E69F00", label="validation (unweighted)")
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    right.plot(history["epoch"], history["balanced_accuracy"], "o-", ms=3, color="#009E73", label="balanced accuracy")
    right.plot(history["epoch"], history["macro_f1"], "o-", ms=3, color="#CC79A7", label="macro F1")
    best = history.loc[history["balanced_accuracy"].idxmax()]
    right.axvline(best["epoch"], color=INK, lw=0.8, ls=":")
    right.annotate(f" best {best['balanced_accuracy']:.3f}", (best["epoch"], best["balanced_accuracy"]), fontsize=9, color=INK)
    right.set(xlabel="epoch", ylabel="validation score", ylim=(0, 1))
    for ax in (left, right):
        ax.legend(frameon=False, fontsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def confusion(counts: np.ndarray, title: str = "") -> Figure:
    """Two heatmaps of a (7, 7) confusion matrix, rows the true class: counts, and row-normalised (recall on the diagonal)."""
    figure, axes = _figure(10, 4.7, 1, 2)
    n = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, n, out=np.full(counts.shape, np.nan), where=n > 0)
    rows = [f"{c} (n={k})" for c, k in zip(CLASSES, n[:, 0], strict=True)]
    heat = dict(annot=True, cmap="Blues", cbar=False, square=True, linewidths=0.5, xticklabels=CLASSES, annot_kws={"size": 9})
    sns.heatmap(share, ax=axes[0, 1], fmt=".2f", vmin=0, vmax=1, yticklabels=CLASSES, **heat)
    sns.heatmap(share, ax=axes[0, 0], vmin=0, vmax=1, yticklabels=rows, **(heat | {"annot": counts, "fmt": "d"}))
    axes[0, 0].set(xlabel="predicted", ylabel="true", title="images")
    axes[0, 1].set(xlabel="predicted", ylabel="", title="share of the true class")
    for ax in axes[0]:
        ax.tick_params(axis="y", rotation=0)
    figure.suptitle(title, fontsize=11)
    return figure


def roc(truth, probabilities, title: str = "") -> Figure:
    """One-vs-rest ROC curve of each class that has positives and negatives, with its area."""
    figure, axes = _figure(5.6, 5)
    ax = axes[0, 0]
    for k, label in enumerate(CLASSES):
        positive = np.asarray(truth) == k
        if positive.any() and not positive.all():
            x, y, _ = roc_curve(positive, probabilities[:, k])
            area = roc_auc_score(positive, probabilities[:, k])
            ax.plot(x, y, color=COLOURS[label], lw=1.6, label=f"{label} {area:.3f} (n={positive.sum()})")
    ax.plot([0, 1], [0, 1], color=INK, lw=0.7, ls=":")
    ax.set(xlabel="1 - specificity", ylabel="sensitivity", title=title, aspect="equal")
    ax.title.set_fontsize(10)
    ax.legend(title="AUC", frameon=False, fontsize=8, loc="lower right")
    return figure


def headline(numbers: dict, title: str = "") -> Figure:
    """A dot with whiskers for each number of intervals.headline, {name: {"value", "low", "high"}}, 95 % by lesion."""
    rows = [(pretty(name), row["value"], row["low"], row["high"]) for name, row in numbers.items() if row["value"] is not None]
    figure, axes = _figure(8, 0.8 + 0.36 * len(rows))
    ax = axes[0, 0]
    for y, (_, value, low, high) in enumerate(rows):
        _whisker(ax, y, value, low, high, "#0072B2")
        ax.text(1.03, y, f"{value:.3f}  [{low:.3f}, {high:.3f}]", va="center", fontsize=9, color=INK)
    _rows_from_top(ax, [name for name, *_ in rows])
    ax.set(xlim=(0, 1.02), xlabel="score, 0 to 1 (95 % interval by lesion)")
    ax.set_title(title, fontsize=10)
    return figure


def differences(rows: list[dict]) -> Figure:
    """Forest plot: what each change adds to each score, hollow where that may be nothing.

    rows: of an ablation, `change` (a name) and `difference` {score: {"value", "low", "high"}}, 95 % by lesion.
    """
    scores = rows[0]["difference"]
    figure, axes = _figure(11, 1.0 + 0.28 * len(rows), 1, len(scores), sharey=True)
    for ax, score in zip(axes[0], scores, strict=True):
        ax.axvline(0, color=INK, lw=0.8)
        for y, row in enumerate(rows):
            value, low, high = (row["difference"][score][key] for key in ("value", "low", "high"))
            _whisker(ax, y, value, low, high, "#0072B2", hollow=low <= 0 <= high)
        _rows_from_top(ax, [row["change"] for row in rows])
        ax.set_xlabel(f"difference in {pretty(score)} (95 %)")
    return figure


def _whisker(ax, y, value, low, high, colour, hollow=False):
    """A dot at `value` with its interval; hollow where there is too little to read much into."""
    low, high = (value if v is None else v for v in (low, high))
    ax.plot([low, high], [y, y], color=colour, lw=1.6, alpha=0.45 if hollow else 1, solid_capstyle="butt")
    ax.plot(value, y, "o", ms=6, color=colour, mfc="white" if hollow else colour, clip_on=False, zorder=3)


def _rows_from_top(ax, names):
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="x", color="#E5E5E5", lw=0.8)
    ax.set_axisbelow(True)


def reliability(before: pd.DataFrame, after: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy against confidence (calibration.reliability), with Wilson's bars, before and after temperature scaling."""
    figure, axes = _figure(8.6, 5, 2, 2, sharex=True, height_ratios=[3.2, 1])
    for k, (name, bins) in enumerate((("as predicted", before), ("after temperature scaling", after))):
        some, (top, below) = bins[bins["n"] > 0].astype(float), axes[:, k]
        errors = np.clip([some["accuracy"] - some["low"], some["high"] - some["accuracy"]], 0, None)
        top.plot([0, 1], [0, 1], color=INK, lw=0.7, ls=":")
        top.errorbar(some["confidence"], some["accuracy"], errors, fmt="o", ms=5, color="#0072B2", elinewidth=1.2)
        top.set(title=f"{name} (n={int(some['n'].sum()):,})", xlim=(0, 1.02), ylim=(0, 1.02))
        top.title.set_fontsize(10)
        below.bar(bins["bin"], bins["n"], 0.9 / max(len(bins), 1), color="#56B4E9")
        below.set(xlabel="confidence (probability of the class called)")
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes[0, 0].set_ylabel("accuracy (95 % Wilson interval)")
    axes[1, 0].set_ylabel("images")
    figure.suptitle(title, fontsize=11)
    return figure


def risk_coverage(curve: pd.DataFrame, points=(), title: str = "") -> Figure:
    """Share of wrong answers against share answered (calibration.risk_coverage).

    `points`: dicts with the `coverage` and `risk` at confidence thresholds chosen on validation, drawn as dots.
    """
    figure, axes = _figure(6.4, 3.8)
    ax = axes[0, 0]
    ax.plot(curve["coverage"], curve["risk"], color="#0072B2", lw=1.6, label="the surest answered first")
    everyone = curve["risk"].iloc[-1] if len(curve) else 0
    ax.axhline(everyone, color=INK, lw=0.8, ls=":", label="abstaining at random")
    known = [(point["coverage"], point["risk"]) for point in points if point["risk"] is not None]
    ax.plot(*np.reshape(known, (-1, 2)).T, "o", color="#D55E00", ms=6, label="thresholds chosen on validation")
    ax.set(xlabel=f"share of the images answered (n={len(curve):,})", ylabel="share of the answers that is wrong")
    ax.set(xlim=(0, 1.02), ylim=(0, max(1.25 * everyone, 0.05)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    ax.set_title(title, fontsize=10)
    return figure


def subgroups(groups: dict, title: str = "") -> Figure:
    """Forest plot of balanced accuracy and accuracy, a row a subgroup with its n; hollow where there are few images.

    groups: {column: rows of intervals.subgroups as dicts, with `group`}.
    """
    lines = []
    for column, rows in groups.items():
        lines += [(column.replace("_", " "), None), *((f"{row['group']} (n={row['n']:,})", row) for row in rows)]
    figure, axes = _figure(9, 0.9 + 0.25 * len(lines), 1, 2, sharey=True)
    for ax, score, colour in zip(axes[0], ("balanced_accuracy", "accuracy"), ("#0072B2", "#009E73"), strict=True):
        for y, (_, row) in enumerate(lines):
            if row and row[score] is not None:
                _whisker(ax, y, row[score], row[f"{score}_low"], row[f"{score}_high"], colour, row["small"])
            if row and score == "balanced_accuracy":
                ax.text(1.04, y, f"{row['classes']} of 7", fontsize=8, color=INK, va="center")
        _rows_from_top(ax, [name for name, _ in lines])
        ax.set(xlim=(0, 1.03), xlabel=f"{score.replace('_', ' ')} (95 % interval)")
    for label, (_, row) in zip(axes[0, 0].get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if row is None else "normal")
    axes[0, 0].text(1.04, -1.1, "classes", fontsize=8, color=INK)
    figure.suptitle(title, fontsize=11)
    return figure


def operating_points(points: list[dict], title: str = "") -> Figure:
    """Sensitivity and specificity at thresholds chosen on validation: a panel a finding; the bar is what was asked for."""
    findings = list(dict.fromkeys(point["finding"] for point in points))
    figure, axes = _figure(9, 3.6, 1, len(findings), sharey=True)
    colours = {"sensitivity": "#D55E00", "specificity": "#0072B2"}
    for ax, finding in zip(axes[0], findings, strict=True):
        mine = [point for point in points if point["finding"] == finding]
        for y, point in enumerate(mine):
            for (rate, colour), shift in zip(colours.items(), (-0.13, 0.13), strict=True):
                scored = point["scored"]
                if scored[rate] is not None:
                    _whisker(ax, y + shift, scored[rate], scored[f"{rate}_low"], scored[f"{rate}_high"], colour)
                if rate == point["rate"]:
                    ax.plot([point["level"]] * 2, [y + shift - 0.14, y + shift + 0.14], color=INK, lw=1.6)
        _rows_from_top(ax, [f"asked for: {point['rate']} {100 * point['level']:.0f} %" for point in mine])
        n = next((point["scored"]["n"] for point in mine), 0)
        ax.set(xlim=(0, 1.03), xlabel=f"rate on n={n:,} images (95 % by lesion)", title=finding)
        ax.title.set_fontsize(10)
    handles = [axes[0, 0].plot([], [], "o-", color=colour, label=rate)[0] for rate, colour in colours.items()]
    handles += axes[0, 0].plot([], [], "|", ms=10, mew=1.6, color=INK, label="asked for")
    figure.legend(handles=handles, frameon=False, fontsize=9, ncols=3, loc="outside lower center")
    figure.suptitle(title, fontsize=11)
    figure.get_layout_engine().set(wspace=0.04)  # else one panel's 1.0 touches the next one's 0.0
    return figure


def mistakes(rows: pd.DataFrame, images, columns: int = 4) -> Figure:
    """The images of wrong predictions with truth, prediction and confidence; `images[row]` for each `row` of them."""
    if rows.empty:
        return message("No such mistake here.")
    lines = -(-len(rows) // columns)
    figure, axes = _figure(2.6 * columns, 2.5 * lines, lines, columns)
    figure.photographs = True
    _blank(axes)
    for ax, (_, row) in zip(axes.flat, rows.iterrows(), strict=False):
        ax.imshow(images[row["row"]])
        ax.set_title(
            f"{row['image']}\n{row['truth']} called {row['prediction']} ({row['confidence']:.0%})",
            fontsize=10,
            color=INK,
        )
    return figure


def explanations(items: list[dict]) -> Figure:
    """A row an image: the original, Grad-CAM and saliency over it, and what was predicted.

    items: dicts of image (S, S, 3) uint8, gradcam and saliency (S, S) in 0..1, and a title.
    """
    figure, axes = _figure(7.4, 2.35 * max(1, len(items)), max(1, len(items)), 3)
    figure.photographs = True
    _blank(axes)
    for row, item in zip(axes, items, strict=False):
        for ax in row:
            ax.imshow(item["image"])
        row[1].imshow(item["gradcam"], cmap="inferno", alpha=0.5, vmin=0, vmax=1)
        row[2].imshow(item["saliency"], cmap="inferno", alpha=0.6, vmin=0, vmax=1)
        row[0].set_title(item["title"], fontsize=8, color=INK)
    for ax, name in zip(axes[0], ("", "Grad-CAM", "saliency"), strict=True):
        ax.set_title(f"{ax.get_title()}{name}", fontsize=8, color=INK)
    return figure


def pairs(items: list[dict], columns: int = 4) -> Figure:
    """Each image beside itself under its Grad-CAM, `columns` such pairs a row; items as in `explanations`."""
    lines = max(1, -(-len(items) // columns))
    figure, axes = _figure(2 * 1.4 * columns, 1.85 * lines, lines, 2 * columns)
    figure.photographs = True
    _blank(axes)
    for (left, right), item in zip(axes.reshape(-1, 2), items, strict=False):
        left.imshow(item["image"])
        right.imshow(item["image"])
        right.imshow(item["gradcam"], cmap="inferno", alpha=0.5, vmin=0, vmax=1)
        left.set_title(item["title"].strip(), fontsize=9, color=INK, loc="left")
    return figure


def answer(item, images=None) -> Figure:
    """A predict.Answer: what the model saw, its Grad-CAM, the probabilities (pale: ruled out), and where the pixel array
    `images` is given the most similar training images."""
    figure = Figure(figsize=(10, 3 if images is None else 5.6), layout="constrained")
    figure.photographs = True
    heights = (1.15,) if images is None else (1.15, 1)
    upper, *lower = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    seen, gradcam, bars = upper.subplots(1, 3, width_ratios=(1, 1, 1.35))
    _blank([seen, gradcam])
    for ax, name in ((seen, "what the model saw"), (gradcam, "no Grad-CAM" if item.gradcam is None else "Grad-CAM")):
        ax.imshow(item.seen)
        ax.set_title(name, fontsize=9, color=INK)
    if item.gradcam is not None:
        gradcam.imshow(item.gradcam, cmap="inferno", alpha=0.5, vmin=0, vmax=1)
    _probabilities(bars, item)
    for part in lower:
        _similar(part, item.similar, images)
    figure.suptitle(item.text, fontsize=12, wrap=True, color=INK if item.familiar else "#D55E00")
    figure.get_layout_engine().set(h_pad=0.09)  # else a heading touches what it is above
    return figure


def _similar(part, similar, images):
    axes = part.subplots(1, len(similar), squeeze=False)[0]
    _blank(axes)
    for ax, one in zip(axes, similar, strict=True):
        ax.imshow(images[one["row"]])
        ax.set_title(f"{one['image']}, {one['similarity']:.2f}\n{CLASS_NAMES[one['label']]}", fontsize=8, color=INK)
    part.suptitle("most similar in training, each of another lesion (cosine of the model's features)", fontsize=9, color=INK)


def _probabilities(ax, item):
    shown = [item.familiar and c in item.possible for c in CLASSES]
    bars = ax.barh(CLASSES, item.probabilities, color=[COLOURS[c] for c in CLASSES])
    for bar, solid in zip(bars, shown, strict=True):
        bar.set_alpha(1 if solid else 0.25)
    ax.bar_label(bars, fmt="{:.0%}", padding=4, fontsize=9, color=INK)
    _rows_from_top(ax, [f"{CLASS_NAMES[c]} ({c})" for c in CLASSES])
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(colors=INK, labelsize=9)
    ax.set(xlim=(0, 1.12), xlabel="calibrated probability (solid: can't be ruled out)")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def side_by_side(pairs, images, columns: int = 3) -> Figure:
    """Pairs of images beside each other, `columns` pairs a line. `pairs`: (row of `images`, row, title); needs at least one."""
    width, height, gap, words = 200, 150, 6, 32  # px; the words stand above the pair
    lines = -(-len(pairs) // columns)
    sheet = np.full((lines * (height + words), columns * (2 * width + 4 * gap), 3), 255, np.uint8)
    figure, axes = _figure(sheet.shape[1] / 100, sheet.shape[0] / 100)
    figure.photographs = True
    _blank(axes)
    for k, (*rows, title) in enumerate(pairs):
        top, left = k // columns * (height + words) + words, k % columns * (2 * width + 4 * gap)
        for shift, row in zip((0, width + gap), rows, strict=True):
            small = Image.fromarray(images[row]).resize((width, height))
            sheet[top : top + height, left + shift : left + shift + width] = small
        axes[0, 0].text(left, top - 9, title, fontsize=10, color=INK)
    axes[0, 0].imshow(sheet)
    return figure


def inflation(found: dict) -> Figure:
    """Balanced accuracy under a random and a lesion-safe split, for each classifier of inflation.json, and the difference."""
    rows = [(name, row) for name, row in found["classifiers"].items() if row["difference"] is not None]
    if not rows:
        return message("No lesion has two images here, so a random split leaks nothing.")
    figure, axes = _figure(8, 1.3 + 0.55 * len(rows))
    ax, looks = axes[0, 0], {"random": ("random split", "o", "#D55E00"), "lesion": ("lesion-safe split", "s", "#009E73")}
    beside = dict(va="center", color=INK, transform=ax.get_yaxis_transform())
    for y, (_, row) in enumerate(rows):
        ax.plot([row["lesion"], row["random"]], [y, y], color="#BBBBBB", lw=3, zorder=1, solid_capstyle="butt")
        for deal, (_, marker, colour) in looks.items():
            ax.plot(row[deal], y, marker, ms=9, color=colour)
            side = -1 if row[deal] == min(row["random"], row["lesion"]) else 1  # outside of the pair: they may be close
            beside_dot = dict(textcoords="offset points", ha="right" if side < 0 else "left", va="center", fontsize=9)
            ax.annotate(f"{row[deal]:.3f}", (row[deal], y), (9 * side, 0), color=INK, **beside_dot)
        ax.text(1.02, y, f"{row['difference']:+.3f}  [{row['low']:+.3f}, {row['high']:+.3f}]", fontsize=9, **beside)
    _rows_from_top(ax, [name for name, _ in rows])
    ax.text(1.02, -0.62, "random minus lesion-safe", fontsize=8, **beside)
    ax.set(ylim=(len(rows) - 0.5, -0.75), xlim=(0, 1))
    ax.set_xlabel(f"balanced accuracy on the {found['prone_images']:,} images of which another view exists")
    handles = [ax.plot([], [], marker, ms=8, color=colour, label=name)[0] for name, marker, colour in looks.values()]
    figure.legend(handles=handles, frameon=False, fontsize=9, ncols=2, loc="outside upper left")
    return figure


def class_legend() -> pd.DataFrame:
    """The seven classes and what they stand for."""
    return pd.DataFrame({"class": CLASSES, "diagnosis": [CLASS_NAMES[c] for c in CLASSES]})


def message(text: str) -> Figure:
    """A figure that says why there is no figure."""
    figure, axes = _figure(8, 1)
    _blank(axes)
    axes[0, 0].text(0, 0.5, text, fontsize=10, color=INK)
    return figure
