"""Resolves relative paths in settings, and names files in manifests.

A relative path is looked for where the job was started, then in the tree: the folder that holds `ilm_ray`. A file in
the tree is named by its place there and not by the path of this copy, because every submission of a job runs in another
copy, and must find finished what an earlier one finished. URLs and absolute paths stay as they are.
"""

from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
_LOCAL = "file://"


def settled(path: str) -> str:
    """The path or glob as a configuration keeps it: absolute, or relative and in the tree.

    So it means the same file in a Ray worker and in a later job, in any current directory. Applied twice it is as
    applied once.
    """
    if "://" in path or Path(path).is_absolute():
        return path
    here = Path(path).absolute()
    if here == TREE / path or (_exists(TREE, path) and not _exists(Path(), path)):
        return path
    return str(here)


def located(path: str) -> str:
    """The absolute path or glob, or the URL, that a setting means."""
    kept = settled(path)
    return kept if "://" in kept else str(TREE / kept)


def place_in_tree(path: str) -> str:
    """A file's name in a manifest: its place in the tree where it lies there, else `path` as it is."""
    local = Path(path.removeprefix(_LOCAL))
    return str(local.relative_to(TREE)) if local.is_relative_to(TREE) else path


def _exists(root: Path, pattern: str) -> bool:
    """Whether `root` holds the file, or the folder in which the glob begins."""
    fixed = Path(pattern)
    while any(sign in str(fixed) for sign in "*?["):
        fixed = fixed.parent
    try:
        return (root / fixed).exists()
    except OSError:  # a name that is too long
        return False
