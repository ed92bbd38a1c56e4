"""Are the results those of the plain path? python tools/plain.py [--seeds 3] [--field value ...]

The same recipe, seeds, split and steps twice: from the decoded array with this project's augmentation, and as the usual
notebook does it, a DataLoader that decodes and augments every JPEG anew by PIL and torchvision. Scores are those of validation
after the last epoch. The table goes to work/<data>/plain.json. Best with small settings: --epochs 3 --image-size 96.
"""

import dataclasses
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import flags  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402
from torchvision import transforms as T  # noqa: E402

from dermai_utils import augment, clean, config, files, pipeline, pixels, split, train  # noqa: E402

LOADERS = 2  # what Colab has, and what its warnings advise
SCORES = ("loss", "val_loss", "balanced_accuracy", "macro_f1", "macro_auc", "images_per_second")


class Images(Dataset):
    """(3, size, size) float32 of a JPEG, decoded and augmented each time it is asked for."""

    def __init__(self, paths, size, mean, std, augmented):
        s, to_size = augment.STRENGTH, T.Resize(pixels.shape(size)[0])
        moves = dict(translate=(s["shift"],) * 2, scale=(1 / s["scale"], s["scale"]))
        random = [
            T.RandomHorizontalFlip(),
            T.RandomAffine(s["rotation"], **moves, interpolation=T.InterpolationMode.BILINEAR),
            T.ColorJitter(s["brightness"], s["contrast"], s["colour"]),
        ]
        cut = [T.CenterCrop(pixels.shape(size)[0]), T.Resize(size), T.ToTensor(), T.Normalize(mean, std)]
        self.paths, self.transform = paths, T.Compose([to_size, *(random if augmented else []), *cut])

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, k):
        with Image.open(self.paths[k]) as image:
            return self.transform(image.convert("RGB"))


class Batches:
    """What train.Run asks of augment.Batches, by a DataLoader."""

    def __init__(self, paths, ours, cfg):
        self.paths, self.like, self.cfg = paths, ours, cfg

    def stream(self, jobs):
        """A batch for each (rows, key, ...) of `jobs`, augmented where it has a key."""
        jobs = list(jobs)
        images = Images(self.paths, self.cfg.image_size, self.like.mean, self.like.std, jobs[0][1] is not None)
        for batch in DataLoader(images, batch_sampler=[job[0].tolist() for job in jobs], num_workers=LOADERS):
            yield batch.to(self.like.device, memory_format=torch.channels_last)


class Never:
    is_set = False


def scores(cfg, paths=None) -> dict:
    """SCORES of validation after the last epoch; from the image files at `paths` (by row) the plain way, else ours."""
    run = train.Run(cfg, split.read(cfg), train.start(cfg))
    run.restore()
    if paths is not None:
        run.batches = Batches(paths, run.batches, cfg)
    while run.epoch < cfg.epochs:
        run.train_epoch(Never)
        run.validate()
    return {name: run.history[-1][name] for name in SCORES}


@flags.command
def main(words):
    given, own = flags.read(words, seeds=3)
    base = config.load(**(given | {"first_size": 0}))
    pipeline.ensure(base, "split")
    found = clean.images_by_id(files.read_json(base.sources_file)["train"]["images"])
    table = split.read(base).sort_values("row")
    paths = dict(zip(table["row"], table["image"].map(found), strict=True))
    rows = []
    for seed in range(own["seeds"]):
        for way, files_of in (("array", None), ("DataLoader", paths)):
            cfg = dataclasses.replace(base, seed=seed, run_name=f"plain-{way}-{seed}")
            rows.append({"way": way, "seed": seed, **scores(cfg, files_of)})
            print(rows[-1], flush=True)
    files.write_json(base.work / "plain.json", {"settings": given, "rows": rows})
    for way in ("array", "DataLoader"):
        told = (np.array([row[name] for row in rows if row["way"] == way]) for name in SCORES)
        print(
            f"{way:<11}",
            ", ".join(f"{name} {x.mean():.3f} ± {x.std(ddof=1):.3f}" for name, x in zip(SCORES, told, strict=True)),
        )
    print(base.work / "plain.json")


if __name__ == "__main__":
    sys.exit(main())
