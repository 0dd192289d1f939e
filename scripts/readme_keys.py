"""Write the table of execution keys into README.md, from the contract. A test compares them."""

from pathlib import Path

from orchestrator_svc.settings import KEYS

README = Path(__file__).resolve().parent.parent / "README.md"
HEAD = "| `execution` | default | range | meaning |\n|---|---|---|---|\n"


def table() -> str:
    """Return the rows of the table."""
    rows = []
    for name, key in KEYS.items():
        default = str(key.default).lower() if isinstance(key.default, bool) else str(key.default)
        allowed = key.allowed.removeprefix("a whole number, ").removeprefix("a number, ")
        rows.append(f"| `{name}` | {default} | {allowed} | {key.meaning} |\n")
    return "".join(rows)


def main() -> None:
    """Replace the table in place."""
    before, head, after = README.read_text("utf-8").partition(HEAD)
    _, gap, after = after.partition("\n\n")
    README.write_text(before + head + table().rstrip("\n") + gap + after, "utf-8")


if __name__ == "__main__":
    main()
