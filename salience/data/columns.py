"""Names of the columns of tables of fixations; a fast import, for settings."""

import csv

from salience.system.errors import UserError, did_you_mean

# accepted names of each role's column; `columns` of `parse_columns` replaces them
ROLES = {
    "image": ("image", "picture", "stimulus", "filename"),
    "x": ("x",),
    "y": ("y",),
    "subject": ("subject", "observer", "participant"),
    "t": ("t",),
    "duration": ("duration",),
    "order": ("order",),
}


def parse_columns(text: str) -> dict[str, str]:
    """Return the name of the column of each role in text such as `image=Stimulus,x=FPOGX`.

    A name that contains a comma stands in double quotes, with its role: `"x=X, left"`.

    Args:
        text: the value of --columns; "" for none.

    Raises:
        UserError: a part is not ROLE=NAME, a role is unknown, or one occurs twice.

    >>> parse_columns('image=Stimulus, "x=X, px"')
    {'image': 'Stimulus', 'x': 'X, px'}
    """
    found: dict[str, str] = {}
    try:
        parts = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise UserError(f"--columns {text}: {error}.") from error
    for part in parts:
        role, equals, name = (word.strip() for word in part.partition("="))
        if not equals or not name:
            raise UserError(f"--columns {text}: '{part}' is not ROLE=NAME, such as x=FPOGX.")
        if role not in ROLES:
            raise UserError(f"--columns {text}: unknown role '{role}'. {did_you_mean(role, ROLES)}")
        if role in found:
            raise UserError(f"--columns {text} names the column of '{role}' twice.")
        found[role] = name
    return found
