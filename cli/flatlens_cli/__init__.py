"""The command line of flatlens: parses, calls the library, turns errors into exit codes."""
