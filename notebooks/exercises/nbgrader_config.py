"""Settings of the course: every nbgrader command that runs in this folder reads them, and so does course.py."""

import sys
from pathlib import Path

from nbgrader.converters import Autograde

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from sturdy import Sturdy  # noqa: E402 (lies beside this file)

c = get_config()  # traitlets gives it to this file

c.CourseDirectory.root = str(HERE)
c.CourseDirectory.course_id = "qwen3-scratch"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}

# A cell that takes longer is stopped, and the cells after it still run.
c.Execute.timeout = 120
c.OverwriteCells.add_missing_cells = True  # a check that was deleted comes back
usual = Autograde.autograde_preprocessors.default_args[0]
c.Autograde.autograde_preprocessors = [Sturdy, *usual[1:]]
