"""Generate the Python stubs from `protos/`, or check that the committed ones are current.

Runs in `.venv-proto` (see requirements/proto.in) through `make proto` and `make proto-check`.
A directory is a package, so files are written as protoc names them and imports need no rewriting.
"""

import argparse
import difflib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

REPO = Path(__file__).resolve().parent.parent
PROTOS = REPO / "protos"
GENERATED_PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


@dataclass(frozen=True, slots=True)
class Target:
    """One proto package and the import root that its stubs are generated into."""

    package_dir: str  #: relative to `protos/` and to the import root alike
    root: str  #: import root, relative to the repository
    docstring: str  #: of the package's `__init__.py`, written when none exists


TARGETS = (
    Target("ramify/v1", "clients/python", "Generated stubs of the public contract, `ramify.v1`."),
    Target("state_svc/storage/v1", ".", "Generated stubs of what state_svc writes to disk."),
)


def main() -> int:
    """Generate in place, or into a scratch directory and compare (`--check`)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check: bool = parser.parse_args().check
    with tempfile.TemporaryDirectory(prefix="ramify-protos-") as scratch:
        out = Path(scratch)
        generate(out)
        changes = [change for target in TARGETS for change in compare(out, target)]
        if check:
            for change in changes:
                print(change.report)
            if changes:
                print(f"proto-check: {len(changes)} stale file(s); run `make proto` and commit")
                return 1
            print("proto-check: committed stubs are current")
            return 0
        for change in changes:
            change.apply()
            print(f"  {change.verb} {change.path.relative_to(REPO)}")
    print(f"proto: {len(changes)} file(s) changed")
    return 0


def generate(out: Path) -> None:
    """Write the stubs of every target below `out`, laid out as in the repository."""
    for target in TARGETS:
        sources = sorted(
            path.relative_to(PROTOS).as_posix()
            for path in (PROTOS / target.package_dir).glob("*.proto")
        )
        if not sources:
            print(f"  no protos in protos/{target.package_dir}, skipped")
            continue
        root = out / target.root
        root.mkdir(parents=True, exist_ok=True)
        run_protoc([f"--python_out={root}", f"--mypy_out=quiet:{root}", *sources])
        if with_services := declaring_services(sources, out):
            run_protoc(
                [f"--grpc_python_out={root}", f"--mypy_grpc_out=quiet:{root}", *with_services]
            )
        init = root / target.package_dir / "__init__.py"
        init.write_text(f'"""{target.docstring}"""\n', encoding="utf-8")


def run_protoc(arguments: list[str]) -> None:
    """Run protoc over paths relative to `protos/`; exit with its code if it fails."""
    well_known = files("grpc_tools") / "_proto"
    plugins = [
        f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}"
        for name in ("mypy", "mypy_grpc")  # protoc would look for them on PATH
    ]
    code = protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", *plugins, *arguments])
    if code != 0:
        sys.exit(code)


def declaring_services(sources: list[str], scratch: Path) -> list[str]:
    """The sources with a service; protoc would write an empty gRPC module for the others."""
    descriptors = scratch / "descriptors.bin"
    run_protoc([f"--descriptor_set_out={descriptors}", *sources])
    parsed = FileDescriptorSet.FromString(descriptors.read_bytes())
    return [file.name for file in parsed.file if file.service]


@dataclass(frozen=True, slots=True)
class Change:
    """A difference between one generated file and the committed one."""

    path: Path
    old: str | None  #: `None`: not there yet
    new: str | None  #: `None`: no longer generated

    @property
    def verb(self) -> str:
        if self.old is None:
            return "created"
        return "deleted" if self.new is None else "updated"

    @property
    def report(self) -> str:
        name = self.path.relative_to(REPO).as_posix()
        if self.old is None or self.new is None:
            return f"{name}: would be {self.verb}"
        lines = difflib.unified_diff(
            self.old.splitlines(), self.new.splitlines(), f"committed/{name}", name, "", "", 1, ""
        )
        return "\n".join(list(lines)[:40])

    def apply(self) -> None:
        if self.new is None:
            self.path.unlink()
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(self.new, encoding="utf-8")


def compare(out: Path, target: Target) -> Iterator[Change]:
    """Changes that would make the committed package equal to the generated one."""
    fresh_dir = out / target.root / target.package_dir
    committed_dir = REPO / target.root / target.package_dir
    fresh = {path.name: path.read_text(encoding="utf-8") for path in generated_in(fresh_dir)}
    committed = {
        path.name: path.read_text(encoding="utf-8") for path in generated_in(committed_dir)
    }
    for name in sorted(fresh.keys() | committed.keys()):
        if fresh.get(name) != committed.get(name):
            yield Change(committed_dir / name, committed.get(name), fresh.get(name))
    # An existing `__init__.py` is left alone: only its absence would break imports.
    init = committed_dir / "__init__.py"
    if fresh and not init.exists():
        yield Change(init, None, (fresh_dir / "__init__.py").read_text(encoding="utf-8"))


def generated_in(directory: Path) -> Iterator[Path]:
    for pattern in GENERATED_PATTERNS:
        yield from directory.glob(pattern)


if __name__ == "__main__":
    sys.exit(main())
