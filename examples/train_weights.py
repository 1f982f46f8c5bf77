"""Reproduce the included weights: `make weights OSIE=PATH EYECROWD=PATH`.

    python examples/train_weights.py OSIE EYECROWD [--vgg16 FILE] [--runs FOLDER] [--output FOLDER]
        [--networks mlnet multiscale]

For each network, the script runs trainings and averages some of their weights files. The average
has better validation scores than each of the files. OSIE's test pictures are scored last and are
not used for any choice. The calibration for densities is fitted on OSIE's validation pictures. The
same command resumes an interrupted run.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from salience.measures.density import CALIBRATION
from salience.measures.finish import GENERAL, MAP_BLUR
from salience.networks import weight_files
from salience.system import quiet

PRECISION = ["--precision", "mixed_bfloat16"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        stages: settings of each run, without folders. The first, `head`, starts from ImageNet, the
            others from the first.
        averaged: weights files whose mean is the network; the first determines the architecture.
        data: what the network was trained on, for the card.
        scored: data sets of which test pictures were kept back.
        has_sets: whether the network has numbers of each data set (`--set`).
    """

    stages: dict[str, list[str]]
    averaged: tuple[str, ...]
    data: str
    scored: tuple[str, ...] = ("osie", "eyecrowd")
    has_sets: bool = False

    def of_set(self, name: str) -> tuple[str, ...]:
        """Return the words of `evaluate` that choose the numbers of a data set."""
        return ("--set", name) if self.has_sets else ()


LOSS = ["--loss", "kld+cc+0.2*nss", "--optimizer", "adam", "--decay", "0"]
BLOCKS = ["--freeze_backbone", "False", "--fixed_blocks", "3", "--flip", "True"]
MLNET = [*BLOCKS, *LOSS]
# The prior of 240x320 also fits 288x384.
MLNET_STAGES = {
    "head": [
        "--freeze_backbone", "True", "--dataset", "osie", "--rows", "240", "--cols", "320", *LOSS,
        "--learning_rate", "1e-3", "--learning_rate_end", "1e-4", "--epochs", "6",
    ],
    "osie": [
        *MLNET, "--dataset", "osie", "--rows", "240", "--cols", "320", "--learning_rate", "1e-4",
        "--learning_rate_end", "6.4e-5", "--epochs", "3",
    ],
    "both": [
        *MLNET, "--dataset", "osie", "eyecrowd", "--test_share", "0", "--rows", "288", "--cols",
        "384", "--learning_rate", "1e-4", "--learning_rate_end", "1e-5", "--epochs", "5",
    ],
}  # fmt: skip
MULTISCALE = [
    "--model", "multiscale", "--dataset", "osie", "eyecrowd", "--rows", "480", "--cols", "640",
]  # fmt: skip
RATES = ["--learning_rate", "1e-4", "--learning_rate_end", "2e-6"]
MULTISCALE_STAGES = {
    "head": [
        *MULTISCALE, "--flip", "True", "--loss", "nll+cc", "--learning_rate", "1e-3", "--epochs",
        "5",
    ],
    **{
        f"{name}-{seed}": [
            *MULTISCALE, *BLOCKS, "--loss", loss, *RATES, "--epochs", epochs, "--patience", epochs,
            "--seed", str(seed),
        ]
        for name, loss, epochs in (("cc", "nll+cc", "7"), ("twice-cc", "nll+2*cc", "5"))
        for seed in (1, 2)
    },
}  # fmt: skip
RECIPES = {
    "mlnet": Recipe(
        MLNET_STAGES,
        ("both/best", "both/last", "osie/best"),
        "OSIE: 450 training pictures of its split.json (the test split is never trained or "
        "chosen on); EyeCrowd: 450 of 500 pictures; the others validated.",
        scored=("osie",),
    ),
    "multiscale": Recipe(
        MULTISCALE_STAGES,
        tuple(f"{stage}/best" for stage in MULTISCALE_STAGES if stage != "head"),
        "OSIE: 450 training pictures of its split.json; EyeCrowd: 350 of 500 pictures; 50 of each "
        "validated. The test pictures of both are never trained or chosen on.",
        has_sets=True,
    ),
}
SCORES = ("cc", "nss", "auc_judd", "sauc", "ig", "sim", "kld")
ABOUT = {
    "licences": {
        "VGG16 on ImageNet": "CC BY 4.0, Simonyan and Zisserman",
        "OSIE": "MIT, Xu et al. 2014",
        "EyeCrowd": "MIT, Jiang et al. 2014",
        "these weights": "as the program (MIT); name VGG16 (CC BY 4.0), OSIE and EyeCrowd (MIT)",
    },
    "limits": "Free viewing of photographs for a few seconds by adults in a laboratory. Not for "
    "web pages, text, drawings, searching, video games or medical pictures, and nothing about a "
    "single person can be told from it.",
}


