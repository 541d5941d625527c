"""Find the configs that come with the package, in a checkout and in an installed wheel."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def config_paths() -> Path:
    """Return the folder of configs: inside an installed package, beside it in a checkout.

    Raises:
        FileNotFoundError: Neither exists.
    """
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if (folder / "quickstart").is_dir():
            return folder
    raise FileNotFoundError(f"expected configs in {PACKAGE / 'configs'} or beside the package")


def find_config(name: str | Path) -> Path:
    """Return a config file: the path as given, else the one of that name in the package.

    Args:
        name: A path, or a name below the configs folder with or without ``configs/`` before it.

    Raises:
        FileNotFoundError: There is no such file.
    """
    path = Path(name)
    if path.exists():
        return path
    parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    packaged = config_paths().joinpath(*parts)
    if not path.is_absolute() and packaged.is_file():
        return packaged
    known = sorted(str(p.relative_to(config_paths())) for p in config_paths().rglob("*.yaml"))
    near = get_close_matches(str(Path(*parts)), known, 3) or [
        k for k in known if parts and parts[-1] in k
    ]
    shown = near or [name for name in known if name.startswith("quickstart/")]
    rest = len(known) - len(shown)
    raise FileNotFoundError(
        f"expected a config file at {path} or {packaged}, there is none; the package has "
        f"{', '.join(shown)} and {rest} more in {config_paths()}"
    )
