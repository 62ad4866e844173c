"""The commands, a file per group: their arguments, and what they call, which is imported when it is called."""
