"""Train the weights that come with the program, again: `make weights OSIE=PATH EYECROWD=PATH`.

    python examples/train_weights.py OSIE EYECROWD [--vgg16 FILE] [--runs FOLDER] [--output FILE]

Two trainings, one after the other, on the train splits of both sets; OSIE's test pictures are
scored last, and nothing is chosen by them. What was interrupted goes on with the same command.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

import quiet
import weight_files

LOSS = ["--loss", "kld+cc+0.2*nss", "--optimizer", "adam", "--decay", "0"]
PRECISION = ["--precision", "mixed_bfloat16"]
# by run: its settings, besides data and folders. The prior of 240x320 fits 288x384, too.
STAGES = {
    "head": [
        "--freeze_backbone", "True", "--dataset", "osie", "--rows", "240", "--cols", "320", *LOSS,
        "--learning_rate", "1e-3", "--learning_rate_end", "1e-4", "--epochs", "6", *PRECISION,
    ],
    "blocks": [
        "--freeze_backbone", "False", "--fixed_blocks", "3", "--dataset", "osie", "eyecrowd",
        "--test_share", "0", "--rows", "288", "--cols", "384", *LOSS, "--learning_rate", "1e-4",
        "--learning_rate_end", "1e-5", "--epochs", "5", "--patience", "5", "--flip", "True",
        *PRECISION,
    ],
}  # fmt: skip
SCORES = ("cc", "nss", "auc_judd", "sauc", "ig", "sim", "kld")
ABOUT = {
    "data": "OSIE: 450 training pictures of its split.json (the test split is never trained or "
    "chosen on); EyeCrowd: 450 of 500 pictures; the others validated.",
    "licences": {
        "VGG16 on ImageNet": "CC BY 4.0, Simonyan and Zisserman",
        "OSIE": "MIT, Xu et al. 2014",
        "EyeCrowd": "MIT, Jiang et al. 2014",
        "these weights": "as the program (MIT); name the three above",
    },
    "limits": "Free viewing of photographs for a few seconds by adults in a laboratory. Not for "
    "web pages, text, drawings, searching, video games or medical pictures, and nothing about a "
    "single person can be told from it.",
}


def main(words: argparse.Namespace) -> None:
    """Train, score and write the weights with their card."""
    first = words.runs / "head" / "best.weights.h5"
    start = ["--backbone_weights", str(words.vgg16)] if words.vgg16 else []
    call("train", *STAGES["head"], "--data", words.osie, *start, *into(words.runs / "head"))
    call("train", *STAGES["blocks"], "--data", words.osie, words.eyecrowd, "--init_weights", first,
         *into(words.runs / "blocks"))  # fmt: skip
    best = words.runs / "blocks" / "best.weights.h5"
    scored = words.runs / "test"
    call("evaluate", "--dataset", "osie", "--data", words.osie, "--weights", best,
         "--metrics", ",".join(SCORES), "--mirror", "True", "--output", scored)  # fmt: skip
    save(best, words.output, json.loads((scored / "metrics.json").read_text(encoding="utf-8")))


def call(*words: object) -> None:
    """Run a command of the program; end where it fails."""
    done = subprocess.run([sys.executable, "main.py", *map(str, words)], cwd=PROJECT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def into(folder: Path) -> list[str]:
    """Return the flags of a training that writes to a folder alone."""
    return ["--output", str(folder), "--weights_dir", str(folder / "weights"), "--resume", "True"]


def save(best: Path, output: Path, metrics: dict[str, Any]) -> None:
    """Write weights in half precision, with a card that says how they came about."""
    quiet.import_keras()
    from model import load_model

    card = weight_files.read_card(best)
    # where things lay on the machine of the training is nobody's business
    own = {"data": [], "output": None, "weights_dir": "weights", "init_weights": None,
           "backbone_weights": None, "resume": False}  # fmt: skip
    card["config"] |= own
    card["run"] = "examples/train_weights.py"
    card["trained"] = [f"main.py train {' '.join(stage)}" for stage in STAGES.values()]
    card["scores"] = metrics
    weight_files.save(load_model(best), output, card | ABOUT, half=True)
    print(f"wrote {output}, {output.stat().st_size / 1e6:.1f} MB")


def parsed() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("osie", "eyecrowd"):
        parser.add_argument(name, type=Path, help="folder of the data set")
    parser.add_argument("--vgg16", type=Path, help="ImageNet weights; default: as main.py train")
    parser.add_argument("--runs", type=Path, default=Path("runs/weights"))
    parser.add_argument("--output", type=Path, default=PROJECT / "weights/mlnet-osie.weights.h5")
    words = parser.parse_args()
    # the commands run in the project's folder
    for name in ("osie", "eyecrowd", "vgg16", "runs", "output"):
        value = getattr(words, name)
        setattr(words, name, value.absolute() if value else None)
    return words


if __name__ == "__main__":
    main(parsed())
