"""Broken and hostile files of every format that is read, made by the hundred and read in processes that are watched."""
