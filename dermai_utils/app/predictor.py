"""Pictures -> answers: seven calibrated probabilities, one or two diagnoses or "unsure", Grad-CAM,
similar training images, and a warning where the picture is out of distribution.

A picture goes through the decoder and the preprocessing of training, nothing else. What takes long
to import (SciPy, Matplotlib) is imported where Grad-CAM or a figure is asked for.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from dermai_utils import files, image_names, pixels, predictions
from dermai_utils.app import ood, state, thumbnails
from dermai_utils.app.answers import Answer
from dermai_utils.app.pictures import decoded, pictures
from dermai_utils.augmentation import squares
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.inference import softmax
from dermai_utils.study import conformal
from dermai_utils.study.text import with_interval

SIMILAR = 4  # training images beside an answer, each of another lesion
AT_ONCE = 32  # pictures for the network at a time


def answer(run, source, maps: bool = True) -> list[Answer]:
    """One Answer for each picture of `source`.

    source: a path, a folder, an http(s) URL, the bytes of a picture, {name: bytes}, or a list of
    these. maps: with Grad-CAM. A picture that cannot be read is left out, and a line names it;
    UserError where none can be read, or where the run lacks what `prepare` computes.

    >>> from dermai_utils import answer, pretrained
    >>> for one in answer(pretrained(), "photo.jpg"):  # doctest: +SKIP
    ...     print(one.text, one.diagnoses)
    """
    return Predictor(run).answers(source, maps)


class Predictor:
    """A run opened once, ready for pictures.

    dataset: where it is here, the similar training images are shown, not only named.
    """

    def __init__(self, run, dataset=None):
        self.run, self.dataset, self.state = run, dataset, state.load(run)
        self.learned = _learned(run.table)

    def __call__(self, names, images, maps: bool = True) -> list[Answer]:
        """One Answer for each of `images` (N, H, W, 3) uint8, at the stored size (pixels.shape)."""
        run, fixed = self.run, self.state
        logits, features, texture = ood.describe(run, images, tta=run.tta)
        each = [softmax(logits)]
        each += [run.probabilities(images, nets=[net]) for net in run.networks[1:]]
        probabilities = fixed.calibrated(np.mean(each, axis=0))
        sets = conformal.prediction_sets(probabilities, fixed.thresholds)
        distances, cosines = fixed.distance(texture), fixed.similarity(features)
        copies = thumbnails.copied(images, fixed.thumbnails)
        shown = [(None, None, "")] * len(names)
        if maps:
            shown = self._maps(images, probabilities.argmax(1))
        answers = []
        for k, (name, image) in enumerate(zip(names, images, strict=True)):
            order = np.argsort(-probabilities[k])
            possible = tuple(CLASSES[c] for c in order if sets[k, c])
            similar = state.nearest(fixed.known, cosines[k], SIMILAR)
            known, odd = self._seen(name, image, copies[k]), ood.oddities(image)
            about = (float(distances[k]), similar, fixed.about, known, odd)
            answers.append(Answer(name, probabilities[k], possible, *about, *shown[k]))
        return answers

    def _seen(self, name, image, copy) -> str:
        """What the model did with a picture; "" where it is new, as far as pixels, names of the
        ISIC archive and thumbnails tell. copy: what `thumbnails.copied` found."""
        learned = self.learned
        ways = {
            "is, pixel for pixel, an image that": learned["pixel_hash"] == pixels.checksum(image),
            "has the name of an image that": learned["id"] == image_names.base_id(Path(name).stem),
            "is a copy of {image}, which": learned.index == copy,
        }
        for words, here in ways.items():
            if here.any():
                return f"{words} the model {{used}}".format(**learned[here].iloc[0])
        return ""

    def _maps(self, images, targets) -> list[tuple]:
        """square, gradcam and gradcam_note of each Answer, by the first network."""
        from dermai_utils import saliency
        from dermai_utils.reports import maps

        inputs = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        inputs = squares(inputs.to(self.run.device), self.run.size)
        try:
            cams = saliency.gradcam(self.run.net, inputs, targets)
        except UserError as reason:
            print(f"predict: no Grad-CAM ({reason})")
            cams = [None] * len(images)
        note = maps.note(files.read_json(self.run.folder / "gradcam.json"))
        seen = (255 * inputs).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [(square, cam, note) for square, cam in zip(seen, cams, strict=True)]

    def answers(self, source, maps: bool = True) -> list[Answer]:
        """One Answer for each picture of `source`, see `answer`."""
        results = list(self.each(source, maps))
        wrong = [str(result) for result in results if isinstance(result, UserError)]
        if len(wrong) == len(results):
            n = len(wrong)
            raise UserError(f"{f'none of {n} pictures can be read: ' if n > 1 else ''}{wrong[0]}")
        if wrong:
            answered = f"{len(results) - len(wrong)} of {len(results)} files read"
            reasons = "; ".join(reason.partition("; ")[0] for reason in wrong)  # without advice
            print(f"predict: {answered}; left out: {len(wrong)} ({reasons})")
        return [result for result in results if isinstance(result, Answer)]

    def each(self, source, maps: bool = True, at_once: int = AT_ONCE):
        """Yield an Answer or a UserError for each picture of `source`.

        All cores decode `at_once` pictures, then the network works on them.
        """
        waiting, shape = pictures(source), pixels.shape(self.run.size)
        with ThreadPoolExecutor(os.cpu_count()) as cores:
            while batch := list(islice(waiting, at_once)):
                results = list(cores.map(lambda one: decoded(*one, *shape), batch))
                good = [k for k, one in enumerate(results) if not isinstance(one, UserError)]
                if good:
                    images = np.stack([results[k] for k in good])
                    answers = self([batch[k][0] for k in good], images, maps)
                    for k, answer in zip(good, answers, strict=True):
                        results[k] = answer
                yield from results

    def similar_images(self, answer: Answer) -> list:
        """The similar images of an answer, (H, W, 3) uint8; None for each that is not here."""
        table = [] if self.dataset is None else self.dataset.table["image"]
        rows = {image: k for k, image in enumerate(table)}
        places = [rows.get(one["image"]) for one in answer.similar]
        return [None if k is None else np.array(self.dataset.pixels[k]) for k in places]

    def figure(self, answer: Answer):
        """The answer as a figure; a refused picture stands alone, without a diagnosis."""
        from dermai_utils.reports.pictures import answer as draw

        if not answer.foreign:
            return draw(answer, self.similar_images(answer))
        figure = draw(replace(answer, gradcam=None))
        figure.axes[2].set_visible(False)  # the bars
        figure.alt = answer.text
        return figure


def _learned(table):
    """The rows of a run's table that the model learned from or was tuned on. used: which of these
    in words, learning first; id: its name in the ISIC archive, NaN for another one, since another
    folder's 1 is another image."""
    used = table["subset"].map({"train": "learned from", "val": "was tuned on"})
    if "fold" in table:
        used = used.mask(table["fold"] >= 0, "learned from")
    images = table["image"]
    ids = images.map(image_names.base_id).where(images.map(image_names.is_archive_id))
    return table.assign(used=used, id=ids).dropna(subset="used").sort_values("used", kind="stable")


def description(run) -> str:
    """Which run answers, when it was trained, and how good it is: two sentences."""
    date, metrics = run.settings.get("date"), run.metrics
    name = f"Run {run.name} was trained on {date}. " if date else f"This is run {run.name}. "
    if not metrics:
        return f"{name}It was not evaluated: how good it is, is not known."
    subset = metrics["primary_subset"]
    where = predictions.subset_name(subset, run.settings.get("data", ""), run.folds)
    score = with_interval(metrics["intervals"][subset]["balanced_accuracy"])
    images = predictions.images_of(metrics["subsets"][subset]["n"], where)
    return f"{name}Its balanced accuracy on {images}: {score}."
