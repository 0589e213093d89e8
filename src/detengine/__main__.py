"""`python -m detengine`: the same as the command `detengine`."""

from detengine.cli.main import main

main()
