"""How good logits are: metrics of one class or of several labels per image, bootstrap intervals, tables for people."""

from tinyclf.workstation.metrics.calibration import Calibration, calibrate
from tinyclf.workstation.metrics.intervals import bootstrap
from tinyclf.workstation.metrics.multi import MultiMetrics, measure_multi
from tinyclf.workstation.metrics.probabilities import binary_cross_entropy, cross_entropy, log_odds, sigmoid
from tinyclf.workstation.metrics.ranking import Ranking, Threshold, rank
from tinyclf.workstation.metrics.single import Metrics, measure
from tinyclf.workstation.metrics.tables import interval_lines, most_confused, percent

__all__ = [
    "Calibration",
    "Metrics",
    "MultiMetrics",
    "Ranking",
    "Threshold",
    "binary_cross_entropy",
    "bootstrap",
    "calibrate",
    "cross_entropy",
    "interval_lines",
    "log_odds",
    "measure",
    "measure_multi",
    "most_confused",
    "percent",
    "rank",
    "sigmoid",
]
