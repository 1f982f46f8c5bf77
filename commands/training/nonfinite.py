"""Handles a non-finite loss of a training step: stop, skip the step, or rewind the epoch.

The loss is computed before the step's update, so the weights may already be non-finite when the
loss is read. Training continues from a copy of the weights before the step.
"""

from typing import Any

from commands.training.checkpoint import Arrays, Checkpoints, State, nonfinite_array
from salience.system.errors import UserError

MAX_SKIPPED_IN_A_ROW = 10  # consecutive steps
MAX_REWINDS = 3  # per epoch
MAX_NAMED = 3  # pictures named in a message; the file lists all


class NonfiniteGuard:
    """Implements `--on_nan`.

    Args:
        on_nan: policy, one of `config.ON_NAN`.
        state: variables of the training.
        checkpoints: checkpoints of the run, for the start of the epoch.
        incidents: earlier steps with a non-finite loss; new ones are appended.
    """

    def __init__(
        self,
        on_nan: str,
        state: State,
        checkpoints: Checkpoints,
        incidents: list[dict[str, Any]],
    ) -> None:
        self.policy, self.state, self.checkpoints = on_nan, state, checkpoints
        self.incidents = incidents
        self.before: Arrays = {}
        self.in_a_row = 0

    def copy_variables(self) -> None:
        """Copy the variables before a step, unless the policy is to stop."""
        if self.policy != "stop":
            self.before = self.state.capture(whole=False)

    def has_finite_weights(self) -> bool:
        """Return True if the weights are finite after a step with a finite loss.

        Detects non-finite weights: a step may have a finite loss but infinite gradients. With the
        policy to stop, they are detected at the next save (`Epochs.save`).
        """
        if self.policy != "stop":
            after = self.state.capture(whole=False)
            if nonfinite_array(after):
                return False
            self.before = after
        self.in_a_row = 0
        return True

    def handle_nonfinite(self, epoch: int, step: int, loss: float, pictures: list[str]) -> str:
        """Handle a step with a non-finite loss; return a message.

        Args:
            epoch: number of the epoch, from 1.
            step: number of the step in the epoch, from 1.
            loss: NaN or infinity.
            pictures: names of the step's pictures.

        Raises:
            UserError: the policy is to stop, or steps were skipped or epochs rewound too often.
        """
        incident = {"epoch": epoch, "step": step, "loss": str(loss), "pictures": pictures}
        self.incidents.append({**incident, "done": self.policy})
        self.in_a_row += 1
        more = ", ..." if len(pictures) > MAX_NAMED else ""
        what = (
            f"epoch {epoch}, step {step}: the loss is {loss} for "
            f"{', '.join(pictures[:MAX_NAMED])}{more} (all in nonfinite.json)"
        )
        if self.policy == "stop":
            raise UserError(
                f"{what}. The weights of earlier epochs are kept. Look at these pictures and their "
                "maps, try a lower --learning_rate, or --on_nan skip."
            )
        rewinds = sum(i["epoch"] == epoch for i in self.incidents)
        if self.policy == "rewind" and rewinds > MAX_REWINDS:
            raise UserError(
                f"{what}; this epoch has been rewound {MAX_REWINDS} times. The weights of earlier "
                "epochs are kept. Try a lower --learning_rate."
            )
        if self.in_a_row > MAX_SKIPPED_IN_A_ROW:
            raise UserError(
                f"{what}, and so it was for the {MAX_SKIPPED_IN_A_ROW} steps before. The weights "
                "of earlier epochs are kept. Try a lower --learning_rate."
            )
        # exclude this step from the epoch's means
        self.state.restore(self.before, "network", "optimizer", "metrics", whole=False)
        if self.policy == "skip":
            return f"warning: {what}; the step is skipped"
        self.state.restore(self.checkpoints.between_epochs().arrays, "network", "optimizer")
        return f"warning: {what}; the weights are reset to the start of the epoch"
