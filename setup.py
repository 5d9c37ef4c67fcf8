"""Builds the package with the bundled model in it; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

MODEL = Path("checkpoints/nietzsche")


class BuildWithModel(build_py):
    """Copies the model from the clone's checkpoints into the build; an editable install finds it in the clone."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "jaxlm" / "bundled" / MODEL.name
            shutil.rmtree(target, ignore_errors=True)  # An earlier build may have left another model there.
            shutil.copytree(MODEL, target, ignore=shutil.ignore_patterns(".*"))


setup(cmdclass={"build_py": BuildWithModel})
