"""`python -m sparsesim` is the command `sparsesim`."""

from sparsesim.cli import main

if __name__ == "__main__":
    main()
