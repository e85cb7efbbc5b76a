"""`python -m tinyclf` is the command line."""

from tinyclf.cli import main

main()
