"""Make the fixture: a small made-up dataset in the official archive layout of ISIC 2018 Task 3.

    python tools/make_sample.py      # rewrites every file of dermai_utils/sample, the same bytes

No picture is a real patient's: each is painted by the functions below. The seven classes differ in
colour and in texture, and some lesions are deliberately half-way to a naevus, so a small network
learns them in seconds but not perfectly. Images of one lesion are one blob, turned, zoomed and lit
differently. Good training images are ISIC_9000001 and up, test images ISIC_9500001 and up, far from
any real id. Faults, each on its own id:

    training id   fault                                       what cleaning should say
    ------------  ------------------------------------------  ------------------------------------
    ISIC_9000901  label row, but no image file                reject: image file is missing
    ISIC_9000902  image file, but no label row                reject: no label row
    ISIC_9000903  JPEG cut off half-way                       reject: truncated
    ISIC_9000904  a web page named .jpg                       reject: not an image
    ISIC_9000905  zero bytes                                  reject: empty file
    ISIC_9000906  label row all zeros                         reject: no label
    ISIC_9000907  label row with two ones (MEL, NV)           reject: several labels
    ISIC_9000908  same label row twice                        accept once; then: duplicate id
    ISIC_9000909  two label rows that disagree (BKL, MEL)     reject both: contradicting labels
    ISIC_9000910  fine; the original of the next              accept
    ISIC_9000911  910's file, lesion and label                reject: duplicate of ISIC_9000910
    ISIC_9000912  same file as 913, labelled NV               reject: duplicate, other label (MEL)
    ISIC_9000913  same file as 912, labelled MEL              reject: duplicate, other label (NV)
    ISIC_9000914  fine; the original of the next              accept; one group with 915's lesion
    ISIC_9000915  914's pixels in other bytes, another        one group with 914's lesion, also
                  lesion id, same label                       where it is dropped as a duplicate
    ISIC_9000916  fine; another image of 914's lesion         accept; in the same subset as 917
    ISIC_9000917  fine; another image of 915's "lesion"       accept; in the same subset as 916
    ISIC_9000918  grayscale JPEG, otherwise fine              accept, as three equal channels
    ISIC_9000919  not in the lesion groupings                 say so; lesion id from the metadata
                                                              (that of 920), or reject
    ISIC_9000920  fine; another image of 919's lesion         accept; in the same subset as 919

The test archives hold no fault but the official one: ISIC_0035068 is a noise picture, labelled NV
there and given zero weight by the official scorer.
"""

import csv
import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parents[1] / "dermai_utils" / "sample"
SEED = 2018
WIDTH, HEIGHT = 120, 90  # px; the official 600x450, a fifth
CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
NOISE_ID = "ISIC_0035068"

# Images per lesion. Five lesions or more a class: each subset of a lesion-safe split has all.
TRAINING = {
    "MEL": [4, 2, 2, 1, 1, 1, 1],
    "NV": [4, 3, 3, 2, 2, 2, 2, 2] + [1] * 20,
    "BCC": [3, 2, 1, 1, 1, 1],
    "AKIEC": [3, 2, 1, 1, 1, 1],
    "BKL": [4, 2, 2, 1, 1, 1, 1],
    "DF": [2, 1, 1, 1, 1],
    "VASC": [2, 1, 1, 1, 1],
}
TEST = {
    "MEL": [1] * 4,
    "NV": [1] * 9,
    "BCC": [1] * 3,
    "AKIEC": [1] * 3,
    "BKL": [1] * 4,
    "DF": [1] * 2,
    "VASC": [1] * 2,
}


class Picture(NamedTuple):
    image: str  # ISIC id
    lesion: int  # number; seeds the blob
    label: str
    view: int  # 1, 2, ...; seeds the camera


def isic(number):
    return f"ISIC_{number:07d}"


# Painting. u, v are coordinates fixed to the lesion, so every picture of it has the same spots.


def waves(rng, u, v, frequency):
    """A random smooth field of about -1..1: a sum of plane waves."""
    angle, phase = rng.uniform(0, 2 * np.pi, (2, 8, 1, 1))
    scale = frequency * rng.uniform(0.6, 1.4, (8, 1, 1))
    return np.sin(scale * (u * np.cos(angle) + v * np.sin(angle)) + phase).sum(0) / 3


