"""What pyproject.toml cannot say: ``kernels/`` at the top level is installed as ``ldeq.kernels``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ldeq", "ldeq.*"]), "ldeq.kernels"],
    package_dir={"ldeq": "ldeq", "ldeq.kernels": "kernels"},
    package_data={"ldeq": ["py.typed", "weights/*.safetensors", "weights/*.md"]},
)
