"""`python -m migrate`."""

from migrate.cli.app import main

main()
