"""Help on each metric for readers of a page: what it asks, chance, best, and when to look at it."""

from typing import NamedTuple


class Help(NamedTuple):
    """Help on a metric; `look` says when to look at it."""

    asks: str
    chance: str
    best: str
    look: str


# by key of METRICS
METRIC_HELP = {
    "cc": Help(
        "Do map and density of fixations rise and fall together?",
        "0", "1",
        "First choice to compare maps: misses and false alarms count alike.",
    ),
    "nss": Help(
        "How far above its mean is the map at the fixations, in standard deviations?",
        "0", "no limit; see people",
        "First choice where fixations are at hand. A false alarm costs little if it is weak.",
    ),
    "auc_judd": Help(
        "Does a fixated pixel get a higher value than any other pixel?",
        "0.5", "below 1; see people",
        "For the order of values alone. Good maps differ little, and a centre bias scores high.",
    ),
    "auc_borji": Help(
        "Does a fixated pixel get a higher value than pixels drawn at random?",
        "0.5", "below 1; see people",
        "To compare with papers that report it; otherwise AUC-Judd says the same.",
    ),
    "sauc": Help(
        "Does a fixated pixel get a higher value than pixels fixated on other pictures?",
        "0.5", "below 1; see people",
        "To see what a map knows beside the centre bias, which scores 0.5.",
    ),
    "ig": Help(
        "How many bits per fixation does the map tell beyond the centre bias?",
        "0 for the centre bias", "no limit; see people",
        "For densities. A map that was never fitted as a density can be below 0.",
    ),
    "ll": Help(
        "How many bits per fixation does the map tell beyond a uniform map?",
        "0 for a uniform map", "no limit; see people",
        "For densities, with the centre bias counted as knowledge.",
    ),
    "sim": Help(
        "How much do map and density overlap, as histograms of sum 1?",
        "above 0; see uniform", "1",
        "For maps as densities. Misses cost more than false alarms.",
    ),
    "kld": Help(
        "How much is lost if the map is taken for the density?",
        "see uniform", "0",
        "To find misses: an area that people look at and the map excludes costs most.",
    ),
    "emd": Help(
        "How far must the map's mass be moved to become the density?",
        "see uniform", "0",
        "Where near misses should count less than far ones.",
    ),
    "ssim": Help(
        "Do map and density look alike in small windows?",
        "above 0; see uniform", "1",
        "To compare with papers that report it. Large dark areas raise it.",
    ),
    "mse": Help(
        "How large is the squared error by pixel, of maps from 0 to 1?",
        "see uniform", "0",
        "To compare with papers that report it. Large dark areas lower it.",
    ),
}  # fmt: skip
