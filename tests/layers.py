"""Compares what the folders of `src/` use of each other with the table in docs/architecture.md:
`python -m tests.layers`, as `make lint` does."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ARCHITECTURE = "docs/architecture.md"
# What begins a module's path within the crate.
PATH = re.compile(r"\bcrate::(?:\{|(\w+))")


def main() -> int:
    faults = list(wrong(Path()))
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def wrong(root: Path) -> Iterator[str]:
    """What is, and is not as the table has it."""
    table = may_use((root / ARCHITECTURE).read_text())
    folders = {path.name for path in (root / "src").iterdir() if path.is_dir()}
    for name in sorted(folders ^ table.keys()):
        where = "is in src/ and not in" if name in folders else "is not in src/ and is in"
        yield f"{name} {where} the table of layers ({ARCHITECTURE})"
    for file in sorted((root / "src").rglob("*.rs")):
        path = file.relative_to(root / "src")
        layer = path.parts[0].removesuffix(".rs")
        if layer not in table:
            continue
        for used in sorted(uses(file.read_text()) - {layer, *table[layer]}):
            yield f"src/{path} uses {used}: {layer} may not ({ARCHITECTURE})"


def may_use(document: str) -> dict[str, set[str]]:
    """Each folder of `src/`, and those that its line names."""
    lines = re.findall(r"^\| `src/(\w+)` \|.*\|(.*)\|$", document, re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", used)) for name, used in lines}


def uses(source: str) -> set[str]:
    """Names of folders; several in braces count as a fault of their own, as they are not read."""
    code = re.sub(r"//.*", "", source)
    return {found[1] or "several folders in braces" for found in PATH.finditer(code)}


if __name__ == "__main__":
    sys.exit(main())
