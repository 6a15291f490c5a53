"""The command line: arguments in, files out. One file a group of commands; heavy imports wait until needed."""
