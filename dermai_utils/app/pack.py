"""A trained run as one file to give away: no picture is in it, and nothing in it is executed.

A pack is a zip of JSON, CSV, text, arrays without pickle, and safetensors. pack.json in it lists
the SHA-256 of each file; the pack's name ends with the first digits of its own SHA-256.
"""

import json
import os
import re
import zipfile
from pathlib import Path, PureWindowsPath

import safetensors.torch

from dermai_utils import __version__, files
from dermai_utils.app import state
from dermai_utils.app.pictures import fetched, is_address
from dermai_utils.app.templating import fill
from dermai_utils.basics import DISCLAIMER, UserError
from dermai_utils.copies.unpack import unpack
from dermai_utils.metrics import jsonable
from dermai_utils.runs import Run, load_checkpoint, open_run, save_checkpoint

FORM = 2  # of pack.json
LIST, WEIGHTS = "pack.json", "weights.safetensors"
NEEDED = ("settings.json", "table.csv", "predictions.csv", "answers.npz", "answers.json")
NEEDED += ("metrics.json", "model_card.md")
KINDS = (".json", ".csv", ".npz", ".md", ".safetensors")  # of files in a pack
LARGEST = 2 * 10**9  # bytes of a pack at an address
DIGITS = 16  # of the SHA-256, in a pack's name
PUBLIC = ("sample", "isic2018")  # data whose ids identify no person
PERSONAL = ("patient_id", "age", "sex", "localization", "confirmed_by")  # left out of other data


def pack(run) -> Path:
    """Write the run as NAME-CHECKSUM.zip into its own folder; returns the path.

    The same run gives the same bytes. UserError where a file of the run is missing.

    >>> pack(run).name    # doctest: +SKIP
    'resnet18-1a2b3c4d5e6f7a8b.zip'
    """
    state.load(run)  # or a UserError
    contents, checkpoints = _contents(run)
    about = {"form": FORM, "run": run.name, "made_by": f"DermAI-ISIC2018 {__version__}"}
    about |= {"note": DISCLAIMER, "checkpoints": checkpoints}
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
        ids = f"pack: it holds the ids of {len(run.table):,} images and of their lesions"
        print(f"{ids}: give it away only where these tell nothing about a person")
    return path


def _contents(run):
    """({name in the zip: bytes} of all but pack.json, {name of weights: the rest of best.pt})."""
    folders = {f"{k}/": run.folder / str(k) for k in range(run.folds)} or {"": run.folder}
    paths = {name: run.folder / name for name in NEEDED}
    paths |= {f"{prefix}settings.json": at / "settings.json" for prefix, at in folders.items()}
    if (run.folder / "gradcam.json").exists():
        paths["gradcam.json"] = run.folder / "gradcam.json"
    try:
        contents = {name: path.read_bytes() for name, path in paths.items()}
    except FileNotFoundError as reason:
        advice = f"python -m dermai_utils report --run-name {run.name} makes it, then pack again"
        raise UserError(f"{reason.filename} is missing; {advice}") from None
    for name in [name for name in contents if name.endswith("settings.json")]:
        contents[name] = _json(_without_folders(json.loads(contents[name])))
    data, checkpoints = PureWindowsPath(run.settings.get("data", "")).name, {}
    if data not in PUBLIC:
        table = run.table.assign(**dict.fromkeys(PERSONAL, ""))
        contents["table.csv"] = files.table_text(table).encode()
    for prefix, folder in folders.items():
        checkpoint = load_checkpoint(folder / "best.pt")
        tensors = {name: t.contiguous() for name, t in checkpoint.pop("model").items()}
        contents[prefix + WEIGHTS] = safetensors.torch.save(tensors)
        checkpoints[prefix + WEIGHTS] = jsonable(checkpoint)
    return contents | {"LICENCE.md": fill("licence.md.j2", data=data).encode()}, checkpoints


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


def open_pack(source, cache, **options) -> Run:
    """The run in a pack, unpacked once into a folder of its own below `cache`/packs.

    source: a file or an http(s) address. options: those of `open_run` (net, device, precision).
    UserError where it is not whole, no pack, or of a version that this one cannot read.

    >>> run = open_pack("resnet18-1a2b3c4d5e6f7a8b.zip", "cache")    # doctest: +SKIP
    >>> answer(run, "photo.jpg")[0].text    # doctest: +SKIP
    """
    folder = Path(cache) / "packs"
    archive = _local(str(source), folder)
    _check_name(archive)
    folder = unpack(archive, folder)
    with files.locked(folder.parent), files.disk_errors(folder):
        if not (folder.parent / "opened").exists():
            _check(archive, folder)
            (folder.parent / "opened").touch()
    return open_run(folder, **options)


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


def _check_name(archive) -> None:
    """Print the SHA-256 of a pack; UserError where its name has another one."""
    with files.disk_errors(archive):
        digest = files.checksum(archive)
    named = re.search(r"-([0-9a-f]{16})\b", archive.stem)
    if named and not digest.startswith(named[1]):
        wrong = f"its SHA-256 is {digest}, expected {named[1]}... as its name says"
        raise UserError(f"{archive}: {wrong}: it is damaged or was changed; get it again")
    why = "as its name says" if named else "its name does not say which one to expect"
    print(f"pack: {archive.name}, SHA-256 {digest} ({why})")


def _check(archive, folder) -> None:
    """Compare each unpacked file with the list, and write the best.pt that `open_run` reads.

    UserError where a file is missing, is not what the list says, or is of no kind that a pack has.
    """
    about = files.read_json(folder / LIST) or {}
    sums = about.get("sha256")
    if about.get("form") != FORM or not isinstance(sums, dict):
        what = f"no pack of this version (made by {about.get('made_by', 'something else')})"
        raise UserError(f"{archive}: {what}; expected a zip that `pack` of {__version__} made")
    here = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    for name in sorted({*NEEDED, *sums}):
        known = name in here and Path(name).suffix in KINDS
        if not known or files.checksum(folder / name) != sums.get(name):
            raise UserError(f"{archive}: {name} is not what its list says; get the pack again")
    try:
        for name in sums:
            if name.endswith(WEIGHTS):
                model = safetensors.torch.load_file(folder / name)
                state = {"model": model, **about["checkpoints"][name]}
                save_checkpoint((folder / name).with_name("best.pt"), state)
    except (KeyError, TypeError, safetensors.SafetensorError) as reason:
        raise UserError(f"{archive}: its weights cannot be read ({reason!s:.100})") from None
