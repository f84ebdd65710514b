"""Run the command line as `python -m genretree`."""

from genretree.cli import main

if __name__ == "__main__":
    main(prog_name="genretree")
