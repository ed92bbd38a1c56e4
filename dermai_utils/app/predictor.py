"""Pictures -> answers: seven calibrated probabilities, one or two diagnoses or "unsure", Grad-CAM,
similar training images, and a warning where the picture is out of distribution.

A picture goes through the decoder and the preprocessing of training, nothing else.
"""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from dermai_utils import files, pixels, predictions, saliency
from dermai_utils.app import ood, state
from dermai_utils.app.answer import Answer
from dermai_utils.app.pictures import decoded, pictures
from dermai_utils.augmentation import squares
from dermai_utils.basics import CLASSES, UserError
from dermai_utils.inference import softmax
from dermai_utils.reports.pictures import answer as draw
from dermai_utils.study import calibration, conformal
from dermai_utils.study.text import with_interval

SIMILAR = 4  # training images beside an answer, each of another lesion
AT_ONCE = 32  # pictures for the network at a time; as many more are decoded meanwhile


def answer(run, source, maps: bool = True) -> list[Answer]:
    """One Answer for each picture of `source`.

    source: a path, a folder, an http(s) URL, the bytes of a picture, {name: bytes}, or a list of
    these. maps: with Grad-CAM. A picture that cannot be read is left out, and a line names it;
    UserError where none can be read, or where the run lacks what `prepare` stores.

    >>> for one in answer(open_run("work/sample/runs/resnet18"), "photo.jpg"):  # doctest: +SKIP
    ...     print(one.text, one.diagnoses)
    """
    return Predictor(run).answers(source, maps)


class Predictor:
    """A run opened once, ready for pictures.

    dataset: where it is here, the similar training images are shown, not only named.
    """

    def __init__(self, run, dataset=None):
        self.run, self.dataset, self.state = run, dataset, state.load(run)
        self.same_threshold = self.state.same_threshold()
        self.gradcam_note = ""  # TODO: by the report's own function

    def __call__(self, names, images, maps: bool = True) -> list[Answer]:
        """One Answer for each of `images` (N, H, W, 3) uint8, at the stored size (pixels.shape)."""
        run, fixed = self.run, self.state
        logits, features, texture = ood.describe(run, images, tta=run.tta)
        by_network = [softmax(logits)]
        if others := run.networks[1:]:
            by_network += [run.probabilities(images, networks=[net]) for net in others]
        probabilities = calibration.apply_temperature(np.mean(by_network, 0), fixed.temperature)
        sets = conformal.prediction_sets(probabilities, fixed.thresholds)
        columns = zip(
            names,
            probabilities,
            sets,
            conformal.is_answer(sets),
            fixed.distance(texture),
            fixed.similarity(features),
            map(ood.oddities, images),
            *self._maps(images, probabilities.argmax(1), maps),
            strict=True,
        )
        return [self._answer(*values) for values in columns]

    def _answer(self, name, p, possible, sure, distance, similarity, oddities, square, cam):
        return Answer(
            name,
            p,
            possible=tuple(CLASSES[k] for k in np.argsort(-p) if possible[k]),
            sure=bool(sure),
            distance=float(distance),
            ood_threshold=self.state.ood_threshold,
            foreign_threshold=self.state.foreign_threshold,
            similar=self._similar(similarity),
            square=square,
            gradcam=cam,
            gradcam_note=self.gradcam_note,
            oddities=oddities,
            scores=self.state.scores,
            made_up=self.run.settings["data"] == "sample",
            same_threshold=self.same_threshold,
        )

    def _maps(self, images, targets, maps):
        """(squares (N, S, S, 3) uint8, Grad-CAM (N, S, S)) by the first network, or None each."""
        nothing = [None] * len(images)
        if not maps:
            return nothing, nothing
        inputs = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        inputs = squares(inputs.to(self.run.device), self.run.size)
        try:
            cams = saliency.gradcam(self.run.net, inputs, targets)
        except UserError as reason:
            print(f"predict: no Grad-CAM ({reason})")
            cams = nothing
        seen = (255 * inputs).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        return seen.cpu().numpy(), cams

    def _similar(self, similarity):
        order = np.argsort(-similarity)
        # the nearest image of each lesion
        _, first = np.unique(self.state.lesion_id[order], return_index=True)
        return state.neighbours(self.state, order[np.sort(first)[:SIMILAR]], similarity)

    def answers(self, source, maps: bool = True) -> list[Answer]:
        """One Answer for each picture of `source`, see `answer`."""
        results = list(self.each(source, maps))
        wrong = [result for result in results if isinstance(result, UserError)]
        if len(wrong) == len(results):
            n = len(wrong)
            raise UserError(f"{f'none of {n} pictures can be read: ' if n > 1 else ''}{wrong[0]}")
        if wrong:
            answered = f"{len(results) - len(wrong)} of {len(results)} files answered"
            reasons = "; ".join(str(reason).partition("; ")[0] for reason in wrong)  # no advice
            print(f"predict: {answered}; left out: {len(wrong)} ({reasons})")
        return [result for result in results if isinstance(result, Answer)]

    def each(self, source, maps: bool = True, at_once: int = AT_ONCE):
        """Yield an Answer or a UserError for each picture of `source`.

        All cores decode the next pictures while the network works on `at_once` of them.
        """
        waiting, shape = pictures(source), pixels.shape(self.run.size)
        with ThreadPoolExecutor(os.cpu_count()) as cores:

            def submitted(n):
                return [(p[0], cores.submit(decoded, *p, *shape)) for p in islice(waiting, n)]

            queue = deque(submitted(2 * at_once))
            while queue:
                batch = [queue.popleft() for _ in range(min(at_once, len(queue)))]
                batch = [(name, image.result()) for name, image in batch]
                queue += submitted(len(batch))
                yield from self._batch(batch, maps)

    def _batch(self, batch, maps):
        good = [(name, image) for name, image in batch if not isinstance(image, UserError)]
        answers = iter(())
        if good:
            names, images = zip(*good, strict=True)
            answers = iter(self(names, np.stack(images), maps))
        return [image if isinstance(image, UserError) else next(answers) for _, image in batch]

    def similar_images(self, answer: Answer) -> list:
        """The similar images of an answer, (H, W, 3) uint8; None for each that is not here."""
        if self.dataset is None:
            return [None] * len(answer.similar)
        rows = {image: k for k, image in enumerate(self.dataset.table["image"])}
        places = [rows.get(one["image"]) for one in answer.similar]
        return [None if k is None else np.array(self.dataset.pixels[k]) for k in places]

    def figure(self, answer: Answer):
        """The answer as a figure; a refused picture stands alone, without a diagnosis."""
        if answer.foreign:
            figure = draw(replace(answer, gradcam=None))
            figure.axes[2].set_visible(False)  # the bars
            figure.alt = answer.text
            return figure
        return draw(answer, self.similar_images(answer))


def description(run) -> str:
    """Which run answers, when it was trained, and how good it is: one or two sentences."""
    date, metrics = run.settings.get("date"), run.metrics
    name = f"Run {run.name}{f', trained on {date}' if date else ''}. "
    if not metrics:
        return f"{name}It was not evaluated: how good it is, is not known."
    subset = metrics["primary_subset"]
    where = predictions.subset_name(subset, run.settings["data"], run.folds)
    score = with_interval(metrics["intervals"][subset]["balanced_accuracy"])
    n = metrics["subsets"][subset]["n"]
    return f"{name}Balanced accuracy {score} on {n:,} images of the {where}."
