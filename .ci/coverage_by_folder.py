"""Prints line and branch coverage by folder, from what `coverage json` wrote.

python .ci/coverage_by_folder.py coverage.json
"""

import json
import sys
from collections import Counter
from pathlib import Path, PurePath


def main() -> None:
    """Print a row for each folder and one for all."""
    files = json.loads(Path(sys.argv[1]).read_text())["files"]
    folders: dict[str, Counter[str]] = {}
    for name, file in sorted(files.items()):
        for folder in (PurePath(name).parent.as_posix(), "all"):
            folders.setdefault(folder, Counter()).update(file["summary"])
    print(f"{'folder':<24}{'lines':>8}{'covered':>9}{'branches':>10}{'covered':>9}")
    for folder, of in sorted(folders.items(), key=lambda row: row[0] == "all"):
        lines = 100 * of["covered_lines"] / max(1, of["num_statements"])
        branches = 100 * of["covered_branches"] / max(1, of["num_branches"])
        print(
            f"{folder:<24}{of['num_statements']:>8}{lines:>8.1f}%"
            f"{of['num_branches']:>10}{branches:>8.1f}%"
        )


if __name__ == "__main__":
    main()
