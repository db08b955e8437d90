"""`merge-search`, which is also `python -m search`."""

from search.signals import end_on_signals, stop_on_signals


def main() -> None:
    """Run the command line; signals are caught before anything else is imported."""
    stop_on_signals()
    from search.cli import main as commands

    try:
        commands(prog_name="merge-search")
    finally:
        end_on_signals()


if __name__ == "__main__":
    main()
