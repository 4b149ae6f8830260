"""The command line: parse, call cellkit, print."""
