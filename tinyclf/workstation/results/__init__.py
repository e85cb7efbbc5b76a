"""What trained runs are good for: evaluation, prediction, export, pictures, reports."""
