"""tinyclf: train image classifiers that go on learning on a microcontroller."""

__version__ = "0.1.0"
