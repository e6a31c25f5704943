"""What runs, in what order: one flow a file, and the command line."""
