"""What is done where a step's loss is no number: stop, leave the step out, or go back.

The loss is computed from the weights before the step's update, so that a loss that is no number has
spoilt them by the time it is seen. What was kept of them before is what training goes on from.
"""

from typing import Any

from commands.training.checkpoint import Arrays, Checkpoints, State, unsound
from salience.system.errors import UserError

MOST_IN_A_ROW = 10  # steps left out one after the other
MOST_REWINDS = 3  # of one epoch
NAMED = 3  # pictures named in a line; the file names all


class NonfiniteGuard:
    """Keeps what `--on_nan` needs, and carries it out.

    Args:
        on_nan: of `config.ON_NAN`.
        state: what training changes.
        checkpoints: where the epoch's start is to be found.
        incidents: what has happened before; added to.
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

    def keep(self) -> None:
        """Keep what a step is about to change, where that may be wanted back."""
        if self.policy != "stop":
            self.before = self.state.capture(whole=False)

    def passes(self) -> bool:
        """Note a step whose loss is a number; return whether the weights are numbers, too.

        What an update with a finite loss and an infinite gradient has spoilt is seen here. Without
        copies it is seen when training is saved (`Epochs.save`).
        """
        if self.policy != "stop":
            after = self.state.capture(whole=False)
            if unsound(after):
                return False
            self.before = after
        self.in_a_row = 0
        return True

    def meet(self, epoch: int, step: int, loss: float, pictures: list[str]) -> str:
        """Deal with a step whose loss is no number; return a line that says how.

        Args:
            epoch: which, from 1.
            step: which of it, from 1.
            loss: nan or an infinity.
            pictures: those of the step.

        Raises:
            UserError: training is to end, or what was tried has been tried too often.
        """
        incident = {"epoch": epoch, "step": step, "loss": str(loss), "pictures": pictures}
        self.incidents.append({**incident, "done": self.policy})
        self.in_a_row += 1
        more = ", ..." if len(pictures) > NAMED else ""
        what = (
            f"epoch {epoch}, step {step}: the loss is {loss} for "
            f"{', '.join(pictures[:NAMED])}{more} (all in nonfinite.json)"
        )
        if self.policy == "stop":
            raise UserError(
                f"{what}. The weights of the epochs before are kept. Look at these pictures and "
                "their maps, try a lower --learning_rate, or --on_nan skip."
            )
        rewinds = sum(i["epoch"] == epoch for i in self.incidents)
        if self.policy == "rewind" and rewinds > MOST_REWINDS:
            raise UserError(
                f"{what}; this epoch has been rewound before. The weights of the epochs before are "
                "kept. Try a lower --learning_rate."
            )
        if self.in_a_row > MOST_IN_A_ROW:
            raise UserError(
                f"{what}, as it was for the {MOST_IN_A_ROW} steps before. The weights of the "
                "epochs before are kept. Try a lower --learning_rate."
            )
        # the means over the epoch go on without this step
        self.state.restore(self.before, "network", "optimizer", "metrics", whole=False)
        if self.policy == "skip":
            return f"warning: {what}; the step is left out"
        self.state.restore(self.checkpoints.between_epochs().arrays, "network", "optimizer")
        return f"warning: {what}; back to the weights of the epoch's start"