def spots(rng, u, v, count, size):
    """Soft round spots at random places, 0..1; size in units of the blob's radius."""
    x, y = rng.uniform(-0.75, 0.75, (2, count, 1, 1))
    return np.exp(-((u - x) ** 2 + (v - y) ** 2) / size**2).max(0)


def mix(a, b, amount):
    """Colour a where amount (H, W) is 0, colour b where it is 1; a and b are (3,) or (H, W, 3)."""
    return a + (np.asarray(b) - np.asarray(a)) * np.clip(amount, 0, 1)[..., None]


def melanoma(rng, u, v, depth):
    """Blue-black, with brown on one side only."""
    angle = rng.uniform(0, 2 * np.pi)
    side = u * np.cos(angle) + v * np.sin(angle) + 0.5 * waves(rng, u, v, 5)
    return mix((50, 46, 66), (116, 70, 48), 1.5 * side)


def naevus(rng, u, v, depth):
    """Light to dark brown, round, a little darker in the middle, with a fine network."""
    brown = np.array([128, 80, 50]) * rng.uniform(0.7, 1.25)
    return mix(brown, 1.4 * brown, depth**2 + 0.25 * waves(rng, u, v, rng.uniform(9, 20)))


def basal_cell(rng, u, v, depth):
    """Pearly pink, crossed by thin dark red vessels."""
    pearl = mix((222, 160, 168), (240, 205, 208), waves(rng, u, v, 4))
    return mix(pearl, (150, 38, 52), 1.1 - 7 * np.abs(waves(rng, u, v, 4)))


def keratosis_actinic(rng, u, v, depth):
    """Red under pale yellow scales."""
    return mix((200, 96, 82), (236, 206, 168), 1.2 * waves(rng, u, v, 13))


def keratosis_benign(rng, u, v, depth):
    """Waxy tan, with dark plugs."""
    wax = mix((176, 138, 84), (202, 170, 116), waves(rng, u, v, 5))
    return mix(wax, (84, 54, 34), spots(rng, u, v, rng.integers(12, 30), 0.1))


def dermatofibroma(rng, u, v, depth):
    """A pale scar inside a brown ring."""
    ring = np.exp(-(((depth - 0.8) / 0.22) ** 2))
    return mix((238, 216, 198), (146, 96, 72), ring + 0.15 * waves(rng, u, v, 9))


def vascular(rng, u, v, depth):
    """Red, with large purple lagoons."""
    return mix((190, 46, 62), (84, 16, 74), 1.3 * spots(rng, u, v, rng.integers(5, 12), 0.24) - 0.2)


# class -> painter, raggedness of the outline (0 is a circle)
LOOKS = {
    "MEL": (melanoma, 0.30),
    "NV": (naevus, 0.04),
    "BCC": (basal_cell, 0.09),
    "AKIEC": (keratosis_actinic, 0.18),
    "BKL": (keratosis_benign, 0.08),
    "DF": (dermatofibroma, 0.05),
    "VASC": (vascular, 0.10),
}


def outline(rng, u, v, ragged):
    """Depth in the blob, (H, W): 0 in the middle, 1 on the edge, which wobbles by low harmonics."""
    angle, radius = np.arctan2(v, u), np.hypot(u, v * rng.uniform(0.85, 1.3))
    edge = np.ones_like(u)
    for harmonic in range(2, 7):
        edge += (
            ragged * rng.normal() * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi)) / harmonic
        )
    return radius / np.clip(edge, 0.4, 1.8)


def lesion_plane(camera):
    """The picture's pixels in lesion coordinates: turned, zoomed and off-centre."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    size = HEIGHT * camera.uniform(0.26, 0.40)  # px, the blob's radius
    x = (x - WIDTH / 2 - camera.normal(0, 6)) / size
    y = (y - HEIGHT / 2 - camera.normal(0, 4)) / size
    turn = camera.uniform(0, 2 * np.pi)
    return x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)


def hairs(camera, colour):
    """Up to two thin dark bent hairs; as in clinic, each picture of a lesion has others."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    for _ in range(camera.integers(0, 3)):
        turn, offset, bend = camera.uniform((0, -0.8, -0.4), (np.pi, 0.8, 0.4))
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        colour = mix(colour, (52, 40, 36), 0.8 - 30 * np.abs(across - offset - bend * along**2))
    return colour


