"""python -m dermai_utils STAGE [--field value ...]: make a stage and all that it needs; the last line says where it lies."""

import argparse
import dataclasses
import sys

from dermai_utils import config, environment, pipeline


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise config.UserError(f"{message}; python -m dermai_utils --help lists what there is")


def main(arguments=None) -> int:
    """Exit status: 0 done, 2 a usage or input error in one plain line, 130 interrupted."""
    if (arguments or sys.argv[1:]) == ["--version"]:
        print(environment.version_line())
        return 0
    parser = _Parser(prog="python -m dermai_utils", description=__doc__, allow_abbrev=False, add_help=True)
    parser.add_argument("stage", choices=pipeline.STAGES, metavar="STAGE", help=", ".join(pipeline.STAGES))
    for field in dataclasses.fields(config.Config):
        shown = "(a preset may change it)" if field.default == "" else f"default {field.default}"
        parser.add_argument(f"--{field.name.replace('_', '-')}", metavar="VALUE", help=shown)
    stage = "dermai_utils"
    try:
        given, unknown = parser.parse_known_args(arguments)
        given = vars(given)
        stage = given.pop("stage")
        if unknown:
            name = unknown[0].lstrip("-").split("=")[0].replace("-", "_")
            config.load(env={}, **{name or "?": "given"})
        cfg = (config.load if stage in ("download", "clean", "split", "instant", "train") else config.of_run)(**given)
        made = pipeline.ensure(cfg, stage)
    except config.UserError as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as reason:
        print(str(reason) or f"{stage}: interrupted; run it again to go on", file=sys.stderr)
        return 130
    print(made[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
