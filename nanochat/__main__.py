"""Run `python -m nanochat`: the same command as `nanochat`."""

from nanochat.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