def develop(camera, colour):
    """Uneven light, brightness, white balance and sensor noise; (H, W, 3) float -> uint8."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    light = camera.uniform(0.84, 1.10) + camera.normal(0, 0.05) * x + camera.normal(0, 0.05) * y
    balance = 1 + camera.normal(0, 0.03, 3)
    # one value a pixel: colour noise would cost bytes
    noise = camera.normal(0, 4, (HEIGHT, WIDTH, 1))
    return np.clip(colour * light[..., None] * balance + noise, 0, 255).astype(np.uint8)


def paint(picture):
    """One picture, (90, 120, 3) uint8: lesion and camera each from a seed of their own."""
    rng = np.random.default_rng([SEED, picture.lesion])
    camera = np.random.default_rng([SEED, picture.lesion, picture.view])
    look, ragged = LOOKS[picture.label]
    u, v = lesion_plane(camera)
    skin = np.array([226, 182, 156]) + rng.normal(0, 9) + rng.normal(0, 4, 3)
    depth = outline(rng, u, v, ragged)
    # up to 0.52 of the way to a naevus: hard on purpose
    doubt = rng.uniform(0, 0.65) ** 1.5 * np.ones_like(u)
    colour = mix(look(rng, u, v, depth), naevus(rng, u, v, depth), doubt)
    return develop(camera, hairs(camera, mix(colour, skin, (depth - 0.9) / 0.2)))


def jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


# Which pictures there are.


def number(sizes, first_image, first_lesion):
    """Pictures for {class: images per lesion}; ids are shuffled over lesions and classes."""
    lesions = [(label, size) for label, counts in sizes.items() for size in counts]
    pictures = [
        (first_lesion + i, label, k + 1)
        for i, (label, size) in enumerate(lesions)
        for k in range(size)
    ]
    order = np.random.default_rng([SEED, first_image]).permutation(len(pictures))
    return [Picture(isic(first_image + i), *pictures[j]) for i, j in enumerate(order)]


def faulty():
    """The pictures of the table above, before anything is broken; lesions 9xx are theirs alone."""
    first = {901: "NV", 902: "NV", 903: "BCC", 904: "NV", 905: "BKL", 906: "NV", 907: "MEL"}
    first |= {908: "BKL", 909: "BKL", 910: "BCC", 912: "NV", 913: "MEL", 914: "NV", 918: "NV"}
    first |= {919: "MEL"}
    # (image, lesion, class)
    more = [(911, 910, "BCC"), (915, 914, "NV"), (916, 914, "NV"), (917, 914, "NV")]
    more += [(920, 919, "MEL")]
    pictures = [Picture(isic(9_000_000 + n), n, label, 1) for n, label in first.items()]
    pictures += [Picture(isic(9_000_000 + n), lesion, label, n) for n, lesion, label in more]
    return sorted(pictures)


def break_files(files):
    """Put the table's faults into {id: JPEG bytes}."""
    fault = {n: isic(9_000_000 + n) for n in range(901, 921)}
    del files[fault[901]]
    files[fault[903]] = files[fault[903]][: len(files[fault[903]]) // 2]
    files[fault[904]] = b"<html><title>404 Not Found</title></html>\n"
    files[fault[905]] = b""
    files[fault[911]] = files[fault[910]]
    files[fault[913]] = files[fault[912]]
    # A comment after the start marker changes the bytes and no pixel: a file's checksum alone
    # misses this pair.
    comment = b"saved again"
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    files[fault[915]] = files[fault[914]][:2] + segment + files[fault[914]][2:]
    gray = Image.open(io.BytesIO(files[fault[918]])).convert("L")
    files[fault[918]] = jpeg(np.asarray(gray))


def break_labels(rows):
    """Put the table's faults into the list of (id, labels)."""
    rows = [row for row in rows if row[0] != isic(9_000_902)]
    wrong = {isic(9_000_906): (), isic(9_000_907): ("MEL", "NV")}
    rows = [(image, wrong.get(image, labels)) for image, labels in rows]
    # At the end of the file, not beside their first row: a check of neighbours would miss them.
    return rows + [(isic(9_000_908), ("BKL",)), (isic(9_000_909), ("MEL",))]


# The tables.

CONFIRMED = {
    "histo": "histopathology",
    "follow_up": "serial imaging showing no change",
    "consensus": "single image expert consensus",
    "confocal": "confocal microscopy with consensus dermoscopy",
}
CONFIRMED_BY = {  # the other classes always by histology, as in HAM10000
    "NV": ["follow_up", "histo", "consensus"],
    "BKL": ["histo", "consensus", "confocal"],
    "DF": ["histo", "consensus"],
    "VASC": ["histo", "consensus"],
}
PLACES = (
    "back",
    "lower extremity",
    "trunk",
    "upper extremity",
    "abdomen",
    "face",
    "chest",
    "unknown",
)


def metadata(picture):
    """A metadata row of HAM10000; drawn per lesion, so all its images agree."""
    rng = np.random.default_rng([SEED, picture.lesion, 10_000])
    dx_type = rng.choice(CONFIRMED_BY.get(picture.label, ["histo"]))
    complete = rng.random() > 0.06
    age = f"{5 * rng.integers(4, 18)}.0" if complete else ""  # years, in fives, as in HAM10000
    sex = rng.choice(["male", "female"]) if complete else "unknown"
    place = rng.choice(PLACES)
    return (lesion_id(picture), picture.image, picture.label.lower(), dx_type, age, sex, place)


def lesion_id(picture):
    if picture.image in (isic(9_000_915), isic(9_000_917)):
        return "HAM_9000915"  # really lesion 914, entered a second time
    return f"HAM_{9_000_000 + picture.lesion}"


def grouping(picture):
    lesion, image, _, dx_type, *_ = metadata(picture)
    return (image, lesion, CONFIRMED[dx_type])


def one_hot(image, labels):
    return (image, *(str(float(name in labels)) for name in CLASSES))


def table(header, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header.split(","), *rows])
    return text.getvalue().encode()


