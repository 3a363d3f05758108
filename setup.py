"What pyproject.toml cannot say: the packages that are found, and beside them the folder data/ as one more."
from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["facecp_nb*"]), "facecp_nb.shipped"])
