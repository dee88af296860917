"""Import every module of the installed package; print the number of modules, or fail."""

import importlib
import pkgutil

import spade_bench


def main() -> None:
    """Import all; a plugin that cannot be imported on this system is an error here."""
    names = [m.name for m in pkgutil.walk_packages(spade_bench.__path__, "spade_bench.")]
    for name in names:
        importlib.import_module(name)
    print(f"{len(names)} modules of spade_bench {spade_bench.__version__} import")


if __name__ == "__main__":
    main()