# The archives.


def archive(name, members):
    """Write NAME.zip with members under NAME/, stored: deflate's bytes depend on the zlib build."""
    with zipfile.ZipFile(HERE / f"{name}.zip", "w", zipfile.ZIP_STORED) as target:
        for member, content in sorted(members.items()):
            info = zipfile.ZipInfo(f"{name}/{member}", date_time=(2018, 7, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every system
            target.writestr(info, content)


def archives(subset, files, labels):
    """The official pair of archives, Training or Test: pictures, and ground truth."""
    name = f"ISIC2018_Task3_{subset}"
    notes = {
        # an older name of this script: the archives stay as they are, byte for byte
        "ATTRIBUTION.txt": b"Made-up pictures by tests/fixture/make.py of DermAI-ISIC2018; "
        b"no patient is shown.\n",
        "LICENSE.txt": b"Made-up pictures, part of DermAI-ISIC2018 and under its licence.\n",
    }
    archive(f"{name}_Input", {f"{image}.jpg": content for image, content in files.items()} | notes)
    truth = table("image," + ",".join(CLASSES), [one_hot(*row) for row in labels])
    archive(f"{name}_GroundTruth", {f"{name}_GroundTruth.csv": truth})


def make_training():
    pictures = number(TRAINING, 9_000_001, first_lesion=1) + faulty()
    files = {p.image: jpeg(paint(p)) for p in pictures}
    break_files(files)
    archives("Training", files, break_labels([(p.image, (p.label,)) for p in pictures]))
    groupings = [grouping(p) for p in pictures if p.image != isic(9_000_919)]
    header = "image,lesion_id,diagnosis_confirm_type"
    (HERE / "ISIC2018_Task3_Training_LesionGroupings.csv").write_bytes(table(header, groupings))
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    (HERE / "HAM10000_metadata.csv").write_bytes(
        table(header, sorted(metadata(p) for p in pictures))
    )


def make_test():
    pictures = number(TEST, 9_500_001, first_lesion=501)
    files = {p.image: jpeg(paint(p)) for p in pictures}
    noise = np.random.default_rng(SEED).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    files[NOISE_ID] = jpeg(noise)
    archives(
        "Test", files, sorted([(p.image, (p.label,)) for p in pictures] + [(NOISE_ID, ("NV",))])
    )


if __name__ == "__main__":
    make_training()
    make_test()
    print(HERE)
