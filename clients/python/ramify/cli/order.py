"""What the commands that order something have in common: how an answer is shown."""

from ramify.cli.exits import ExitCode
from ramify.cli.terminal import note, print_json
from ramify.v1.command_pb2 import CommandState
from ramify.v1.orchestrator_service_pb2 import CommandReceipt


def show_receipt(receipt: CommandReceipt, done: str, *, json: bool) -> ExitCode:
    """Print what became of an order; `done` says what an applied one means."""
    if json:
        print_json(receipt)
    elif receipt.state == CommandState.COMMAND_STATE_OPEN:
        note(
            f"ordered, durable at revision {receipt.revision}, but no orchestrator has answered "
            "yet; the one that takes the run up will"
        )
    else:
        note(f"{done}; {receipt.answer}" if receipt.answer else done)
    return ExitCode.OK
