"""Run `python -m nanochat`: the same command as `nanochat`."""

__all__ = ["main"]


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from nanochat.cli import main as run
    except KeyboardInterrupt:  # while Python still imports
        return 130
    return run()


if __name__ == "__main__":
    raise SystemExit(main())
