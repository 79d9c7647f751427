"""The commands: argv, printing and exit codes, one file or folder each. No other package reads argv or prints."""
