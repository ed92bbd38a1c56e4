"""A trained run as one file to give away: nothing in it is executed, and no picture is in it but
a grey thumbnail of 8 x 8 px of each training image, by which copies are noticed.

A pack is a zip of JSON, CSV, text and safetensors. pack.json in it lists the SHA-256 of each file;
the pack's name ends with the first digits of its own SHA-256. The model that comes with the package
is such a pack, unpacked: dermai_utils/weights/dermai-lite0. Features of training images stay at
home, so an answer by a pack names no similar images.
"""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path, PureWindowsPath

import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from dermai_utils import __version__, files
from dermai_utils.app import lite0, state
from dermai_utils.app.pictures import fetched, is_address
from dermai_utils.basics import DISCLAIMER, UserError, counted
from dermai_utils.runs import Run

FORM = 4  # of pack.json
LIST, WEIGHTS = "pack.json", "weights.safetensors"
COPIED = ("table.csv", "predictions.csv", "metrics.json", "model_card.md")  # as the run has them
NEEDED = (*COPIED, "settings.json", "answers.json", state.FILE)
KINDS = (".json", ".csv", ".md", ".safetensors")  # of files in a pack
LARGEST = 2 * 10**9  # bytes of a pack at an address
DIGITS = 16  # of the SHA-256, in a pack's name
PUBLIC = ("sample", "isic2018")  # data whose ids identify no person
PERSONAL = ("patient_id", "age", "sex", "localization", "confirmed_by")  # left out of other data
SHIPPED = Path(__file__).parents[1] / "weights" / "dermai-lite0"


class PackedRun(Run):
    """The run in an unpacked pack, whose weights are safetensors."""

    def _weights(self):
        try:
            return safetensors.torch.load_file(self.folder / WEIGHTS)
        except (OSError, safetensors.SafetensorError) as reason:
            wrong = f"{self.folder}: its weights cannot be read ({reason!s:.100})"
            raise UserError(f"{wrong}; get the pack again") from None

    def _built(self):
        if self.settings.get("backbone") == lite0.NAME:  # without timm, which takes long to import
            return lite0.network(self.size)
        return super()._built()


# Make one.


def pack(run) -> Path:
    """Write the run as NAME-CHECKSUM.zip into its own folder; returns the path.

    The same run gives the same bytes. UserError where a file of the run is missing.

    >>> pack(run).name    # doctest: +SKIP
    'resnet18-1a2b3c4d5e6f7a8b.zip'
    """
    contents = _contents(run, state.load(run))
    about = {"form": FORM, "run": run.name, "made_by": f"DermAI-ISIC2018 {__version__}"}
    about["note"] = DISCLAIMER
    about["sha256"] = {name: files.digest(data).hex() for name, data in contents.items()}
    contents[LIST] = _json(about)
    path = run.folder / f"{run.name}.zip"
    with files.disk_errors(path), files.atomic(path, "wb") as file:
        with zipfile.ZipFile(file, "w") as bundle:
            for name, data in contents.items():
                bundle.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    digest = files.checksum(path)
    path = path.replace(path.with_name(f"{run.name}-{digest[:DIGITS]}.zip"))
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    print(f"pack: {size}, SHA-256 {digest}; docs/share.md says where to put it")
    if run.settings.get("data") not in PUBLIC:
        ids = f"pack: it holds the ids of {counted(len(run.table), 'image')} and of their lesions"
        ids += ", and a grey thumbnail of 8 x 8 px of each training image"
        print(f"{ids}: give it away only where these tell nothing about a person")
    return path


def _contents(run, fixed) -> dict:
    """{name in the zip: bytes} of all but pack.json; fixed: the run's State."""
    from dermai_utils.reports.page import fill  # its imports take long; answers need none of them

    checked = ["gradcam.json"] if (run.folder / "gradcam.json").exists() else []
    try:
        contents = {name: (run.folder / name).read_bytes() for name in [*COPIED, *checked]}
    except FileNotFoundError as reason:
        advice = f"python -m dermai_utils report --run-name {run.name} makes it, then pack again"
        raise UserError(f"{reason.filename} is missing; {advice}") from None
    data = PureWindowsPath(run.settings.get("data", "")).name
    if data not in PUBLIC:
        table = run.table.assign(**dict.fromkeys(PERSONAL, ""))
        contents["table.csv"] = files.table_text(table).encode()
    contents["LICENCE.md"] = fill("licence.md.j2", data=data).encode()
    contents["answers.json"] = _json(fixed.about | {"similar": {}})
    arrays = {name: getattr(fixed, name) for name in state.PACKED}
    contents[state.FILE] = safetensors.numpy.save(arrays)
    contents["settings.json"] = _json(_without_folders(run.settings))
    for prefix, one in ({f"{one.name}/": one for one in run.members} or {"": run}).items():
        contents[f"{prefix}settings.json"] = _json(_without_folders(one.settings))
        tensors = {k: _smallest(t.cpu()).contiguous() for k, t in one.net.state_dict().items()}
        contents[prefix + WEIGHTS] = safetensors.torch.save(tensors)
    return contents


