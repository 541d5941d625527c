"""Find the configs that come with the package, in a checkout and in an installed wheel."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def config_paths() -> Path:
    """Return the folder of configs: in an installed package, beside it in a checkout; else an error."""
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if (folder / "quickstart").is_dir():
            return folder
    raise FileNotFoundError(f"expected configs in {PACKAGE / 'configs'} or beside the package")


def find_config(name: str | Path, beside: Path = Path()) -> Path:
    """Return a config file: the path as given, else the one of that name in the package.

    Args:
        name: A path, or a name below the configs folder with or without ``configs/`` before it.
        beside: Folder that a relative path starts from.

    Raises:
        FileNotFoundError: There is no such file.
    """
    path, named = beside / name, Path(name)
    if path.exists() and not path.is_dir():
        return path
    folder = config_paths()
    parts = named.parts[1:] if named.parts[:1] == ("configs",) else named.parts
    packaged = folder.joinpath(*parts)
    if not named.is_absolute() and packaged.is_file():
        return packaged
    if path.is_dir():
        raise FileNotFoundError(
            f"expected a config file at {path}, got a folder; name a file in it"
        )
    known = sorted(str(each.relative_to(folder)) for each in folder.rglob("*.yaml"))
    shown = (
        get_close_matches(str(Path(*parts)), known, 3)
        or [each for each in known if parts and parts[-1] in each]
        or [each for each in known if each.startswith("quickstart/")]
    )
    raise FileNotFoundError(
        f"expected a config file at {path} or {packaged}, there is none; the package has "
        f"{', '.join(shown)} and {len(known) - len(shown)} more in {folder}"
    )
