"""`python -m chainrule` is `chainrule`."""

from chainrule.cli import main

main()
