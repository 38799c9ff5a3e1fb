"""`python -m byhand`: the command line."""

from byhand.cli import main

main()
