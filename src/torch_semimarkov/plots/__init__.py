"""Pictures of segmentations, durations, calibration and training, as matplotlib figures.

matplotlib is loaded at the first call (extra ``plots``). The figures belong to no global state:
show them in a notebook, or write them with :func:`save_figure`.
"""

from torch_semimarkov.plots.calibration import plot_coverage, plot_reliability, plot_selective
from torch_semimarkov.plots.durations import plot_durations
from torch_semimarkov.plots.saving import save_figure
from torch_semimarkov.plots.segmentation import plot_segmentation
from torch_semimarkov.plots.training import plot_training

__all__ = [
    "plot_coverage",
    "plot_durations",
    "plot_reliability",
    "plot_segmentation",
    "plot_selective",
    "plot_training",
    "save_figure",
]
