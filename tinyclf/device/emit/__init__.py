"""Graph, plan and values -> the files of a C project."""
