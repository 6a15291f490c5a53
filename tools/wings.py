"""Print the test folders of a wing, or of what changed since `main`. Called by `make check`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WINGS = sorted({path.parent.name for path in ROOT.glob("tests/*/test_*.py")})


def tested_by(path: str) -> list[str]:
    """Wings whose tests are those of a file: its own, `core` for what a solver is, all for what tests share."""
    match path.split("/"):
        case ["s4s", wing, _, *_]:
            return [wing if wing in WINGS else "workflow"]
        case ["s4s", _]:
            return ["core"]
        case ["tests", wing, *_]:
            return [wing] if wing in WINGS else WINGS
    return ["workflow"]


def changed() -> list[str]:
    """Files that differ from where this branch left `main` (on `main` itself, from the last commit), new ones too."""
    base = git("merge-base", "HEAD", "main") or ["HEAD"]
    return git("diff", "--name-only", *base) + git("ls-files", "--others", "--exclude-standard")


def git(*arguments: str) -> list[str]:
    """Lines that a git command prints; none if it fails."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def folders(wings: Iterable[str]) -> list[str]:
    """Test folders of some wings."""
    return [f"tests/{wing}" for wing in sorted(set(wings))]


def main(wings: list[str]) -> None:
    for wing in wings:
        if wing not in WINGS:
            sys.exit(f"make check: unknown wing {wing!r}; choose one of: {', '.join(WINGS)}")
    print(*folders(wings or [wing for path in changed() for wing in tested_by(path)]))


if __name__ == "__main__":
    main(sys.argv[1:])
