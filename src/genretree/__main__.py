"""`python -m genretree`: the same as the command `genretree`."""

from genretree.cli import main

if __name__ == "__main__":
    main(prog_name="genretree")
