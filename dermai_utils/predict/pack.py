"""A trained run as one file, and the answers of such a file: no data set, and nothing is executed.

A pack is a zip of the run's files at their places in work_dir, and pack.json, which lists the
SHA-256 of each, and tells the run's score. Its name ends with the first digits of its own SHA-256.
"""

import json
import os
import re
import zipfile
from pathlib import Path, PureWindowsPath

from dermai_utils import __version__, config, files
from dermai_utils.config import DISCLAIMER, UserError
from dermai_utils.data.fetch import fetch, is_address
from dermai_utils.data.unpack import DAMAGED, unpack
from dermai_utils.predict import description, state
from dermai_utils.predict.predictor import Predictor
from dermai_utils.report import render

FORM = 1  # of pack.json
LIST, LICENCE = description.PACK_LIST, "LICENCE.md"
DIGITS = 16  # of the SHA-256, in a pack's name
# all else was fixed when the run was trained
SETTINGS = ("work_dir", "cache_dir", "device", "precision", "workers")
PUBLIC = ("sample", "isic2018")  # data whose ids name no person


def command(predictor) -> list:
    """Write the run as work_dir/packs/RUN-CHECKSUM.zip; returns its path.

    The same run gives the same bytes. UserError where a file of the run is missing.
    """
    cfg = predictor.cfg
    contents = _contents(cfg)
    sums = {name: files.digest(data).hex() for name, data in contents.items()}
    made_by = f"DermAI-ISIC2018 {__version__}"
    about = dict(form=FORM, run=cfg.run_name, made_by=made_by, note=DISCLAIMER)
    about |= dict(trained=description.trained(cfg), score=description.score(cfg), sha256=sums)
    contents[LIST] = _json(about)  # the last one: where it is, all are unpacked
    path = cfg.work / "packs" / f"{cfg.run_name}.zip"
    with files.atomic(path, "wb") as file, zipfile.ZipFile(file, "w") as bundle:
        for name, data in contents.items():
            bundle.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    digest = files.checksum(path)
    path = path.replace(path.with_name(f"{cfg.run_name}-{digest[:DIGITS]}.zip"))
    print(
        f"pack: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}; docs/share.md says where to"
    )
    if cfg.data not in PUBLIC:
        print(
            f"pack: it names {len(predictor.state.image):,} training images and their lesions: "
            "give it away only where these ids tell nothing about a person"
        )
    return [path]


def _contents(cfg) -> dict:
    """{name in the zip: bytes} of all but pack.json."""
    try:
        contents = {name: (cfg.work / name).read_bytes() for name in _names(cfg)}
    except FileNotFoundError as reason:
        raise UserError(
            f"{cfg.show(reason.filename)} is missing; python -m dermai_utils predictor "
            f"--run-name {cfg.run_name} makes it, then pack again"
        ) from None
    settings = config.modernised(json.loads(contents[_settings_name(cfg)]))
    contents[_settings_name(cfg)] = _json({k: _without_folder(v) for k, v in settings.items()})
    contents[LICENCE] = render.fill("licence.md.j2", data=cfg.source).encode()
    return contents


def _settings_name(cfg):
    return _name(cfg, cfg.run_dir / "config.json")


def _names(cfg) -> list[str]:
    """The files of a run that a pack needs, relative to work_dir."""
    paths = [cfg.run_dir / "config.json", *(folder / "best.pt" for folder in cfg.member_dirs)]
    paths += [cfg.report_dir / f for f in ("predictor.npz", "predictor.json", "model_card.md")]
    return [_name(cfg, path) for path in paths]


def _name(cfg, path):
    return path.relative_to(cfg.work).as_posix()


def _without_folder(value):
    """A path of this machine, which nobody else needs to know, as its last name."""
    is_path = isinstance(value, str) and re.search(r"[/\\]", value)
    return PureWindowsPath(value).name if is_path else value  # it knows both separators


def _json(value):
    return (json.dumps(value, indent=1) + "\n").encode()


def load(source, **given) -> Predictor:
    """The Predictor of the pack `source`, a file or an http(s) address.

    given: settings of SETTINGS, which DERMAI_ variables may set too. The pack is unpacked into
    work_dir (by default work/packs), a folder a pack. UserError where it is not whole, no pack, or
    of a version that this one cannot read.
    """
    if others := sorted(given.keys() - set(SETTINGS)):
        raise UserError(
            f"{others[0]}: a pack brings its settings with it; beside --run only "
            f"{', '.join(SETTINGS)} can be set"
        )
    names = {f"DERMAI_{name.upper()}" for name in SETTINGS}
    asked = config.load({k: v for k, v in os.environ.items() if k in names}, **given)
    archive = _local(str(source), asked)
    with files.plain_errors(archive):
        folder = _folder(asked.work_dir, "work") / _verified(archive)[:DIGITS]
        if not (folder / LIST).exists() and _is_pack(archive):
            unpack(archive, folder)
        cfg = _checked(archive, folder, asked)
    if state.load(cfg) is None:
        about = files.read_json(folder / LIST)
        raise UserError(
            f"{archive}: made by {about.get('made_by')}, which this version ({__version__}) does "
            "not understand; pack the run again with this one, or install that one"
        )
    return Predictor(cfg)


def _folder(given, name):
    return Path(given).absolute() if given else config.ROOT / name / "packs"


def _local(source, asked) -> Path:
    """The pack as a file of this machine."""
    if is_address(source):
        name = Path(re.split("[?#]", source)[0]).name.removesuffix(".zip") + ".zip"
        target = _folder(asked.cache_dir, "cache") / files.fingerprint(source) / name
        if fetch([source], target) is None:
            raise UserError(
                f"{source}: nothing is there; expected the address of a pack that anybody can "
                "download: open it in a browser first"
            )
        return target
    path = Path(os.path.expanduser(source))
    if not os.path.isfile(path):
        raise UserError(
            f"{source}: no such file; expected a pack (.zip) or its address; a run of this "
            f"machine is --run-name {path.name}"
        )
    return path


def _verified(archive) -> str:
    """The SHA-256 of a pack; UserError where its name tells another."""
    digest, told = files.checksum(archive), re.search(r"-([0-9a-f]{16})\b", archive.stem)
    if told and not digest.startswith(told[1]):
        raise UserError(
            f"{archive}: its SHA-256 is {digest}, expected {told[1]}... as its name says: it is "
            "damaged or was changed; get it again"
        )
    why = "as its name says" if told else "its name does not say which one to expect"
    print(f"pack: {archive.name}, SHA-256 {digest} ({why})")
    return digest


def _is_pack(archive) -> bool:
    try:
        with zipfile.ZipFile(archive) as bundle:
            return LIST in bundle.namelist()
    except DAMAGED:
        return False


def _checked(archive, folder, asked):
    """The Config of an unpacked pack whose files are all there and as its list says."""
    about = files.read_json(folder / LIST) or {}
    sums = about.get("sha256")
    if about.get("form") != FORM or not isinstance(sums, dict):
        raise UserError(
            f"{archive}: no whole pack; expected a zip with {LIST} of form {FORM} in it"
        )
    here = {name: getattr(asked, name) for name in SETTINGS}  # not those of the training's machine
    here |= {"work_dir": str(folder), "cache_dir": str(folder / "cache")}
    cfg = config.of_run({}, run_name=about.get("run"), **here)
    for name in _names(cfg):
        path = folder / name
        if not path.is_file() or files.checksum(path) != sums.get(name):
            raise UserError(
                f"{archive}: {name} is not what its list says; delete {folder} and run this "
                "again, or get the pack again"
            )
    return cfg