def _smallest(tensor):
    """The tensor in half precision, where that loses nothing."""
    same = tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor)
    return tensor.half() if same else tensor


def _without_folders(value):
    """Settings without the paths of this machine: only the last name of each stays."""
    if isinstance(value, dict):
        return {name: _without_folders(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    is_path = isinstance(value, str) and re.search(r"[/\\]", value)
    return PureWindowsPath(value).name if is_path else value  # it knows both separators


def _json(value):
    return (json.dumps(value, indent=1) + "\n").encode()


# Open one.


def pretrained(device: str = "auto") -> PackedRun:
    """The model that comes with the package, without any download; each file is checked.

    UserError where it is damaged, or not there.

    >>> pretrained().size    # doctest: +SKIP
    224
    """
    if not SHIPPED.exists():
        raise UserError(
            f"{SHIPPED}: this copy of the package comes without its model; install it anew, or "
            "give --run-name NAME (a run of your own) or --run PACK"
        )
    check(SHIPPED, SHIPPED)
    return PackedRun(SHIPPED, device=device)


def open_pack(source, cache, **options) -> PackedRun:
    """The run in a pack, unpacked once into a folder of its own below `cache`/packs.

    source: a file or an http(s) address. options: those of `open_run` (net, device, precision).
    UserError where it is not whole, no pack, or of a version that this one cannot read.

    >>> run = open_pack("resnet18-1a2b3c4d5e6f7a8b.zip", "cache")    # doctest: +SKIP
    >>> answer(run, "photo.jpg")[0].text    # doctest: +SKIP
    """
    from dermai_utils.copies.unpack import unpack

    archive = _local(str(source), Path(cache) / "packs")
    with files.disk_errors(archive):
        digest = files.checksum(archive)
    named = re.search(r"-([0-9a-f]{16})\b", archive.stem)
    if named and not digest.startswith(named[1]):
        wrong = f"its SHA-256 is {digest}, expected {named[1]}... as its name says"
        raise UserError(f"{archive}: {wrong}: it is damaged or was changed; get it again")
    why = "as its name says" if named else "its name does not say which one to expect"
    print(f"pack: {archive.name}, SHA-256 {digest} ({why})")
    folder = unpack(archive, Path(cache) / "packs")
    check(folder, archive)
    return PackedRun(folder, **options)


def _local(source, folder) -> Path:
    """The pack as a file of this machine."""
    if is_address(source):
        name = Path(re.split("[?#]", source)[0]).name.removesuffix(".zip") + ".zip"
        target = folder / files.fingerprint(source) / name
        if not target.exists():
            data = fetched(source, LARGEST)
            with files.disk_errors(target), files.atomic(target, "wb") as file:
                file.write(data)
        return target
    path = Path(os.path.expanduser(source))
    if not os.path.isfile(path):
        advice = f"a run of this machine is --run-name {path.name}"
        raise UserError(f"{source}: no such file; expected a pack (.zip) or its address; {advice}")
    if path.suffix.lower() != ".zip":  # or unpacking it would advise to delete somebody's photo
        raise UserError(f"{source}: expected a pack, a .zip that `pack` made; photos go to --image")
    return path


def check(folder, source) -> None:
    """Compare each file of an unpacked pack with its list; `source`: where it came from.

    UserError where a file is missing, is not what the list says, or is of no kind that a pack has.
    """
    about = files.read_json(folder / LIST) or {}
    sums = about.get("sha256")
    if about.get("form") != FORM or not isinstance(sums, dict):
        what = f"no pack of this version (made by {about.get('made_by', 'something else')})"
        raise UserError(f"{source}: {what}; expected a zip that `pack` of {__version__} made")
    for name in sorted({*NEEDED, *sums}):
        path = folder / name
        known = path.resolve().is_relative_to(folder.resolve()) and path.suffix in KINDS
        if not known or not path.is_file() or files.checksum(path) != sums.get(name):
            raise UserError(f"{source}: {name} is not what its list says; get the pack again")


def copied(run, folder) -> PackedRun:
    """A pack's run in a folder that may be written to, such as for a report."""
    with files.disk_errors(folder):
        shutil.copytree(run.folder, folder, dirs_exist_ok=True)
    made = PackedRun(folder, run._given, run.device.type, run.precision)
    made.name = run.name
    return made
