"""Entry point of the command line."""

from s4s.cli.main import main

if __name__ == "__main__":
    main()
