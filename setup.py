"""Installs the top-level folders of the repository as subpackages of `longtake`, its only import name."""

from setuptools import find_packages, setup

FOLDERS = ("pipeline", "actors", "jobs")

setup(
    packages=[
        "longtake",
        *(f"longtake.{name}" for name in find_packages(include=[*FOLDERS, *(f"{folder}.*" for folder in FOLDERS)])),
    ],
    package_dir={"longtake": "longtake", **{f"longtake.{folder}": folder for folder in FOLDERS}},
)
