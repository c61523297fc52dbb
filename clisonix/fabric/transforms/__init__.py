"""Changes of batches of windows, on their device, that keep masks honest."""

from clisonix.fabric.transforms.chain import Chain, PerModality, Transform
from clisonix.fabric.transforms.fir import Fir, band_pass, notch
from clisonix.fabric.transforms.iir import Iir, iir_band_pass, iir_notch
from clisonix.fabric.transforms.logmel import LogMel
from clisonix.fabric.transforms.reference import Reference
from clisonix.fabric.transforms.scale import RobustScale

__all__ = [
    "Chain",
    "Fir",
    "Iir",
    "LogMel",
    "PerModality",
    "Reference",
    "RobustScale",
    "Transform",
    "band_pass",
    "iir_band_pass",
    "iir_notch",
    "notch",
]
