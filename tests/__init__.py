"""Tests: folders as those of the package, and kit/ with what they share."""
