"""python -m dermai_utils COMMAND [--setting value ...]"""

import sys

from dermai_utils import cli

if __name__ == "__main__":
    sys.exit(cli.main())
