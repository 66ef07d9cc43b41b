"""``python -m flatlens``: hands over to the command line."""

from flatlens_cli.app import main

if __name__ == "__main__":
    main()
