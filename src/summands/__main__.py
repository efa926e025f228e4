"""`python -m summands` is the program `summands`."""

from .cli import main

main()
