"""Where the `ramify` command begins: Ctrl-C is one word even while modules are being loaded."""

import sys


def main() -> None:
    """Run the command and exit with its code."""
    try:
        from ramify.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    run()
