"""Fail if a tracked file names an absolute path of somebody's machine or a package registry.

Such text makes a checkout work for its author only: locks must hold hashes, not addresses,
and documents must use paths relative to the repository.
"""

import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
#: Split so that this file does not report itself.
FORBIDDEN = {
    "machine path": re.compile(
        r"(?<![\w.~/-])/(?:home/(?!app\b|user\b)\w+|root|Users/\w+|work|mnt/\w+)/[\w.]"
    ),
    "package registry": re.compile(
        "|".join(
            (
                r"pypi\." + "org",
                r"files\.pythonhosted\." + "org",
                r"registry\.npmjs\." + "org",
                r"registry\.yarnpkg\." + "com",
                r"proxy\.golang\." + "org",
                r"repo1?\.maven\.(?:apache\.)?" + "org",
                r"--(?:extra-)?index-" + "url",
                # npm: set omit-lockfile-registry-resolved
                r'"resolved": *"' + "https?:",
            )
        )
    ),
}


def main() -> int:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPO, check=True, capture_output=True, text=True
    ).stdout
    names = [name for name in listed.split("\0") if name]
    findings = [finding for name in names for finding in scan(name)]
    print("\n".join(findings) if findings else f"tracked files: {len(names)} clean")
    return 1 if findings else 0


def scan(name: str) -> list[str]:
    path = REPO / name
    if path.is_symlink() or not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return []  # binary fixture
    return [
        f"{name}:{number}: {kind}: {match.group()}"
        for number, line in enumerate(text.splitlines(), start=1)
        for kind, pattern in FORBIDDEN.items()
        if (match := pattern.search(line))
    ]


if __name__ == "__main__":
    sys.exit(main())