def main(words: argparse.Namespace) -> None:
    """Train, score and write the weights of each network with their card."""
    folders = {"osie": words.osie, "eyecrowd": words.eyecrowd}
    fixed = words.osie / "split.json"
    if not fixed.exists():
        sys.exit(
            f"error: {fixed} is missing: lists of file names under train, val and test. Those of "
            "val and test are in weights/mlnet-osie.json under held_out; all others are for train."
        )
    names = json.loads(fixed.read_text(encoding="utf-8"))
    held_out = {split: names[split] for split in ("val", "test")}
    for network in words.networks:
        recipe, runs = RECIPES[network], words.runs / network
        output = words.output / f"{network}-osie{weight_files.SUFFIX}"
        for stage, settings in recipe.stages.items():
            start = ["--backbone_weights", words.vgg16] if words.vgg16 else []
            if stage != "head":
                start = ["--init_weights", runs / "head" / "best.weights.h5"]
            data = [folders[name] for name in folders if name in settings]
            run = runs / stage
            call("train", *settings, *PRECISION, "--data", *data, *start, "--output", run,
                 "--weights_dir", run / "weights", "--resume")  # fmt: skip
        files = [runs / f"{name}.weights.h5" for name in recipe.averaged]
        save(network, files, output, {}, held_out)
        scores = {}
        for split in ("val", "test"):
            scored = runs / split
            call("evaluate", "--dataset", "osie", "--data", words.osie, "--split", split,
                 "--weights", output, "--metrics", ",".join(SCORES), "--output", scored,
                 *recipe.of_set("osie"))  # fmt: skip
            scores[split] = model_scores(scored / "metrics.json")
        save(network, files, output, scores, held_out)
        call("calibrate", "--dataset", "osie", "--data", words.osie, "--weights", output)
        call("calibrate", "--dataset", "osie", "eyecrowd", "--data", words.osie, words.eyecrowd,
             "--weights", output)  # fmt: skip
        weight_files.amend(
            output, {weight_files.SCORES_ON: scores_on(folders, output, recipe, runs)}
        )
        print(f"wrote {output}, {output.stat().st_size / 1e6:.1f} MB")


def scores_on(
    folders: dict[str, Path], weights: Path, recipe: Recipe, runs: Path
) -> dict[str, dict[str, Any]]:
    """Return the scores of the finished weights on the test pictures of each data set."""
    found = {}
    for name in recipe.scored:
        scored, own = runs / f"test-{name}", recipe.of_set(name)
        call("evaluate", "--dataset", name, "--data", folders[name], "--weights", weights,
             "--metrics", ",".join(SCORES), "--output", scored, *own)  # fmt: skip
        pictures = json.loads((scored / "metrics.json").read_text(encoding="utf-8"))["pictures"]
        about = {"split": "test", "pictures": pictures, **({"set": name} if own else {})}
        found[name] = about | model_scores(scored / "metrics.json")
    return found


def call(*words: object) -> None:
    """Run a command of the program; exit if it fails."""
    done = subprocess.run([sys.executable, "main.py", *map(str, words)], cwd=PROJECT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def command_of(stage: str, settings: list[str]) -> str:
    """Return a stage's command for the card, without the paths of the data."""
    start = "" if stage == "head" else " --init_weights head/best.weights.h5"
    return f"main.py train {' '.join([*settings, *PRECISION])}{start}"


def save(
    network: str,
    files: list[Path],
    output: Path,
    scores: dict[str, Any],
    held_out: dict[str, Any],
) -> None:
    """Write the mean of weights in half precision, with a card that describes its training.

    Args:
        network: key of RECIPES.
        files: weights files of one network; the first determines the architecture.
        output: the file to write.
        scores: scores on OSIE's pictures, by split.
        held_out: names of OSIE's pictures that were not trained on, by split.
    """
    quiet.import_keras()
    from model import load_model

    model, card = load_model(files[0]), weight_files.read_card(files[0])
    for of_one in (CALIBRATION, GENERAL, MAP_BLUR, "box"):  # fitted to one network, not to the mean
        card.pop(of_one, None)
    total = model.get_weights()
    for file in files[1:]:
        weight_files.load(model, file)
        total = [a + b for a, b in zip(total, model.get_weights(), strict=True)]
    # the random state of dropout is an integer and is not averaged
    model.set_weights([a / len(files) if a.dtype.kind == "f" else a for a in total])
    # do not publish the paths of the training machine
    card["config"] |= {
        "data": [], "output": None, "weights_dir": "weights", "init_weights": None,
        "backbone_weights": None, "resume": False,
    }  # fmt: skip
    recipe = RECIPES[network]
    card |= {
        "run": "examples/train_weights.py",
        "trained": [command_of(*stage) for stage in recipe.stages.items()],
        "held_out": held_out,
        "averaged": recipe.averaged,
        "data": recipe.data,
        "metrics": {f"val_{name}": value for name, value in scores.get("val", {}).items()},
        "scores": scores,
    }
    weight_files.save(model, output, card | ABOUT, half=True)


def model_scores(file: Path) -> dict[str, float]:
    """Return the model's mean scores from metrics.json of `evaluate`."""
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"].values()
    model = next(row for row in rows if row["kind"] == "model")
    return {name: round(model["means"][name]["mean"], 4) for name in SCORES}


def parsed() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("osie", "eyecrowd"):
        parser.add_argument(name, type=Path, help="folder of the data set")
    parser.add_argument("--vgg16", type=Path, help="ImageNet weights; default: as main.py train")
    parser.add_argument("--runs", type=Path, default=Path("runs/weights"))
    parser.add_argument("--output", type=Path, default=PROJECT / "weights")
    parser.add_argument("--networks", nargs="+", choices=RECIPES, default=list(RECIPES))
    words = parser.parse_args()
    # the commands run in the project's folder
    for name in ("osie", "eyecrowd", "vgg16", "runs", "output"):
        value = getattr(words, name)
        setattr(words, name, value.absolute() if value else None)
    return words


if __name__ == "__main__":
    main(parsed())
