"""`python -m rhapsode` is the `rhapsode` command."""

from rhapsode.cli import main

if __name__ == "__main__":
    main()
