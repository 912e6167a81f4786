"""`unmask train`: what it can do. Each command is imported when it runs, so that help and errors come at once."""

import sys
from importlib import import_module

# Name -> (module whose `main(arguments)` runs it, what it does).
COMMANDS = {
    "mini": ("unmask_training.command_mini", "make the built-in model, from data to bundle"),
    "plot": ("unmask_training.plot_losses", "draw the loss curves of a training"),
    "stage": ("unmask_training.stage_bundle", "a bundle of one stage's checkpoint, to compare the stages"),
    "compare": ("unmask_training.compare_results", "scores of several bundles in one table, and over training time"),
    "validate": ("unmask_training.command_validate", "check a JSONL file of samples"),
    "convert-data": ("unmask_training.command_convert", "write samples as JSONL, from a CSV or from the small world"),
    "finetune": ("unmask_training.finetune", "fine-tune a bundle on a JSONL file"),
}


def main(arguments: list[str]) -> None:
    """The command `unmask train`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("Usage: unmask train COMMAND [OPTIONS]\n")
        for name, (_, what) in COMMANDS.items():
            print(f"  {name:14}{what}")
        print("\nOptions of a command: unmask train COMMAND --help. Guide: docs/training.md")
        return
    if arguments[0] not in COMMANDS:
        sys.exit(f"unmask train: no command {arguments[0]!r}; there are: {', '.join(COMMANDS)}")
    import_module(COMMANDS[arguments[0]][0]).main(arguments[1:])
