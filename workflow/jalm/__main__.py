"""`python -m jalm STAGE …`: run one stage or command by its name."""

from jalm.cli import run

if __name__ == "__main__":
    run()
