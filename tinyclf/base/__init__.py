"""What everything rests on: errors, files, sizes, resources and plugins."""
