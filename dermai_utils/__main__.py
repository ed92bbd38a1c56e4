"""python -m dermai_utils STAGE [--field value ...]: make a stage and all that it needs; the last line says where it lies.

After the stages: predict --image PHOTO (your own: files, folders, URLs), export (the model as ONNX and .pt2), app (a page on
this machine where a photo can be dropped).
"""

import argparse
import dataclasses
import importlib
import sys

from dermai_utils import config, environment, pipeline

COMMANDS = ("predict", "export", "app")  # they use what the stages made


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise config.UserError(f"{message}; python -m dermai_utils --help lists what there is")


def main(arguments=None) -> int:
    """Exit status: 0 done, 2 a usage or input error in one plain line, 130 interrupted."""
    if (arguments or sys.argv[1:]) == ["--version"]:
        print(environment.version_line())
        return 0
    parser = _Parser(prog="python -m dermai_utils", description=__doc__, allow_abbrev=False, add_help=True)
    stages = (*pipeline.STAGES, *COMMANDS)
    parser.add_argument("stage", choices=stages, metavar="STAGE", help=", ".join(stages))
    parser.add_argument("--image", nargs="+", metavar="PHOTO", help="for predict: files, folders, http(s) URLs")
    for field in dataclasses.fields(config.Config):
        shown = "(a preset may change it)" if field.default == "" else f"default {field.default}"
        parser.add_argument(f"--{field.name.replace('_', '-')}", metavar="VALUE", help=shown)
    stage = "dermai_utils"
    try:
        given, unknown = parser.parse_known_args(arguments)
        given = vars(given)
        stage, images = given.pop("stage"), given.pop("image")
        if unknown:
            name = unknown[0].lstrip("-").split("=")[0].replace("-", "_")
            config.load(env={}, **{name or "?": "given"})
        if (stage == "predict") != bool(images):
            raise config.UserError("predict needs --image PHOTO (a file, a folder or a URL), and nothing else takes it")
        of_a_run = stage in COMMANDS or "train" in pipeline.order(stage)[:-1]
        cfg = (config.of_run if of_a_run else config.load)(**given)
        made = pipeline.ensure(cfg, stage) if stage in pipeline.STAGES else _command(cfg, stage, images)
    except config.UserError as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as reason:
        print(str(reason) or f"{stage}: interrupted; run it again to go on", file=sys.stderr)
        return 130
    if made:
        print(made[0])
    return 0


def _command(cfg, name, images):
    module = importlib.import_module(f"dermai_utils.{name}")
    try:
        return module.command(cfg, images) if images else module.command(cfg)
    except OSError as reason:
        raise config.UserError(f"{name}: {reason}") from None


if __name__ == "__main__":
    sys.exit(main())
