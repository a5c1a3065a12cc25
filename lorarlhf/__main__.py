"""`python -m lorarlhf` and `accelerate launch -m lorarlhf` are the command line."""

from lorarlhf.cli import main

main()
