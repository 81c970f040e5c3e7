"""``make bench``: every measurement, or those named."""

import importlib
import sys

ALL = ("delivery", "loop", "replay")


def main(names: list[str]) -> None:
    """Run them one after the other."""
    for name in names or ALL:
        print(f"{name} -> {importlib.import_module(f'bench.{name}').measure()}")


if __name__ == "__main__":
    main(sys.argv[1:])
